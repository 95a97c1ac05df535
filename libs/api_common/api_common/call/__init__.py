"""Package call holds what travels with a call: its headers, and the context that a servicer gets."""

from api_common.call.context import MAX_CALL_SECONDS, CallContext, RequestContext, StreamContext
from api_common.call.headers import CLIENT_HEADERS, RequestHeaders, follow_trace, outgoing_headers, read_headers

__all__ = [
    "CLIENT_HEADERS",
    "MAX_CALL_SECONDS",
    "CallContext",
    "RequestContext",
    "RequestHeaders",
    "StreamContext",
    "follow_trace",
    "outgoing_headers",
    "read_headers",
]
