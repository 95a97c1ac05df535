"""What services say to each other, to Envoy and to probes cannot be asked from outside, by any path or protocol."""

import asyncio
import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, USERS
from tests.e2e.edge.plugin import Edge
from tests.protos import internal_methods

INTERNAL: Final = (
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.channelz.v1.Channelz/GetServers",
    "envoy.service.auth.v3.Authorization/Check",
    "ameide.edge.v1.Authorization/Check",
    *(f"{method.containing_service.full_name}/{method.name}" for method in internal_methods()),
)
"""There today or not: the edge lets through what it knows, so that the next one is safe before it is written."""

CONTENT_TYPES: Final = (
    *("application/json", "application/grpc", "application/grpc+proto", "application/grpc-web+proto"),
    *("application/grpc-web-text", "application/connect+proto", "application/proto"),
)

HEADERS: Final = (
    "",
    "x-envoy-original-path: /v1/me\r\nx-original-url: /v1/me\r\nx-rewrite-url: /v1/me\r\n",
    "x-http-method-override: GET\r\nx-forwarded-client-cert: URI=spiffe://ameide.local/ipas\r\n",
)


async def post(edge: Edge, path: str, content_type: str, *, extra: str = "") -> tuple[int, str]:
    """Sends an empty message with a good token, and returns the HTTP status and the one of gRPC or Connect."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {edge.token}\r\nte: trailers\r\n{extra}"
    writer.write(f"{head}content-type: {content_type}\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0".encode("latin-1"))
    answer = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
    length = re.search(r"^content-length: *(\d+)", answer, re.MULTILINE)
    # Streams of Connect end with their status.
    answer += (await reader.readexactly(int(length[1]) if length else 0)).decode("latin-1")
    writer.close()
    found = re.search(r"^grpc-status: *(\d+)", answer, re.MULTILINE) or re.search(r'"error":{"code":"(\w+)"', answer)
    return int(answer.split(" ", 2)[1]), found[1] if found else ""


def spellings(method: str) -> Iterator[str]:
    """Yields ways to write the path of a method that somebody along the way might read as it."""
    yield f"/{method}"
    yield f"/{method}/"
    yield f"//{method}"
    yield f"/./{method}"
    yield f"/{method}?x=1"
    yield f"/{method};x=1"
    yield f"/{method}%20"
    yield f"/{method.upper()}"
    yield f"/{method.replace('/', '%2f')}"
    yield f"/{method.replace('/', '//')}"
    yield f"/{method.replace('/', ';/')}"
    yield f"/{method.replace('.', '%2e')}"
    yield f"/v1/../{method}"
    yield f"/healthz/../{method}"
    yield f"/healthz/%2e%2e/{method}"
    yield f"/healthz/..;/{method}"
    yield f"{USERS}/../{method}"
    yield f"{USERS}/%2e%2e/{method}"
    yield f"{USERS}/..%2f{method}"
    yield f"{USERS}/..\\{method}"
    yield f"{USERS}/GetMe/../../{method}"
    yield f"/v1/users/{method}"
    yield f"http://users/{method}"


@pytest.mark.parametrize("method", INTERNAL)
@pytest.mark.parametrize("content_type", CONTENT_TYPES)
async def test_is_not_reached_by_a_caller_with_a_good_token(
    edge: Edge, backend: Backend, method: str, content_type: str
) -> None:
    for number, path in enumerate(spellings(method)):
        status, grpc_status = await post(edge, path, content_type, extra=HEADERS[number % len(HEADERS)])
        # 501 is Connect's word for a method that is not there.
        assert status in {400, 401, 404, 415, 501} or (status == 200 and grpc_status not in {"", "0"}), path
    assert backend.strays == []


async def test_is_not_reached_as_a_method_of_a_service_that_is_served(edge: Edge, backend: Backend) -> None:
    """`test_new_rpc.py` shows that the backend sees a method that it does not have, once the edge knows it."""
    for name in ("NoSuchMethod", "/grpc.health.v1.Health/Check"):
        assert await post(edge, f"{USERS}/{name}", "application/grpc") == (200, str(REPLIES[404].code.value[0]))
    assert backend.strays == []


@pytest.mark.parametrize("name", ["UserServiceInternal", "UserServic", "Internal", "userservice", "UserService."])
async def test_is_not_reached_under_a_name_like_that_of_a_service(edge: Edge, backend: Backend, name: str) -> None:
    status, grpc_status = await post(edge, f"/ameide.user.v1.{name}/GetUser", "application/grpc")
    assert (status, grpc_status) == (200, str(REPLIES[404].code.value[0]))
    assert (backend.strays, backend.calls) == ([], [])
