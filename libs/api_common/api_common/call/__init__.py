"""Package call holds what travels with a call: its headers, and the context that a servicer gets."""

from api_common.call.context import MAX_CALL_SECONDS as MAX_CALL_SECONDS
from api_common.call.context import CallContext as CallContext
from api_common.call.context import RequestContext as RequestContext
from api_common.call.context import StreamContext as StreamContext
from api_common.call.headers import CLIENT_HEADERS as CLIENT_HEADERS
from api_common.call.headers import MAX_AGE_SECONDS as MAX_AGE_SECONDS
from api_common.call.headers import TRACEPARENT as TRACEPARENT
from api_common.call.headers import RequestHeaders as RequestHeaders
from api_common.call.headers import follow_trace as follow_trace
from api_common.call.headers import outgoing_headers as outgoing_headers
