"""The one table from errors to the wire; the services' status codes and the edge's local replies both come from it.

Source: google/rpc/code.proto for the pairs of gRPC code and HTTP status, AIP-193 for reasons, AIP-194 for retries.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import grpc

from api_common.errors import domain as errors

ERROR_DOMAIN: Final = "ameide.dev"
"""The `domain` of every `google.rpc.ErrorInfo` we send."""


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """How one canonical error looks on the wire."""

    error: type[errors.DomainError]
    """The class; classes derived from it look the same but for their reason."""
    code: grpc.StatusCode
    """The gRPC status."""
    http_status: int
    """The status of the same answer over REST."""
    retryable: bool
    """Whether the same call may succeed when it is simply made again."""


@dataclass(frozen=True, slots=True)
class EdgeReply:
    """What the edge says when it answers by itself."""

    http_status: int
    """The HTTP status that the edge chose."""
    code: grpc.StatusCode
    """The gRPC status it stands for."""
    reason: str
    """The reason in the body."""
    message: str
    """The sentence in the body."""

    @property
    def rest_code(self) -> grpc.StatusCode:
        """The code in the body of JSON: a path that nobody serves is not found."""
        return grpc.StatusCode.NOT_FOUND if self.http_status == 404 else self.code


_S = grpc.StatusCode

REGISTRY: Final = (
    ErrorSpec(errors.ValidationError, _S.INVALID_ARGUMENT, 400, retryable=False),
    ErrorSpec(errors.UnauthenticatedError, _S.UNAUTHENTICATED, 401, retryable=False),
    ErrorSpec(errors.AuthorizationError, _S.PERMISSION_DENIED, 403, retryable=False),
    ErrorSpec(errors.NotFoundError, _S.NOT_FOUND, 404, retryable=False),
    ErrorSpec(errors.ConflictError, _S.ALREADY_EXISTS, 409, retryable=False),
    ErrorSpec(errors.AbortedError, _S.ABORTED, 409, retryable=False),
    ErrorSpec(errors.FailedPreconditionError, _S.FAILED_PRECONDITION, 400, retryable=False),
    ErrorSpec(errors.OutOfRangeError, _S.OUT_OF_RANGE, 400, retryable=False),
    ErrorSpec(errors.RateLimitError, _S.RESOURCE_EXHAUSTED, 429, retryable=True),
    ErrorSpec(errors.QuotaExceededError, _S.RESOURCE_EXHAUSTED, 429, retryable=False),
    ErrorSpec(errors.PayloadTooLargeError, _S.RESOURCE_EXHAUSTED, 413, retryable=False),
    ErrorSpec(errors.CallCancelledError, _S.CANCELLED, 499, retryable=False),
    ErrorSpec(errors.DeadlineExceededError, _S.DEADLINE_EXCEEDED, 504, retryable=True),
    ErrorSpec(errors.ExternalServiceError, _S.UNAVAILABLE, 503, retryable=True),
    ErrorSpec(errors.NotImplementedError_, _S.UNIMPLEMENTED, 501, retryable=False),
    ErrorSpec(errors.DataLossError, _S.DATA_LOSS, 500, retryable=False),
    ErrorSpec(errors.InternalError, _S.INTERNAL, 500, retryable=False),
)
"""One row per canonical error."""

EDGE_REPLIES: Final = (
    EdgeReply(400, _S.INVALID_ARGUMENT, "INVALID_REQUEST", "The request is malformed."),
    EdgeReply(401, _S.UNAUTHENTICATED, "UNAUTHENTICATED", "A valid credential is required."),
    EdgeReply(403, _S.PERMISSION_DENIED, "PERMISSION_DENIED", "The caller may not do this."),
    EdgeReply(404, _S.UNIMPLEMENTED, "METHOD_NOT_FOUND", "There is no such method."),
    EdgeReply(405, _S.UNIMPLEMENTED, "METHOD_NOT_FOUND", "There is no such method."),
    EdgeReply(408, _S.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "The request did not arrive in time."),
    EdgeReply(413, _S.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE", "The message is larger than the limit."),
    EdgeReply(415, _S.INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE", "The content type is not supported."),
    EdgeReply(426, _S.INVALID_ARGUMENT, "INVALID_REQUEST", "The protocol version is not supported."),
    EdgeReply(429, _S.RESOURCE_EXHAUSTED, "RATE_LIMITED", "Too many requests."),
    EdgeReply(431, _S.INVALID_ARGUMENT, "HEADERS_TOO_LARGE", "The headers are larger than the limit."),
    EdgeReply(500, _S.INTERNAL, "INTERNAL", "Something went wrong on our side."),
    EdgeReply(501, _S.UNIMPLEMENTED, "NOT_IMPLEMENTED", "The method is not switched on."),
    EdgeReply(502, _S.UNAVAILABLE, "UNAVAILABLE", "The service does not answer now."),
    EdgeReply(503, _S.UNAVAILABLE, "UNAVAILABLE", "The service does not answer now."),
    EdgeReply(504, _S.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "The deadline passed before the work was done."),
)
"""One row per HTTP status that the edge answers with by itself."""


class CredentialFault(StrEnum):
    """What a 401 says of the credential: what its bearer can find out alone, and needs to know to mend it."""

    SEVERAL = "The request has more than one credential."
    """Two tokens, or a token and an API key."""
    API_KEY = "The API key is not valid."
    """Whatever the cause is."""
    SCHEME = "The header authorization must be the word Bearer, a space and a JSON Web Token."
    """Another scheme or spelling (RFC 6750, section 2.1)."""
    MALFORMED = "The token is no JSON Web Token."
    """It cannot be read (RFC 7519)."""
    EXPIRED = "The token has expired."
    """Its signature is right, and its `exp` has passed."""
    ISSUER = "The token's issuer is unknown here."
    """Its `iss` is none of those that are configured."""
    KEY = "The token names a key that its issuer does not have."
    """Its `kid` is not in the issuer's key set."""


_ROWS: Final[dict[type, ErrorSpec]] = {spec.error: spec for spec in REGISTRY}


def spec_of(error: errors.DomainError) -> ErrorSpec:
    """Returns how ``error`` looks on the wire: the row of its class, or of the nearest class that this derives from."""
    return next(_ROWS[base] for base in type(error).__mro__ if base in _ROWS)
