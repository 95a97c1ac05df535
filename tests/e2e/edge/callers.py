"""One request in each of the edge's languages, and what its refusal says in all of them."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import grpc
import httpx
from api_common.errors import EDGE_REPLIES, ERROR_DOMAIN, EdgeReply
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from tests.e2e.edge.plugin import Edge

USERS: Final = "/ameide.user.v1.UserService"
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# A Python name, SQL, an address, a path on disk, a token.
LEAKS: Final = re.compile(r"Traceback|Error:|<class|SELECT|:\d{4,5}\b|localhost|/(usr|var|etc|home|opt)/|eyJ|upstream")
# Connect's names and HTTP statuses, by the code of gRPC (connectrpc.com/docs/protocol).
_STATUSES: Final = (499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
CONNECT: Final = {
    code.value[0]: (
        "canceled" if code is grpc.StatusCode.CANCELLED else code.name.lower(),
        _STATUSES[code.value[0] - 1],
    )
    for code in grpc.StatusCode
    if code is not grpc.StatusCode.OK
}
_VIOLATIONS: Final = {
    "is unknown": "UNKNOWN",
    "is there twice": "DUPLICATE",
    "must be one of": "INVALID_VALUE",
    "a double does not hold": "OUT_OF_RANGE",
    "must be from": "OUT_OF_RANGE",
    "of the calendar": "OUT_OF_RANGE",
    "what the path says": "CONFLICT",
    "needs a value": "REQUIRED",
    "must be empty": "NOT_ALLOWED",
    "levels deep": "TOO_LONG",
    "holds more than": "TOO_LONG",
    "holds a text of more than": "TOO_LONG",
}
"""What programs learn beside the words of a violation; all else is INVALID_FORMAT."""
REPLIES: Final = {reply.http_status: reply for reply in EDGE_REPLIES}


@dataclass(frozen=True)
class Ask:
    """The same wish for each language: a REST path, the RPC behind it, a body of so many bytes."""

    rest: str
    rpc: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body_bytes: int = 0


@dataclass(frozen=True)
class Refusal:
    """What a caller got, in the terms that all languages share."""

    http_status: int
    code: int
    message: str
    reason: str
    request_id: str
    headers: Mapping[str, str]
    status: status_pb2.Status
    """All of it, whatever form it travelled in."""
    is_rest: bool = False

    def is_row(self, reply: EdgeReply, *, http_status: int) -> None:
        """Asserts that this is ``reply``, word for word; what was malformed may follow."""
        assert (self.http_status, self.code, self.reason, self.message[: len(reply.message)]) == (
            http_status,
            (reply.rest_code if self.is_rest else reply.code).value[0],
            reply.reason,
            reply.message,
        )
        assert UUID.fullmatch(self.request_id)
        assert self.headers["x-request-id"] == self.headers["error-id"] == self.request_id
        assert self.headers["error-type"] == reply.reason
        assert self.headers["x-content-type-options"] == "nosniff"
        assert "server" not in self.headers


async def ask_rest(edge: Edge, ask: Ask, **options: bool) -> Refusal:
    async with edge.client(**options) as client:
        if ask.body_bytes:
            response = await client.post(ask.rest, headers=dict(ask.headers), content=b" " * ask.body_bytes)
        else:
            response = await client.get(ask.rest, headers=dict(ask.headers))
    return rest_refusal(response)


async def ask_rest_h2(edge: Edge, ask: Ask) -> Refusal:
    return await ask_rest(edge, ask, http1=False, http2=True)


async def ask_grpc(edge: Edge, ask: Ask) -> Refusal:
    async with edge.channel() as channel:
        method = channel.unary_unary(ask.rpc, request_serializer=bytes, response_deserializer=bytes)
        call = method(b"\0" * ask.body_bytes, metadata=tuple(ask.headers.items()))
        code, message = await call.code(), await call.details()
        trailers = dict(tuple(await call.trailing_metadata() or ()))
    packed = trailers["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    texts = {key: value for key, value in trailers.items() if isinstance(value, str)}
    # gRPC hides the HTTP status: any other than 200 would have become its own error.
    refusal = _from_status(packed, 200, texts)
    assert (refusal.code, refusal.message) == (code.value[0], message)
    return refusal


async def ask_grpc_web(edge: Edge, ask: Ask) -> Refusal:
    frame = b"\0" + ask.body_bytes.to_bytes(4, "big") + b"\0" * ask.body_bytes
    headers = dict(ask.headers) | {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    async with edge.client() as client:
        response = await client.post(ask.rpc, headers=headers, content=frame)
    return grpc_web_refusal(response)


async def ask_connect(edge: Edge, ask: Ask, codec: str = "proto", message: bytes = b"") -> Refusal:
    headers = dict(ask.headers) | {"content-type": f"application/{codec}", "connect-protocol-version": "1"}
    async with edge.client() as client:
        response = await client.post(ask.rpc, headers=headers, content=message or b"\0" * ask.body_bytes)
    return connect_refusal(response)


async def ask_connect_json(edge: Edge, ask: Ask) -> Refusal:
    return await ask_connect(edge, ask, "json", b" " * ask.body_bytes or b"{}")


async def ask_tool(edge: Edge, ask: Ask) -> Refusal:
    """Asks as an AI agent does; the refusal is the answer of the tool `get_me`."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_me"}}
    async with edge.client() as client:
        response = await client.post("/mcp", headers=dict(ask.headers), json=message)
    result = response.json()["result"]
    assert result["isError"]
    headers = [(name, value) for name, value in response.headers.items() if not name.startswith("content-")]
    told = {"content-type": response.headers["content-type"]}
    return rest_refusal(
        httpx.Response(response.status_code, headers=told | dict(headers), text=result["content"][0]["text"])
    )


CALLERS: Final = {
    "rest": ask_rest,
    "rest-h2": ask_rest_h2,
    "grpc": ask_grpc,
    "grpc-web": ask_grpc_web,
    "connect-proto": ask_connect,
    "connect-json": ask_connect_json,
}


def http_status_of(reply: EdgeReply, language: str) -> int:
    """Returns the HTTP status of a refusal: gRPC's is always 200, and Connect's follows from the code."""
    if language.startswith("connect"):
        return CONNECT[reply.code.value[0]][1]
    if language == "mcp":
        # To an agent a refusal is an answer, but for what its client must act on.
        return 401 if reply.http_status == 401 else 200
    return reply.http_status if language.startswith("rest") else 200


def rest_refusal(response: httpx.Response) -> Refusal:
    """Reads the JSON shape, and checks that it is all there and tells nothing else."""
    assert response.headers["content-type"] == "application/json"
    assert not LEAKS.search(response.text), response.text
    body = response.json()
    # As the services write it: people compare the two.
    assert list(body) == ["code", "message", "details"]
    info, request = (
        _without_type(detail, name)
        for detail, name in zip(body["details"][:2], ("ErrorInfo", "RequestInfo"), strict=True)
    )
    assert info == {"reason": info["reason"], "domain": ERROR_DOMAIN, "metadata": info["metadata"]}
    assert list(info) == ["reason", "domain", "metadata"]
    assert request == {"requestId": request["requestId"], "servingData": ""}
    if "retry-after" in response.headers:
        delay = f"{response.headers['retry-after']}s"
        assert _without_type(body["details"][2], "RetryInfo") == {"retryDelay": delay}
    code, message = body["code"], body["message"]
    headers = dict(response.headers)
    status = json_format.ParseDict(body, status_pb2.Status())
    reason, request_id = info["reason"], request["requestId"]
    return Refusal(response.status_code, code, message, reason, request_id, headers, status, is_rest=True)


def violation(response: httpx.Response) -> tuple[str, str]:
    """Returns field and description of a refusal that has the shape of every other, and says them in its message."""
    bad_request = response.json()["details"][2]
    assert bad_request["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    (found,) = bad_request["fieldViolations"]
    reasons = {reason for words, reason in _VIOLATIONS.items() if words in found["description"]} or {"INVALID_FORMAT"}
    assert {found["reason"]} == reasons
    assert list(found) == ["field", "description", "reason"]
    # Envoy would close a connection of HTTP/1.1 after a 400 of its own.
    assert "connection" not in response.headers
    said = " ".join(filter(None, (found["field"], found["description"])))
    assert response.json()["message"].rstrip(".") == f"{REPLIES[400].message} {said}".rstrip(".")
    rest_refusal(response).is_row(REPLIES[400], http_status=400)
    return found["field"], found["description"]


def connect_refusal(response: httpx.Response) -> Refusal:
    """Reads an error of a unary call of Connect."""
    assert response.headers["content-type"] == "application/json"
    refusal = connect_error(response.json(), response.status_code, dict(response.headers))
    assert CONNECT[refusal.code][1] == response.status_code
    return refusal


def connect_error(body: Any, http_status: int, headers: Mapping[str, str]) -> Refusal:
    """Reads Connect's form of an error, whose details must have bare names."""
    assert body.keys() == {"code", "message", "details"}
    status = status_pb2.Status(message=body["message"])
    (status.code,) = (code for code, (name, _) in CONNECT.items() if name == body["code"])
    for detail in body["details"]:
        assert detail.keys() == {"type", "value"}
        assert re.fullmatch(r"google\.rpc\.\w+", detail["type"])
        value = base64.b64decode(detail["value"] + "==")
        status.details.add(type_url=f"type.googleapis.com/{detail['type']}", value=value)
    assert not [name for name in headers if name.startswith(("grpc-", "x-ameide"))]
    return _from_status(status.SerializeToString(), http_status, headers)


def grpc_web_refusal(response: httpx.Response) -> Refusal:
    """Reads a refusal without messages: its status is in the headers."""
    assert response.headers["content-type"] == "application/grpc-web+proto"
    assert response.content == b""
    headers = dict(response.headers)
    refusal = _from_status(base64.b64decode(headers["grpc-status-details-bin"] + "=="), response.status_code, headers)
    assert (headers["grpc-status"], unquote(headers["grpc-message"])) == (str(refusal.code), refusal.message)
    return refusal


def _from_status(packed: bytes, http_status: int, headers: Mapping[str, str]) -> Refusal:
    status = status_pb2.Status.FromString(packed)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert info.domain == ERROR_DOMAIN
    if "retry-after" in headers:
        retry = error_details_pb2.RetryInfo()
        assert status.details[2].Unpack(retry)
        assert str(retry.retry_delay.seconds) == headers["retry-after"]
    assert not LEAKS.search(status.message)
    return Refusal(http_status, status.code, status.message, info.reason, request.request_id, headers, status)


def _without_type(detail: dict[str, Any], name: str) -> dict[str, Any]:
    assert detail["@type"] == f"type.googleapis.com/google.rpc.{name}"
    return {key: value for key, value in detail.items() if key != "@type"}
