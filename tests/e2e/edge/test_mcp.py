"""The API as tools for AI agents: what an agent may send, and what it gets back (ADR 41)."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import UnauthenticatedError

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, rest_refusal
from tests.e2e.edge.plugin import Edge, Issuer, Layout, filter_named, running
from tests.e2e.edge.test_error_matrix import failing
from tests.protos import public_methods
from tools.contract.descriptors import snake

if TYPE_CHECKING:
    from mcp import Client

VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
INVALID_PARAMS: Final = -32602
METHOD_NOT_FOUND: Final = -32601
ID: Final = "019b7b1c-52ce-7c1e-8a54-3f6d2b9e4c10"


@asynccontextmanager
async def connected(edge: Edge, path: str = "/mcp", mode: str = "auto") -> AsyncIterator["Client"]:
    """Connects the official client, whose import takes seconds: every process of the tests imports this module."""
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(headers=edge.credentials) as http,
        Client(streamable_http_client(f"{edge.url}{path}", http_client=http), mode=mode) as client,
    ):
        yield client


async def send(edge: Edge, message: Any, path: str = "/mcp", **headers: str) -> httpx.Response:
    """Sends a message as it is; ``headers`` replace those of a good request."""
    said = edge.credentials | {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = message if isinstance(message, bytes) else json.dumps(message)
    async with edge.client() as client:
        return await client.post(path, content=content, headers=said)


def calling(name: str, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


def asking(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def call(edge: Edge, name: str, path: str = "/mcp", **arguments: Any) -> tuple[bool, Any]:
    """Calls a tool; returns whether it was refused, and the JSON of its answer."""
    answer = await send(edge, calling(name, **arguments), path)
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    return result["isError"], json.loads(result["content"][0]["text"])


async def listed(edge: Edge, path: str) -> list[dict[str, Any]]:
    answer = await send(edge, asking("tools/list"), path)
    tools: list[dict[str, Any]] = answer.json()["result"]["tools"]
    return tools


async def refused(edge: Edge, name: str, path: str = "/mcp", **arguments: Any) -> str:
    """Calls a tool that the bridge itself refuses to call; returns why."""
    error = (await send(edge, calling(name, **arguments), path)).json()["error"]
    assert error["code"] == INVALID_PARAMS
    return str(error["message"])


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_lists_and_calls(edge: Edge, backend: Backend, mode: str) -> None:
    async def create(request: pb.CreateUserRequest, context: Any) -> pb.User:
        return request.user

    backend.script["CreateUser"] = create
    user = {"displayName": 'Zoë "Ω" 名', "email": "zoe@example.com", "labels": {"team": "x"}}
    change = {"id": ID, "user": {"displayName": "New"}, "updateMask": "displayName", "ifMatch": '"3"'}
    async with connected(edge, mode=mode) as client:
        tools = (await client.list_tools()).tools
        result = await client.call_tool("create_user", {"user": user, "idempotencyKey": "key-1"})
        assert not (await client.call_tool("update_user", change)).is_error
        assert not (await client.call_tool("batch_get_users", {"ids": ["a", "b"]})).is_error
    assert {tool.name for tool in tools} == {snake(one.name) for one in public_methods() if not one.server_streaming}
    assert not result.is_error
    assert result.content[0].type == "text"
    assert json.loads(result.content[0].text).items() >= user.items()
    created, changed, several = backend.calls
    assert created.request.user.display_name == user["displayName"]
    assert created.metadata["idempotency-key"] == "key-1"
    assert (changed.request.user.id, changed.request.user.display_name) == (ID, "New")
    assert list(changed.request.update_mask.paths) == ["display_name"]
    assert changed.metadata["if-match"] == '"3"'
    assert list(several.request.ids) == ["a", "b"]
    assert not {"origin", "mcp-protocol-version", "mcp-method", "mcp-name"} & created.metadata.keys()


class TestVersion:
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_is_what_the_client_asks_for(self, edge: Edge, version: str) -> None:
        said = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        answer = await send(edge, asking("initialize", **said))
        assert answer.json()["result"]["protocolVersion"] == version
        assert "tools" in (await send(edge, asking("tools/list"), mcp_protocol_version=version)).json()["result"]

    async def test_of_today_needs_no_handshake(self, edge: Edge) -> None:
        async with connected(edge) as client:
            assert client.protocol_version == "2026-07-28"

    async def test_that_nobody_knows_is_refused(self, edge: Edge) -> None:
        answer = await send(edge, asking("tools/list"), mcp_protocol_version="2030-01-01")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, INVALID_PARAMS)


class TestEndpoint:
    async def test_has_the_tools_of_its_collection(self, edge: Edge, backend: Backend) -> None:
        assert {one["name"] for one in await listed(edge, "/mcp/users")} >= {"get_user", "suspend_user", "get_me"}
        assert (await call(edge, "get_me", "/mcp/users"))[0] is False
        assert await refused(edge, "create_agent", "/mcp/users", agent={}) == "Unknown tool"

    async def test_that_reads_cannot_write(self, edge: Edge, backend: Backend) -> None:
        assert all(one["annotations"]["readOnlyHint"] for one in await listed(edge, "/mcp/readonly"))
        assert await refused(edge, "create_user", "/mcp/readonly", user={}) == "Unknown tool"
        assert backend.calls == []

    @pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD"])
    async def test_takes_posts(self, edge: Edge, method: str) -> None:
        async with edge.client(headers=edge.credentials) as client:
            answer = await client.request(method, "/mcp")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

    @pytest.mark.parametrize("path", ["/mcp/", "/mcp/nothing", "/mcp/tools.json", "/mcp/users/tools.json"])
    async def test_is_nowhere_else(self, edge: Edge, path: str) -> None:
        async with edge.client(headers=edge.credentials) as client:
            for method in ("GET", "POST"):
                assert (await client.request(method, path, json={})).status_code == 404


class TestCaller:
    async def test_without_a_credential_gets_401(self, edge: Edge, backend: Backend) -> None:
        async with edge.client() as client:
            rest_refusal(await client.post("/mcp", json=calling("get_me"))).is_row(REPLIES[401], http_status=401)
        assert (await send(edge, calling("get_me"), authorization="Bearer a.b.c")).status_code == 401
        assert backend.calls == []

    async def test_that_the_service_does_not_know_gets_401(self, edge: Edge, backend: Backend) -> None:
        backend.script["GetMe"] = failing(UnauthenticatedError())
        for path in ("/mcp", "/mcp/users"):
            answer = await send(edge, calling("get_me"), path)
            assert answer.status_code == 401
            document = f'"{edge.url}/.well-known/oauth-protected-resource{path}"'
            assert answer.headers["www-authenticate"].endswith(f"resource_metadata={document}")

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
    async def test_of_a_foreign_page_gets_403(self, edge: Edge, backend: Backend, origin: str) -> None:
        answer = await send(edge, calling("get_me"), origin=origin)
        rest_refusal(answer).is_row(REPLIES[403], http_status=403)
        assert backend.calls == []

    async def test_of_an_allowed_page_is_served(self, edge: Edge, backend: Backend) -> None:
        preflight = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        async with edge.client() as client:
            allowed = (await client.options("/mcp", headers=preflight)).headers["access-control-allow-headers"]
        assert {"authorization", "content-type", "mcp-protocol-version"} <= set(allowed.split(", "))
        answer = await send(edge, calling("get_me"), origin="http://localhost:3000")
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "origin" not in backend.calls[0].metadata


class TestRefusal:
    """What a model can act on is the answer of the tool; test_error_matrix.py walks over all errors."""

    @pytest.mark.parametrize(
        ("name", "arguments", "field"),
        [
            ("create_user", {"user": {"displayName": "x", "colour": "red"}}, "user.colour"),
            ("create_user", {"user": {"displayName": 7}}, "user.display"),
            ("create_user", {"user": {"createTime": "2026-02-30T00:00:00Z"}}, "user.createTime"),
            ("get_user", {"id": "x", "colour": "red"}, "colour"),
            ("create_user", {"user": {}, "idempotencyKey": "ü"}, "idempotencyKey"),
            ("create_user", {"user": {}, "idempotencyKey": "k" * 256}, "idempotencyKey"),
            ("update_user", {"id": "x", "user": {}, "ifMatch": "é"}, "ifMatch"),
            ("get_user", {"id": "k" * 20_000}, ""),
            ("get_user", {}, "id"),
            ("get_user", {"id": ""}, "id"),
            ("get_user", {"id": None}, "id"),
            ("get_user", {"id": "a/../../me"}, "id"),
            ("update_user", {"id": "x"}, "user"),
            *(
                ("create_user", {"user": {}, "idempotencyKey": key}, "idempotencyKey")
                for key in ("a\r\nx-evil: 1", "a\0b")
            ),
        ],
    )
    async def test_of_arguments_names_the_field(
        self, edge: Edge, backend: Backend, name: str, arguments: dict[str, Any], field: str
    ) -> None:
        is_error, said = await call(edge, name, **arguments)
        (violation,) = said["details"][-1]["fieldViolations"]
        assert (is_error, said["details"][0]["reason"]) == (True, "INVALID_REQUEST")
        assert violation["field"].startswith(field)
        assert backend.calls == []

    async def test_leaves_an_id_one_segment(self, edge: Edge, backend: Backend) -> None:
        odd = "a%2Fb?x=1#y:suspend&z"
        await call(edge, "get_user", id=odd)
        assert [(one.method, one.request.id) for one in backend.calls] == [("GetUser", odd)]

    async def test_of_an_unknown_tool_is_one_of_the_protocol(self, edge: Edge) -> None:
        assert await refused(edge, "nothing") == "Unknown tool"


class TestMessage:
    @pytest.mark.parametrize(
        ("content", "description"),
        [
            (b'{"jsonrpc"', "not JSON"),
            (b"", "an object"),
            (b"[]", "an object"),
            (b"7", "an object"),
            (b'{"a":' * 40 + b"1" + b"}" * 40, "32 levels"),
            (b'{"id":1,"method":"tools/call","params":{"name":"get_user","arguments":{"id":"1","id":"2"}}}', "twice"),
            (b'{"id":1,"method":"tools/list","method":"tools/call"}', "twice"),
            (b'{"a":[' + b"0," * 20_001 + b"0]}", "20000 values"),
        ],
        ids=range(8),
    )
    async def test_is_read_as_strictly_as_a_body_of_rest(self, edge: Edge, content: bytes, description: str) -> None:
        answer = await send(edge, content)
        refusal = rest_refusal(answer)
        refusal.is_row(REPLIES[400], http_status=400)
        assert description in answer.text

    @pytest.mark.parametrize("content_type", ["text/plain", "application/jsonx", "application/xml", ""])
    async def test_is_json(self, edge: Edge, content_type: str) -> None:
        answer = await send(edge, calling("get_me"), content_type=content_type)
        rest_refusal(answer).is_row(REPLIES[415], http_status=415)

    async def test_of_a_mebibyte_is_refused_before_it_is_kept(self, edge: Edge) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b" " * 65536

        answer = await send(edge, b" " * (2**20 + 1))
        rest_refusal(answer).is_row(REPLIES[413], http_status=413)
        async with edge.client(headers=edge.credentials | {"content-type": "application/json"}) as client:
            assert (await client.post("/mcp", content=chunks())).status_code == 413

    @pytest.mark.parametrize("name", ["notifications/initialized", "notifications/cancelled", "tools/call"])
    async def test_that_wants_no_answer_gets_none(self, edge: Edge, backend: Backend, name: str) -> None:
        answer = await send(edge, {"jsonrpc": "2.0", "method": name, "params": {"name": "get_me"}})
        assert (answer.status_code, answer.content, backend.calls) == (202, b"", [])
        assert (await send(edge, {"jsonrpc": "2.0", "id": 1, "result": {}})).status_code == 202

    async def test_ping_is_answered(self, edge: Edge) -> None:
        answer = await send(edge, {"jsonrpc": "2.0", "id": 'a"\\b', "method": "ping"})
        assert answer.json() == {"jsonrpc": "2.0", "id": 'a"\\b', "result": {}}

    async def test_asks_for_nothing_but_tools(self, edge: Edge) -> None:
        assert (await send(edge, asking("resources/list"))).json()["error"]["code"] == METHOD_NOT_FOUND


async def test_a_call_counts_in_its_rate_class(layout: Layout, published: None, backend: Backend) -> None:
    """Two calls of each class are allowed, whatever protocol they come by."""

    def change(manager: Any) -> None:
        for descriptor in filter_named(manager, "identity")["descriptors"]:
            descriptor["token_bucket"] = {"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "600s"}

    async with running(layout("counted", 3, change)) as edge, edge.client(headers=edge.credentials) as client:
        assert (await client.delete("/v1/users/x")).status_code == 200
        assert (await call(edge, "delete_user", id="x"))[0] is False
        is_error, said = await call(edge, "delete_user", id="x")
        assert (is_error, said["details"][0]["reason"]) == (True, "RATE_LIMITED")
        assert (await client.delete("/v1/users/x")).status_code == 429
        assert (await call(edge, "get_me"))[0] is False
        assert [one.method for one in backend.calls] == ["DeleteUser", "DeleteUser", "GetMe"]
        # Lists are EXPENSIVE: the edge holds each until its caller has read it.
        for status in (True, True, False):
            assert ("result" in (await send(edge, asking("tools/list"))).json()) is status


async def test_a_token_as_keycloak_makes_them_calls_tools(
    layout: Layout, published: None, backend: Backend, issuer: Issuer
) -> None:
    """It has several audiences, and its roles in another place; the service reads those, not the edge."""
    shaped = issuer.token(
        aud=["account", "ameide-api"],
        typ="Bearer",
        azp="agent",
        acr="1",
        scope="openid profile email",
        sid="0190a1b2-0000-7000-8000-000000000000",
        roles=None,
        realm_access={"roles": ["offline_access", "admin"]},
        resource_access={"account": {"roles": ["view-profile"]}},
        preferred_username="ada",
        email_verified=True,
    )
    async with running(layout("keycloak", 3, claims="keycloak")) as edge:
        said = replace(edge, token=shaped)
        async with connected(said, "/mcp/users") as client:
            assert not (await client.call_tool("get_me", {})).is_error
        elsewhere = replace(edge, token=issuer.token(roles=None, realm_access={"roles": "admin"}))
        assert (await send(elsewhere, calling("get_me"))).status_code == 401
    assert [one.metadata["authorization"] for one in backend.calls] == [f"Bearer {shaped}"]
