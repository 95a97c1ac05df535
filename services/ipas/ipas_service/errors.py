"""The reasons that only this service has; `ameide.ipa.v1.Reason` lists them."""

from api_common.errors import FailedPreconditionError, NotFoundError, ValidationError


class InvalidBindingsError(ValidationError):
    """The agent bindings do not fit the workflow revision."""

    reason = "INVALID_BINDINGS"


class WorkflowNotFoundError(NotFoundError):
    """The tenant has no live workflow that the IPA names."""

    reason = "WORKFLOW_NOT_FOUND"


class WorkflowRevisionNotFoundError(NotFoundError):
    """The workflow that the IPA names has no such revision."""

    reason = "WORKFLOW_REVISION_NOT_FOUND"


class AgentNotFoundError(NotFoundError):
    """The tenant has no live agent that the IPA binds."""

    reason = "AGENT_NOT_FOUND"


class IncompleteIpaError(FailedPreconditionError):
    """The IPA names no workflow, so there is nothing to deploy."""

    reason = "INCOMPLETE_IPA"
