"""The errors of this service alone; `ameide.agent.v1.Reason` lists their reasons."""

from api_common.errors import ValidationError


class InvalidToolsError(ValidationError):
    """Two tools of an agent have the same name, or an input schema is not a JSON Schema."""

    reason = "INVALID_TOOLS"
    sentence = "The tools break a rule."
