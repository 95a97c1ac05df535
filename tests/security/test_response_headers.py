"""The security headers of every answer, from each layer, on both listeners."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import USERS
from tests.e2e.edge.plugin import Edge

ALWAYS: Final = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
HSTS: Final = "max-age=31536000"
WEB: Final = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
# By what it is: method, path, more headers, body; and the status that shows that it was that.
ANSWERS: Final[dict[str, tuple[str, str, dict[str, str], bytes, int]]] = {
    "success": ("GET", "/v1/me", {}, b"", 200),
    "success over gRPC-Web": ("POST", f"{USERS}/GetMe", WEB, b"\0" * 5, 200),
    "liveness": ("GET", "/healthz", {}, b"", 200),
    "preflight": (
        "OPTIONS",
        "/v1/me",
        {"origin": "http://localhost:3000", "access-control-request-method": "GET"},
        b"",
        200,
    ),
    "service error": ("GET", "/v1/users/x", {}, b"", 503),
    "service error over gRPC-Web": ("POST", f"{USERS}/GetUser", WEB, b"\0" * 5, 200),
    "no token": ("GET", "/v1/me", {"authorization": ""}, b"", 401),
    "bad token": ("GET", "/v1/me", {"authorization": "Bearer a.b.c"}, b"", 401),
    "no such path": ("GET", "/v1/nothing", {}, b"", 404),
    "bad JSON": ("POST", "/v1/users", {}, b"{", 400),
    "bad query": ("GET", "/v1/users?nothing=1", {}, b"", 400),
    "bad header": ("GET", "/v1/me", {"x_y": "1"}, b"", 400),
    "two ids": ("GET", "/v1/users/a?id=b", {}, b"", 400),
    "too large": ("POST", "/v1/users", {}, b" " * (11 * MIB), 413),
    "long headers": ("GET", "/v1/me", {"x-long": "x" * 17_000}, b"", 431),
    "service down": ("GET", "/v1/workflows", {}, b"", 503),
}


@pytest.fixture(scope="module", params=["plain", "tls"])
async def client(edge: Edge, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    verify: ssl.SSLContext | bool = edge.trust if request.param == "tls" else False
    url = edge.secure_url if request.param == "tls" else edge.url
    async with httpx.AsyncClient(base_url=url, verify=verify, headers=edge.credentials, timeout=20) as result:
        yield result


async def fail(_request: Any, context: Any) -> pb.User:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
    return pb.User()


@pytest.mark.parametrize("name", ANSWERS)
async def test_are_there(client: httpx.AsyncClient, backend: Backend, name: str) -> None:
    backend.script["GetUser"] = fail
    method, path, headers, content, status = ANSWERS[name]
    response = await client.request(method, path, headers=headers, content=content)
    assert response.status_code == status
    assert {key: response.headers.get_list(key) for key in ALWAYS} == {key: [value] for key, value in ALWAYS.items()}
    assert response.headers.get_list("strict-transport-security") == [HSTS] * (client.base_url.scheme == "https")
    assert not [key for key in response.headers if key.startswith(("server", "x-envoy", "x-powered"))]
    if "gRPC" not in name:
        assert not [key for key in response.headers if key.startswith("grpc-")]


async def test_are_there_when_nothing_could_be_read(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"NONSENSE\r\n\r\n")
    head = (await asyncio.wait_for(reader.read(), 10)).decode().split("\r\n")
    writer.close()
    assert head[0] == "HTTP/1.1 400 Bad Request"
    assert {f"{key}: {value}" for key, value in ALWAYS.items()} <= set(head)
    assert not [line for line in head if line.startswith("strict-transport-security")]


async def test_of_grpc_are_left_to_grpc(edge: Edge, backend: Backend) -> None:
    """The status of a call is for those who speak gRPC."""
    backend.script["GetUser"] = fail
    async with edge.client(http1=False, http2=True, headers=edge.credentials) as http2:
        headers = {"content-type": "application/grpc", "te": "trailers"}
        answer = await http2.post(f"{USERS}/GetUser", headers=headers, content=b"\0" * 5)
    assert (answer.headers["grpc-status"], answer.headers["content-type"]) == ("14", "application/grpc")
