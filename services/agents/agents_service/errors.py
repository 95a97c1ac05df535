"""The reasons that only this service has; `ameide.agent.v1.Reason` lists them."""

from api_common.errors import ValidationError


class InvalidToolsError(ValidationError):
    """Two tools of an agent have one name, or an input schema is not one."""

    reason = "INVALID_TOOLS"
