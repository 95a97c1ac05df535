"""The errors of this service alone; `ameide.ipa.v1.Reason` lists their reasons."""

from api_common.errors import FailedPreconditionError, NotFoundError, ValidationError


class InvalidBindingsError(ValidationError):
    """The agent bindings do not fit the workflow revision."""

    reason = "INVALID_BINDINGS"
    sentence = "A binding is wrong."


class WorkflowNotFoundError(NotFoundError):
    """The IPA names a workflow that the tenant does not have, or has deleted."""

    reason = "WORKFLOW_NOT_FOUND"


class WorkflowRevisionNotFoundError(NotFoundError):
    """The workflow that the IPA names has no such revision."""

    reason = "WORKFLOW_REVISION_NOT_FOUND"


class AgentNotFoundError(NotFoundError):
    """The IPA binds an agent that the tenant does not have, or has deleted."""

    reason = "AGENT_NOT_FOUND"


class IncompleteIpaError(FailedPreconditionError):
    """The IPA names no workflow, so there is nothing to deploy."""

    reason = "INCOMPLETE_IPA"
