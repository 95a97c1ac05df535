"""What Envoy calls work in progress can be switched off: `connect` and `mcp` of `edge.json`."""

import base64
import json
import shutil
from collections.abc import AsyncIterator

import pytest

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, USERS, rest_refusal
from tests.e2e.edge.plugin import Edge, Layout, running
from tools.edge.build import ENVOY

CONNECT = f"{USERS}/GetMe"


@pytest.fixture(scope="module")
async def plain(layout: Layout, published: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """The edge without both."""
    environment = shutil.copytree(ENVOY / "local", tmp_path_factory.mktemp("plain") / "local")
    decided = json.loads((environment / "edge.json").read_text())
    (environment / "edge.json").write_text(json.dumps(decided | {"connect": False, "mcp": False}))
    async with running(layout("plain", 3, environment=environment)) as edge:
        yield edge


async def test_tools_are_nowhere(plain: Edge, backend: Backend) -> None:
    async with plain.client(headers=plain.credentials) as client:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_me"}}
        for path in ("/mcp", "/mcp/users"):
            rest_refusal(await client.post(path, json=call)).is_row(REPLIES[404], http_status=404)
    assert backend.calls == []


@pytest.mark.parametrize("version", [{}, {"connect-protocol-version": "1"}])
@pytest.mark.parametrize("codec", ["proto", "json", "connect+proto", "connect+json"])
async def test_connect_is_a_type_that_nobody_takes(
    plain: Edge, backend: Backend, codec: str, version: dict[str, str]
) -> None:
    headers = plain.credentials | version | {"content-type": f"application/{codec}"}
    async with plain.client(headers=headers) as client:
        for path in (CONNECT, f"{USERS}/WatchUsers", f"{CONNECT}?connect=v1"):
            rest_refusal(await client.post(path, content=b"{}")).is_row(REPLIES[415], http_status=415)
    assert backend.calls == []


async def test_connect_by_get_is_a_wrong_method(plain: Edge, backend: Backend) -> None:
    message = base64.urlsafe_b64encode(b"{}").decode()
    query = {"connect": "v1", "encoding": "json", "base64": "1", "message": message}
    async with plain.client(headers=plain.credentials) as client:
        refusal = rest_refusal(await client.get(CONNECT, params=query))
    refusal.is_row(REPLIES[405], http_status=405)
    assert backend.calls == []


async def test_everything_else_is_there(plain: Edge, backend: Backend) -> None:
    async with plain.client(headers=plain.credentials) as client, plain.channel() as channel:
        assert (await client.get("/v1/me")).status_code == 200
        web = {"content-type": "application/grpc-web+proto"}
        assert "grpc-status" not in (await client.post(CONNECT, content=b"\0" * 5, headers=web)).headers
        method = channel.unary_unary(CONNECT, request_serializer=bytes, response_deserializer=bytes)
        assert await method(b"", metadata=tuple(plain.credentials.items())) == b""
    assert len(backend.calls) == 3
