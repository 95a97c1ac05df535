"""The errors of this service alone; `ameide.workflow.v1.Reason` lists their reasons."""

from api_common.errors import ValidationError


class InvalidGraphError(ValidationError):
    """The definition of a workflow is not a graph that can run."""

    reason = "INVALID_GRAPH"
    sentence = "The definition breaks a rule."
