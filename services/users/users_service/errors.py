"""The errors of this service alone; `ameide.user.v1.Reason` lists their reasons."""

from api_common.errors import ConflictError, FailedPreconditionError


class EmailTakenError(ConflictError):
    """A live user of the tenant has this e-mail address."""

    reason = "EMAIL_TAKEN"


class ApiKeyLimitReachedError(FailedPreconditionError):
    """The service account has the largest allowed number of live API keys."""

    reason = "API_KEY_LIMIT_REACHED"
