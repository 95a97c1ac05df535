"""The reasons that only this service has; `ameide.user.v1.Reason` lists them."""

from api_common.errors import ConflictError, FailedPreconditionError


class EmailTakenError(ConflictError):
    """A live user of the tenant has this e-mail address."""

    reason = "EMAIL_TAKEN"


class ApiKeyLimitReachedError(FailedPreconditionError):
    """The service account has as many live API keys as it may."""

    reason = "API_KEY_LIMIT_REACHED"
