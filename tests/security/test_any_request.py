"""Whatever somebody writes on a connection of HTTP/1.1, the edge answers by its own rules: no script of it fails.

Hand-picked requests stand in test_smuggling; these are put together by chance, of parts that mean something to one of
the edge's filters.
"""

import asyncio
import random
import re
from typing import Final

import httpx
import pytest

from tests.e2e.edge.plugin import Edge

ID: Final = "01a22e4c-4a0a-720d-9b46-ed9f1a500669"
RPC: Final = "/ameide.user.v1.UserService"
METHODS: Final = ("GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "M-SEARCH")
PATHS: Final = (
    *(
        "/",
        "*",
        "?",
        "h:80",
        "//",
        "/mcp",
        "/mcp/users",
        "/mcp/x",
        "/docs",
        "/openapi.json",
        "/healthz",
        "http://h/v1/me",
    ),
    *(
        "/v1/users",
        f"/v1/users/{ID}",
        f"/v1/users/{ID}:suspend",
        "/v1/users:watch",
        "/v1/users:",
        "/v1/users::",
        "/v1/me",
    ),
    *(
        "/v1/users?",
        "/v1/users?&&",
        "/v1/users?=",
        "/v1/users?pageSize",
        "/v1/users?%",
        "/v1/users?filter=",
        "/v1/users#",
    ),
    *("/v1/users/%00", "/v1/users/%ff", "/v1/users/..", "/v1//users", "/v1/users/a%2fb", "/v1/users;a=b", "/\x7f"),
    *(f"{RPC}/GetMe", f"{RPC}/WatchUsers", f"{RPC}/Nothing", "/grpc.health.v1.Health/Check"),
    *(f"{RPC}/GetMe?connect=v1&encoding=json&message=%7B%7D", f"{RPC}/GetMe?connect=v1&encoding=proto&base64=1"),
)
MEDIA_TYPES: Final = (
    *("application/json", "APPLICATION/JSON", "text/plain", "", "application/proto", "application/connect+json"),
    *("application/grpc", "application/grpc+json", "application/grpc-web", "application/grpc-web-text"),
)
HEADERS: Final = {
    "accept": ("text/event-stream", "application/json, text/event-stream", ""),
    "accept-encoding": ("gzip", "*;q=0", ""),
    "access-control-request-method": ("POST", ""),
    "cache-control": ("max-age=5", "max-age", 'max-age="5"', "max-age=99999999999999999999"),
    "connect-protocol-version": ("1", "2", ""),
    "connect-timeout-ms": ("5000", "0", "-1", "x"),
    "connection": ("close", "upgrade", "te", "x"),
    "content-encoding": ("gzip", "identity", "x"),
    "expect": ("100-continue", "x"),
    "grpc-encoding": ("gzip", "x", ""),
    "grpc-timeout": ("5S", "x", ""),
    "host": ("x", "", "a b", "é"),
    "idempotency-key": ("a", "", "x" * 300, "é"),
    "if-match": ('"1"', "*", "x", ""),
    "if-none-match": ("*", 'W/"1"', '"', "x" * 500),
    "last-event-id": ("x", "é", ""),
    "mcp-protocol-version": ("2025-06-18", "x", ""),
    "origin": ("http://localhost:3000", "null", ""),
    "te": ("trailers", "gzip"),
    "traceparent": (f"00-{'a' * 32}-{'b' * 16}-01", "x"),
    "upgrade": ("websocket", "h2c"),
    "user-agent": ("", "x" * 3000, "eyJab.c"),
    "x-ameide-header-bytes": ("x",),
    "x-ameide-size": ("x", "1"),
    "x-api-key": ("ameide_000000000000_x", "é", ""),
    "x-envoy-original-path": ("/x",),
    "x-request-id": (ID, '"},<b>', ""),
}
BODIES: Final = (
    *(b"", b"{}", b"[]", b"{", b"*", b"\xff" * 9, b"AAAAAAA=", b'{"displayName":"x"}', b'{"displayName":"\\ud800"}'),
    *(b"\0" * 5, b"\0\0\0\0\2\x08\1", b"\1\0\0\0\0", b"\2\0\0\0\2{}"),
    *(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}', b'{"jsonrpc":"2.0","id":{},"method":"tools/call"}'),
)
SURPRISES: Final = re.compile(r"^HTTP/1\.1 50[0234] |^grpc-status: (2|13)\b|^grpc-message: [{]", re.MULTILINE)


def request(chance: random.Random, token: str) -> bytes:
    """Puts a request together."""
    names = chance.sample(sorted(HEADERS), chance.randint(0, 6))
    said = [(name, chance.choice(HEADERS[name])) for name in names]
    for likely in (("host", "x"), ("authorization", f"Bearer {token}"), ("content-type", chance.choice(MEDIA_TYPES))):
        said += [likely] * min(1, chance.randint(0, 2))
    body = chance.choice(BODIES)
    if chance.randint(0, 3) == 0:
        said.append(("transfer-encoding", "chunked"))
        body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    elif body or chance.randint(0, 1):
        said.append(("content-length", str(len(body))))
    head = f"{chance.choice(METHODS)} {chance.choice(PATHS)} HTTP/1.1\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in said) + "\r\n").encode("latin-1") + body


async def begin_of_answer(edge: Edge, request: bytes) -> str:
    """Returns the head of the answer, final or interim; empty if the edge hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(request)
    try:
        return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
    except asyncio.IncompleteReadError:
        return ""
    finally:
        writer.close()


async def failed_scripts(edge: Edge, client: httpx.AsyncClient) -> int:
    found = (await client.get(f"{edge.admin}/stats", params={"filter": r"lua.*errors"})).text.splitlines()
    assert found
    return sum(int(line.rpartition(": ")[2]) for line in found)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("seed", range(4))
async def test_any_request_is_answered_by_rule(edge: Edge, anonymous: httpx.AsyncClient, seed: int) -> None:
    chance, before = random.Random(seed), await failed_scripts(edge, anonymous)
    for _ in range(25):
        requests = [request(chance, edge.token) for _ in range(20)]
        answers = await asyncio.gather(*(begin_of_answer(edge, one) for one in requests))
        asked = zip(requests, answers, strict=True)
        surprising = [(one, answer) for one, answer in asked if SURPRISES.search(answer)]
        assert not surprising
        assert await failed_scripts(edge, anonymous) == before, f"a script failed at one of {requests}"
