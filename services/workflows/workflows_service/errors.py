"""The reasons that only this service has; `ameide.workflow.v1.Reason` lists them."""

from api_common.errors import ValidationError


class InvalidGraphError(ValidationError):
    """The definition of a workflow is not a graph that can run."""

    reason = "INVALID_GRAPH"
