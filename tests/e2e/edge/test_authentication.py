"""Who gets in: nobody without a token that verifies, whichever path names the method."""

import asyncio
import re
import time
from typing import Any

import httpx
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, Ask, ask_grpc, rest_refusal
from tests.e2e.edge.plugin import Edge, Issuer
from tests.protos import option, public_methods

NOW = int(time.time())


def rest_call(method: MethodDescriptor) -> tuple[str, str]:
    """The HTTP method and a path of an RPC."""
    rule = option(method, annotations_pb2.http)
    pattern = rule.WhichOneof("pattern")
    return pattern.upper(), re.sub(r"\{[^}]+\}", "0190a1b2-0000-7000-8000-000000000000", getattr(rule, pattern))


@pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
class TestEveryMethod:
    async def test_rejects_anonymous_over_rest(self, anonymous: httpx.AsyncClient, method: MethodDescriptor) -> None:
        response = await anonymous.request(*rest_call(method), content=b"{}")
        rest_refusal(response).is_row(REPLIES[401], http_status=401)

    async def test_rejects_anonymous_over_grpc(self, edge: Edge, method: MethodDescriptor) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        (await ask_grpc(edge, Ask("", path))).is_row(REPLIES[401], http_status=200)


class TestToken:
    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": None},
            {"exp": 0},
            {"exp": NOW - 60},
            {"exp": NOW + 90_000},
            {"nbf": NOW + 3600},
            {"iss": "https://dev.ameide.local"},
            {"iss": None},
            {"aud": None},
            {"aud": "AMEIDE-API"},
        ],
    )
    async def test_that_does_not_hold_is_rejected(
        self, anonymous: httpx.AsyncClient, backend: Backend, issuer: Issuer, claims: dict[str, Any]
    ) -> None:
        headers = {"authorization": f"Bearer {issuer.token(**claims)}"}
        rest_refusal(await anonymous.get("/v1/me", headers=headers)).is_row(REPLIES[401], http_status=401)
        assert backend.calls == []

    async def test_that_the_edge_knows_ends_when_it_says(self, anonymous: httpx.AsyncClient, issuer: Issuer) -> None:
        headers = {"authorization": f"Bearer {issuer.token(exp=issuer.now() - 2)}"}
        assert (await anonymous.get("/v1/me", headers=headers)).status_code == 200
        deadline = time.monotonic() + 30
        while (status := (await anonymous.get("/v1/me", headers=headers)).status_code) == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert status == 401

    @pytest.mark.parametrize("spelling", ["bearer {}", "Bearer  {}", "Bearer {},Bearer x", "{}", "Basic {}"])
    async def test_in_another_spelling_is_rejected(
        self, edge: Edge, anonymous: httpx.AsyncClient, backend: Backend, spelling: str
    ) -> None:
        response = await anonymous.get("/v1/me", headers={"authorization": spelling.format(edge.token)})
        rest_refusal(response).is_row(REPLIES[401], http_status=401)
        assert backend.calls == []

    @pytest.mark.parametrize("first", ["good", "bad"])
    async def test_beside_another_one_is_rejected(self, edge: Edge, anonymous: httpx.AsyncClient, first: str) -> None:
        good, bad = ("authorization", f"Bearer {edge.token}"), ("authorization", "Bearer bad")
        headers = [good, bad] if first == "good" else [bad, good]
        assert (await anonymous.get("/v1/me", headers=headers)).status_code == 401

    async def test_is_not_taken_from_anywhere_else(self, edge: Edge, anonymous: httpx.AsyncClient) -> None:
        query = await anonymous.get("/v1/me", params={"access_token": edge.token})
        cookie = await anonymous.get("/v1/me", headers={"cookie": f"token={edge.token}"})
        assert (query.status_code, cookie.status_code) == (401, 401)

    async def test_reaches_the_service(self, edge: Edge, rest: httpx.AsyncClient, backend: Backend) -> None:
        await rest.get("/v1/me")
        assert backend.calls[0].metadata["authorization"] == edge.credentials["authorization"]


class TestOpenPath:
    async def test_healthz_needs_no_token(self, anonymous: httpx.AsyncClient) -> None:
        response = await anonymous.get("/healthz")
        assert (response.status_code, response.content) == (200, b"")
        assert not [name for name in response.headers if name.startswith(("x-envoy", "server"))]


class TestService:
    async def test_is_spoken_to_with_the_identity_of_the_edge(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        await rest.get("/v1/me")
        assert b"spiffe://ameide.local/edge" in backend.calls[0].peer_names


class TestAccessLog:
    async def test_tells_a_request_without_its_secrets(self, edge: Edge, rest: httpx.AsyncClient) -> None:
        response = await rest.get(f"/v1/users?filter={edge.token}", headers={"user-agent": 'a"b c'})
        line = await logged(edge, response.headers["x-request-id"])
        assert (
            line.items()
            >= {
                "method": "GET",
                "path": "/v1/users",
                "protocol": "HTTP/1.1",
                "status": 200,
                "grpc_status": 0,
                "cluster": "users",
                "user_agent": 'a"b c',
            }.items()
        )
        assert line["duration_ms"] >= 0
        assert edge.token not in (edge.folder / "stdout").read_text()

    @pytest.mark.parametrize("secret", ["ameide_0123abcd_4567ef", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"])
    async def test_keeps_no_credential_that_is_in_the_wrong_place(self, edge: Edge, secret: str) -> None:
        # Envoy refuses these before any filter.
        for start in ("/v1/users/a%2f", "/v1/\xff"):
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            head = f"GET {start}{secret} HTTP/1.1\r\nhost: x\r\nuser-agent: \xff{secret}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode("latin-1"))
            assert b"HTTP/1.1 40" in await asyncio.wait_for(reader.read(), 10)
            writer.close()
        async with edge.client(headers=edge.credentials) as client:
            for path, agent in (
                (f"/v1/users/{secret}", "a"),
                (f"/v1/users:batchGet/{secret}?x", "a"),
                ("/v1/me", f"program {secret}"),
                (f"/{secret}", secret),
            ):
                response = await client.get(path, headers={"user-agent": agent})
                line = await logged(edge, response.headers["x-request-id"])
                said = (line["status"], line["path"], line["user_agent"])
                assert said == (response.status_code, "[redacted]", "[redacted]")
        assert secret[7:] not in (edge.folder / "stdout").read_text()

    async def test_tells_why_a_request_was_refused(self, edge: Edge, anonymous: httpx.AsyncClient) -> None:
        response = await anonymous.get("/v1/me")
        line = await logged(edge, response.headers["x-request-id"])
        expected = (401, "UNAUTHENTICATED", "jwt_authn_access_denied{Jwt_is_missing}")
        assert (line["status"], line["reason"], line["details"]) == expected


async def logged(edge: Edge, request_id: str) -> dict[str, Any]:
    """Waits for the line of a request: Envoy writes them twice a second."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in edge.log():
            if line["request_id"] == request_id:
                return line
        await asyncio.sleep(0.05)
    raise AssertionError(f"no line for {request_id}")
