"""The reasons that only this service has; `ameide.user.v1.Reason` lists them."""

from api_common.errors import ConflictError


class EmailTakenError(ConflictError):
    """A live user of the tenant has this e-mail address."""

    reason = "EMAIL_TAKEN"
