"""What the edge answers by itself, from `EDGE_REPLIES`: rows of Envoy's `local_reply_config`, and a table for Lua."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from api_common.errors import EDGE_REPLIES, ERROR_DOMAIN, CredentialFault, EdgeReply

Node = dict[str, Any]

_RPC: Final = "type.googleapis.com/google.rpc."
_CEL: Final = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
_REPLIES: Final = {reply.http_status: reply for reply in EDGE_REPLIES}


def rows() -> list[Node]:
    """Returns the rows of `local_reply_config`: the first that matches counts; rows for gRPC precede rows for REST."""
    cases: list[tuple[EdgeReply, list[Node], str]] = [
        # The issuer has never told its keys, so nobody knows whether a credential is good.
        (_REPLIES[503], [_status(401), _details(".contains('Jwks_remote_fetch')")], ""),
        *((_REPLIES[401], [_UNAUTHENTICATED, _cel(found)], f" {fault}") for fault, found in _FAULTS.items()),
        *((_REPLIES[status], conditions, "") for status, conditions in _cases()),
    ]
    violation = {name: f"%DYNAMIC_METADATA(strict.json:{name})%" for name in ("field", "description", "reason")}
    strict = {"@type": f"{_RPC}BadRequest", "fieldViolations": [violation]}
    return [
        *_AGENTS,
        *(_grpc_row(*case) for case in cases),
        _rest_row(_REPLIES[400], [_STRICT], " %DYNAMIC_METADATA(strict.json:message)%", strict),
        *(_rest_row(*case) for case in cases),
    ]


def table() -> Node:
    """Returns what `errors.lua` completes errors with: the domain of reasons, and the replies by HTTP status."""
    replies = {
        status: {"code": str(reply.code.value[0]), "reason": reply.reason, "message": reply.message}
        for status, reply in _REPLIES.items()
    }
    return {"domain": ERROR_DOMAIN, "replies": replies}


def _cases() -> Iterator[tuple[int, list[Node]]]:
    """Yields which reply answers what: exceptions by Envoy's details, then each status, then all other statuses.

    The first condition is a status, since to look at the details takes far longer and a flood is refused with 429.
    """
    # What the rbac filter refuses, and websockets, which Envoy itself answers with 403.
    yield 400, [_FORBIDDEN, _details(" == 'upgrade_failed'", ".contains('malformed_header')")]
    yield 405, [_FORBIDDEN, _details(".contains('wrong_method')")]
    yield 415, [_FORBIDDEN, _details(".contains('unknown_codec')")]
    yield 501, [_FORBIDDEN, _details(".contains('unknown_encoding')")]
    yield 401, [_FORBIDDEN, _REFUSED]
    yield 431, [_FORBIDDEN, _details(".contains('headers_too_large')")]
    yield from ((status, [_status(status)]) for status in _REPLIES if status not in (400, 500))
    yield 400, [_status(400, "GE"), _status(499, "LE")]
    yield 500, [_status(500, "GE")]


def _grpc_row(reply: EdgeReply, conditions: Sequence[Node], more: str) -> Node:
    """Returns a row without a body, which would travel in grpc-message; `errors.lua` adds the details."""
    said = {"grpc-status": str(reply.code.value[0]), "grpc-message": reply.message + more}
    headers = [*(_header(*one) for one in said.items()), *_headers(reply)]
    return {
        "filter": _all(conditions[0], {"or_filter": {"filters": [_CONNECT, _GRPC]}}, *conditions[1:]),
        "status_code": 200,
        "headers_to_add": [*headers, *_SECURITY],
        "body": {"inline_string": ""},
    }


def _rest_row(reply: EdgeReply, conditions: Sequence[Node], more: str, *found: Node) -> Node:
    retry = [{"@type": f"{_RPC}RetryInfo", "retryDelay": "%RESP(retry-after)%s"}] if reply.http_status == 429 else []
    info = {"@type": f"{_RPC}ErrorInfo", "reason": reply.reason, "domain": ERROR_DOMAIN, "metadata": {}}
    request = {"@type": f"{_RPC}RequestInfo", "requestId": _request_id(reply), "servingData": ""}
    details = [info, request, *retry, *found]
    # Text, because Envoy would sort the names of an object; services do not.
    body = {"code": reply.rest_code.value[0], "message": reply.message + more, "details": details}
    return {
        "filter": _all(*conditions),
        "status_code": reply.http_status,
        "headers_to_add": [*_headers(reply), *_SECURITY],
        "body_format_override": _json(json.dumps(body, separators=(",", ":"))),
    }


def _json(text: str) -> Node:
    return {"text_format_source": {"inline_string": text}, "content_type": "application/json"}


def _headers(reply: EdgeReply) -> list[Node]:
    # The rate limiters know better; `keys.lua` and the users service count by the second.
    retry = _header("retry-after", "1") | {"append_action": "ADD_IF_ABSENT"}
    more = {429: [retry], 501: [_header("grpc-accept-encoding", "identity, deflate, gzip")]}
    id = _request_id(reply)
    said = [_header("error-type", reply.reason), _header("error-id", id), _header("x-request-id", id) | _OVERWRITE]
    return said + more.get(reply.http_status, [])


def _request_id(reply: EdgeReply) -> str:
    """Returns what finds the request's id.

    What the parser refuses has the id that the client wrote, if any: `envoy.yaml` has not looked at it yet. Others are
    believed, because to look costs a refusal some 50 µs.
    """
    return _CHECKED_ID if reply.http_status in _OF_THE_PARSER else "%REQ(x-request-id)%"


def _header(key: str, value: str) -> Node:
    return {"header": {"key": key, "value": value}}


def _all(*filters: Node) -> Node:
    """Returns a condition that looks at each one until the first that does not hold."""
    return {"and_filter": {"filters": list(filters)}} if len(filters) > 1 else filters[0]


def _status(value: int, op: str | None = None) -> Node:
    comparison: Node = {"value": {"default_value": value, "runtime_key": "edge.status"}}
    return {"status_code_filter": {"comparison": comparison | ({"op": op} if op else {})}}


def _said(filter_: str, key: str) -> Node:
    """Returns a condition on what a filter of ours has found out."""
    matcher = {"filter": filter_, "path": [{"key": key}], "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _details(*tests: str) -> Node:
    """Returns a condition on why Envoy answers."""
    return _cel(" || ".join(f"response.code_details{test}" for test in tests))


def _cel(expression: str) -> Node:
    config = {"@type": _CEL, "expression": expression}
    return {"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": config}}


_OF_THE_PARSER: Final = frozenset({400, 404, 408, 426, 431, 500, 503})
_CHECKED_ID: Final = (
    "%CEL('x-request-id' in request.headers && request.headers['x-request-id']"
    ".matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$') ? request.headers['x-request-id'] : '')%"
)
_OVERWRITE: Final = {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
# The filters add these, too, but a refusal amid an answer passes none of them.
_SECURITY: Final = [
    _header(key, value) | _OVERWRITE
    for key, value in {
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }.items()
]
_GRPC_TYPE: Final = {"safe_regex": {"regex": "application/grpc([;+].*)?"}}
# A REST request has a content type of gRPC, too, once the transcoder has passed it on. It then has its original path; a
# client may write that header, too, but not what strict.lua says.
_NOT_REST: Final = {"filter": "ameide.edge", "path": [{"key": "rest"}], "value": {"bool_match": False}}
_NOT_TRANSCODED: Final = [
    {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": True, "invert_match": True}}},
    {"metadata_filter": {"matcher": _NOT_REST, "match_if_key_not_found": True}},
]
_GRPC: Final = _all(
    {"header_filter": {"header": {"name": "content-type", "string_match": _GRPC_TYPE}}},
    {"or_filter": {"filters": _NOT_TRANSCODED}},
)
_STRICT: Final = _said("strict", "description")
# A wrong audience, which Envoy itself answers with 403, and two credentials.
_REFUSED: Final = _details(".startsWith('jwt_authn_access_denied')", ".contains('ambiguous_credential')")
_FORBIDDEN: Final = _status(403)
_UNAUTHENTICATED: Final[Node] = {"or_filter": {"filters": [_status(401), _all(_FORBIDDEN, _REFUSED)]}}
# What jwt_authn says is Envoy's text with underscores. Of a wrong signature and of wrong claims nothing is said.
_FAULTS: Final = {
    CredentialFault.SEVERAL: "'authorization' in request.headers"
    " && ('x-api-key' in request.headers || request.headers['authorization'].contains(','))",
    CredentialFault.API_KEY: "'x-api-key' in request.headers",
    CredentialFault.SCHEME: "'authorization' in request.headers"
    " && !request.headers['authorization'].matches('^Bearer [^ ]+$')",
    CredentialFault.MALFORMED: "response.code_details.matches('[{]Jwt_(is_not_in|header|payload|signature)')",
    CredentialFault.EXPIRED: "response.code_details.contains('{Jwt_is_expired')",
    CredentialFault.ISSUER: "response.code_details.contains('{Jwt_issuer_is_not_configured')",
    CredentialFault.KEY: "response.code_details.contains('_key_to_match_kid_')",
}
# What the bridge answers is a message of JSON-RPC already. For a wrong version MCP asks for the status, too.
_MESSAGE: Final[Node] = {"headers_to_add": _SECURITY, "body_format_override": _json("%LOCAL_REPLY_BODY%")}
_AGENTS: Final[list[Node]] = [
    {"filter": _details(" == 'mcp_json_rest_bridge_request_unsupported_mcp_version'"), "status_code": 400, **_MESSAGE},
    {"filter": _details(".startsWith('mcp_json_rest_bridge')"), **_MESSAGE},
]
# `errors.lua` makes Connect of what would go to gRPC.
_CONNECT: Final = _said("ameide.connect", "shape")
