"""Identity of a request across processes: request id and W3C trace context, from metadata and to metadata."""

import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

import uuid_utils

from api_common.call.context import CallContext
from api_common.contract import IF_MATCH, IF_NONE_MATCH, UUID_PATTERN
from api_common.telemetry import Trace

REQUEST_ID: Final = "x-request-id"
"""Metadata key of the id that a request keeps across processes, a UUID."""
TRACEPARENT: Final = "traceparent"
"""Metadata key of the W3C trace context."""
AUTHORIZATION: Final = "authorization"
"""Metadata key of the credential, `Bearer <token>`."""
IDEMPOTENCY_KEY: Final = "idempotency-key"
"""Metadata key under which a client may repeat a call without a second effect."""
CACHE_CONTROL: Final = "cache-control"
"""Metadata key of the age that a client accepts, `max-age=<seconds>`."""
MAX_AGE_SECONDS: Final = 30
"""The greatest age that an answer may have; who accepts more gets this."""
CLIENT_HEADERS: Final = frozenset(
    {REQUEST_ID, TRACEPARENT, AUTHORIZATION, IDEMPOTENCY_KEY, IF_MATCH, IF_NONE_MATCH, CACHE_CONTROL}
)
"""Metadata keys that a client may use; the edge removes all others that gRPC does not need."""
_ORIGINAL_PATH: Final = "x-envoy-original-path"
_ACCEPT_ENCODING: Final = "x-ameide-accept-encoding"
# All values are kept: of If-None-Match because it is a list, of the others to notice a second one.
_NEVER_CHOSEN: Final = frozenset({AUTHORIZATION, IDEMPOTENCY_KEY, IF_MATCH, IF_NONE_MATCH, CACHE_CONTROL})

_MAX_AGE: Final = re.compile(r"max-age=([0-9]{1,9})")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class RequestHeaders(NamedTuple):
    """The metadata that we read from a call; the rest is ignored.

    No frozen dataclass: each field of one costs a function call (docs/performance.md).
    """

    request_id: str
    """UUID; a new one if the client sent no UUID."""
    trace: Trace
    """This call in the trace that its W3C context names; in a new, unsampled one if that is malformed or absent."""
    authorization: tuple[str, ...]
    """Every `authorization` value; more than one is refused later."""
    idempotency_key: tuple[str, ...]
    """Every `idempotency-key` value."""
    if_match: tuple[str, ...] = ()
    """Every `if-match` value."""
    if_none_match: tuple[str, ...] = ()
    """Every `if-none-match` value."""
    from_rest: bool = False
    """The edge made this call from a REST request. It sets the header and removes it from clients' requests."""
    accepts_gzip: bool = False
    """The client beyond the edge reads gzip. The edge tells us, because gRPC hides `grpc-accept-encoding`."""
    max_age_seconds: int = 0
    """How old an answer may be, at most `MAX_AGE_SECONDS`; 0 if the client said nothing, or nothing clear."""

    @classmethod
    def read(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self:
        """Reads call metadata in one pass; never fails."""
        last: dict[str, str] = {}
        every: dict[str, tuple[str, ...]] = {}
        for key, value in metadata:
            if isinstance(value, bytes):
                continue
            if key in _NEVER_CHOSEN:
                every[key] = (*every.get(key, ()), value)
            else:
                last[key] = value
        request_id = last.get(REQUEST_ID, "")
        return cls(
            request_id=request_id if UUID_PATTERN.fullmatch(request_id) else str(uuid_utils.uuid4()),
            trace=follow_trace(last.get(TRACEPARENT, "")),
            authorization=every.get(AUTHORIZATION, ()),
            idempotency_key=every.get(IDEMPOTENCY_KEY, ()),
            if_match=every.get(IF_MATCH, ()),
            if_none_match=every.get(IF_NONE_MATCH, ()),
            from_rest=_ORIGINAL_PATH in last,
            accepts_gzip="gzip" in last.get(_ACCEPT_ENCODING, ""),
            max_age_seconds=_max_age(every[CACHE_CONTROL]) if CACHE_CONTROL in every else 0,
        )


def follow_trace(traceparent: str) -> Trace:
    """Returns our part of the trace that ``traceparent`` names; of a new, unsampled one if it is malformed.

    Source: https://www.w3.org/TR/trace-context/.
    """
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return Trace(os.urandom(16).hex(), parent_id="", sampled=False, span_id=os.urandom(8).hex())
    return Trace(match[1], match[2], sampled=bool(int(match[3], 16) & 1), span_id=os.urandom(8).hex())


def _max_age(values: tuple[str, ...]) -> int:
    """Returns the age that the `cache-control` headers accept. The edge has made the short form of longer ones.

    Source: RFC 9111, section 4.2.1: what is malformed, or said twice, makes every kept answer too old.
    """
    match = _MAX_AGE.fullmatch(values[0]) if len(values) == 1 else None
    return min(int(match[1]), MAX_AGE_SECONDS) if match else 0


def outgoing_headers(
    ctx: CallContext, *, token: str, span_id: str, idempotency_key: str
) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call to a sibling for the caller of ``ctx``.

    Args:
        token: the credential for the sibling.
        span_id: the span of the call itself, 16 hex digits.
        idempotency_key: empty sends none.
    """
    key = ((IDEMPOTENCY_KEY, idempotency_key),) if idempotency_key else ()
    traceparent = ctx.trace.parent_of(span_id)
    return ((AUTHORIZATION, f"Bearer {token}"), (REQUEST_ID, ctx.request_id), (TRACEPARENT, traceparent), *key)
