"""The errors that callers may see, without transport and SQL.

Each class is one canonical case; `registry` maps it to the wire. Services and rooms derive the reasons that they alone
send from these, three lines each:

    class EmailTakenError(ConflictError):
        \"\"\"A live user of the tenant has this e-mail address.\"\"\"

        reason = "EMAIL_TAKEN"
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, Self

ViolationReason = Literal[
    "REQUIRED",
    "UNKNOWN",
    "DUPLICATE",
    "INVALID_FORMAT",
    "INVALID_VALUE",
    "TOO_LONG",
    "OUT_OF_RANGE",
    "NOT_FOUND",
    "CONFLICT",
    "NOT_ALLOWED",
    "REFUSED",
    "MORE",
]
"""The constants of the proto enum `ViolationReason`."""

# The violations that an error names in its text.
_MOST_SAID: Final = 3


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One malformed field of a request."""

    field: str
    """Path of the field in proto names, e.g. `user.email` or `requests[3].user.email`."""
    description: str
    """What is wrong with it, for people: the rest of a sentence that begins with the field."""
    reason: ViolationReason
    """What is wrong with it, for programs."""


@dataclass(frozen=True, slots=True)
class ResourceInfo:
    """The resource an error is about."""

    type: str
    """The message's name in lower case with underscores, e.g. `service_account`."""
    id: str
    """Its id, as the caller sent it."""


class DomainError(Exception):
    """The base of every error that a caller may see; `message`, `metadata` and the rest are public by contract.

    Args:
        message: one sentence for people, `sentence` if empty. It reaches the client: no secrets, SQL, hosts or class
            names.
        metadata: the dynamic parts of the message for programs (AIP-193).
        violations: the malformed fields.
        resource: the resource the error is about.
        retry_after_seconds: when the same call may succeed.
    """

    reason: ClassVar[str] = "INTERNAL"
    """The constant of the proto enum `Reason` for programs; unique per class."""
    sentence: ClassVar[str] = "Something went wrong on our side."
    """The message of an error that is raised without one."""

    def __init__(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        resource: ResourceInfo | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        # gRPC takes no text of another class, such as an enum's.
        self.message = str(message or self.sentence)
        super().__init__(self.message)
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.resource = resource
        self.retry_after_seconds = retry_after_seconds

    def told(self, name: Callable[[str], str] = str) -> str:
        """Returns the message and the first violations in one text, with each field as ``name`` calls it."""
        violations = [one for one in self.violations if one.description not in self.message]
        said = "; ".join(f"{name(one.field)} {one.description}" for one in violations[:_MOST_SAID])
        more = f"; and {len(violations) - _MOST_SAID} more" if len(violations) > _MOST_SAID else ""
        return f"{self.message} {said}{more}." if said else self.message

    def attach_item(self, item: str) -> None:
        """Names the item of a batch that the error is about, in front of every field and in the metadata.

        Args:
            item: path of the item in proto names, e.g. `requests[3]`.
        """
        self.metadata = {"item": item, **self.metadata}
        about = [replace(one, field=f"{item}.{one.field}") for one in self.violations]
        self.violations = tuple(about) or (FieldViolation(item, self.message, "REFUSED"),)


class ValidationError(DomainError):
    """The request is malformed, whatever the state of the system."""

    reason = "INVALID_REQUEST"
    sentence = "The request is malformed."

    @classmethod
    def of(cls, field: str, description: str, reason: ViolationReason, *, message: str = "") -> Self:
        """Returns the error of one malformed field; the arguments are those of a `FieldViolation`."""
        return cls(message, violations=[FieldViolation(field, description, reason)])


class UnauthenticatedError(DomainError):
    """There is no credential, or it does not verify."""

    reason = "UNAUTHENTICATED"
    sentence = "The credential is not valid."


class AuthorizationError(DomainError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"
    sentence = "The credential does not allow this."


class NotFoundError(DomainError):
    """The tenant has no such resource."""

    reason = "RESOURCE_NOT_FOUND"
    sentence = "There is no such resource."


class ConflictError(DomainError):
    """A resource with this identity exists."""

    reason = "ALREADY_EXISTS"
    sentence = "A resource with this identity exists."


class AbortedError(DomainError):
    """Another writer won; read again and decide again."""

    reason = "CONCURRENT_UPDATE"
    sentence = "Another request changed the same data; try again."


class FailedPreconditionError(DomainError):
    """The state of the system does not allow this."""

    reason = "INVALID_STATE"
    sentence = "The state of a resource does not allow this."


class OutOfRangeError(DomainError):
    """The request points past what is kept."""

    reason = "RESUME_TOKEN_EXPIRED"


class RateLimitError(DomainError):
    """The caller has used up its share for now."""

    reason = "RATE_LIMITED"
    sentence = "Too many requests."


class SlowReaderError(RateLimitError):
    """The messages of a stream were not read in time."""

    reason = "SLOW_READER"


class TooManyCallsError(RateLimitError):
    """The principal or its tenant has its share of calls under way."""

    reason = "TOO_MANY_CALLS"


class TooManyWatchesError(RateLimitError):
    """The principal or its tenant has its share of watches open."""

    reason = "TOO_MANY_WATCHES"


class QuotaExceededError(DomainError):
    """The tenant stores as many resources of the collection as it may; delete some, or ask for a higher quota."""

    reason = "QUOTA_EXCEEDED"


class PayloadTooLargeError(DomainError):
    """The message is larger than the limit."""

    reason = "PAYLOAD_TOO_LARGE"


class CallCancelledError(DomainError):
    """The caller went away."""

    reason = "CANCELLED"


class DeadlineExceededError(DomainError):
    """The deadline passed before the work was done."""

    reason = "DEADLINE_EXCEEDED"
    sentence = "The deadline passed before the work was done."


class ExternalServiceError(DomainError):
    """A part that the call needs does not answer now."""

    reason = "UNAVAILABLE"
    sentence = "A service that this call needs does not answer now."


class NotImplementedError_(DomainError):  # noqa: N801 - the plain name is a builtin's
    """The method is not switched on."""

    reason = "NOT_IMPLEMENTED"


class DataLossError(DomainError):
    """Stored data cannot be read back."""

    reason = "DATA_LOSS"


class InternalError(DomainError):
    """A defect on our side; what it was is in our log only."""

    reason = "INTERNAL"


class EtagMismatchError(AbortedError):
    """The etag names an older version of the resource."""

    reason = "ETAG_MISMATCH"
