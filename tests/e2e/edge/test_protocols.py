"""The ways to speak to the edge: versions of HTTP, gRPC and gRPC-Web, and what browsers ask first."""

import itertools
from typing import Any

import httpx
import pytest

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import USERS
from tests.e2e.edge.plugin import Edge
from tests.http2 import Answer, Header, Http2

ORIGIN = "http://localhost:3000"


class TestProtocol:
    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    async def test_is_spoken(self, edge: Edge, backend: Backend, version: str, tls: bool) -> None:
        verify = edge.trust if tls else False
        http2 = version == "HTTP/2"
        async with httpx.AsyncClient(headers=edge.credentials, verify=verify, http1=not http2, http2=http2) as client:
            response = await client.get(f"{edge.secure_url if tls else edge.url}/v1/me")
        assert (response.status_code, response.http_version) == (200, version)
        assert backend.calls[0].metadata["x-forwarded-proto"] == ("https" if tls else "http")

    async def test_of_grpc_web_carries_text_too(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        headers = {"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"}
        response = await rest.post(f"{USERS}/GetMe", headers=headers, content=b"AAAAAAA=")
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/grpc-web-text+proto"
        assert backend.calls[0].method == "GetMe"


class TestGrpc:
    async def ask(self, edge: Edge, *headers: Header, **options: Any) -> Answer:
        async with Http2(edge.port) as connection:
            given = [*edge.credentials.items(), *headers]
            return await connection.ask(given, b"\0" * 5, path=f"{USERS}/GetMe", **{"method": "POST", **options})

    @pytest.mark.parametrize(
        "content_type", ["application/grpc", "Application/GRPC", "application/grpc+proto;charset=utf-8"]
    )
    @pytest.mark.parametrize("te", [[], [("te", "trailers")]], ids=["no te", "te"])
    async def test_is_served_however_it_says_what_it_is(
        self, edge: Edge, backend: Backend, content_type: str, te: list[Header]
    ) -> None:
        answer = await self.ask(edge, ("content-type", content_type), *te)
        assert answer.headers["grpc-status"] == "0"

    async def test_web_is_served_however_it_says_what_it_is(self, edge: Edge, backend: Backend) -> None:
        answer = await self.ask(edge, ("content-type", "APPLICATION/grpc-Web+proto; x=y"))
        assert (answer.outcome, answer.headers["content-type"]) == ("200", "application/grpc-web+proto")
        assert b"grpc-status:0" in answer.body

    @pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc-web"])
    async def test_in_an_unknown_compression_is_told_which_are_known(
        self, edge: Edge, backend: Backend, content_type: str
    ) -> None:
        answer = await self.ask(edge, ("content-type", content_type), ("grpc-encoding", "zstd"))
        assert (answer.headers["grpc-status"], answer.headers["error-type"]) == ("12", "NOT_IMPLEMENTED")
        assert answer.headers["grpc-accept-encoding"] == "identity, deflate, gzip"
        assert backend.calls == []

    @pytest.mark.parametrize("codec", ["application/grpc+json", "application/grpc+thrift"])
    async def test_in_another_codec_is_refused(self, edge: Edge, backend: Backend, codec: str) -> None:
        answer = await self.ask(edge, ("content-type", codec))
        assert (answer.headers["grpc-status"], answer.headers["error-type"]) == ("3", "UNSUPPORTED_MEDIA_TYPE")
        assert backend.calls == []

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "FOO"])
    async def test_by_another_method_than_post_is_refused(self, edge: Edge, backend: Backend, method: str) -> None:
        answer = await self.ask(edge, ("content-type", "application/grpc"), method=method)
        assert (answer.headers["grpc-status"], answer.headers["error-type"]) == ("12", "METHOD_NOT_FOUND")
        assert (backend.calls, backend.strays) == ([], [])

    async def test_without_text_in_a_header_that_a_service_reads_is_refused(self, edge: Edge, backend: Backend) -> None:
        for name in ("idempotency-key", "if-match"):
            answer = await self.ask(edge, ("content-type", "application/grpc"), (name, b"\xc3\xa4"))
            assert (answer.headers["grpc-status"], answer.headers["error-type"]) == ("3", "INVALID_REQUEST")
        assert backend.calls == []

    async def test_sends_no_trailers_on(self, edge: Edge, backend: Backend) -> None:
        """The parser of gRPC would read them, too."""
        behind: list[Header] = [("grpc-timeout", "xx"), ("any-bin", "!"), ("x-a", "b")]
        for _ in range(4):
            assert (await self.ask(edge, ("content-type", "application/grpc"), trailers=behind)).headers[
                "grpc-status"
            ] == "0"


class TestCors:
    async def test_lets_a_page_of_ours_ask_first(self, anonymous: httpx.AsyncClient) -> None:
        for path in ("/v1/users", f"{USERS}/GetMe"):
            asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
            response = await anonymous.options(path, headers=asked)
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == ORIGIN
            allowed = response.headers["access-control-allow-headers"].split(", ")
            assert {"authorization", "idempotency-key", "if-match"} <= set(allowed)

    async def test_lets_a_page_of_ours_read_answers_and_refusals(
        self, rest: httpx.AsyncClient, anonymous: httpx.AsyncClient, backend: Backend
    ) -> None:
        for client, status in ((rest, 200), (anonymous, 401)):
            response = await client.get("/v1/me", headers={"origin": ORIGIN})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == ORIGIN
            exposed = response.headers["access-control-expose-headers"].split(", ")
            assert {"x-request-id", "etag", "idempotent-replayed", "error-type"} <= set(exposed)

    @pytest.mark.parametrize(
        "origin", ["http://localhost.evil.example", "http://evil.example", "null", "https://localhost"]
    )
    async def test_tells_other_pages_nothing(self, anonymous: httpx.AsyncClient, origin: str) -> None:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        response = await anonymous.options("/v1/users", headers=asked)
        assert not [name for name in response.headers if name.startswith("access-control")]


class TestOptions:
    """Not one is sent on: gRPC takes the method for a malformed header, which spoils other calls (grpc/grpc#34721)."""

    @pytest.mark.parametrize("origin", [None, ORIGIN, "https://evil.example", "null", ""])
    @pytest.mark.parametrize("content_type", [None, "application/json", "application/grpc", "application/grpc-web"])
    async def test_is_answered_here(
        self, edge: Edge, backend: Backend, origin: str | None, content_type: str | None
    ) -> None:
        headers = {
            name: value for name, value in {"origin": origin, "content-type": content_type}.items() if value is not None
        }
        asks = {**headers, "access-control-request-method": "POST", "grpc-timeout": "xx", "te": "trailers"}
        async with edge.client() as client:
            for path, given, credentials in itertools.product(
                ("/", "/v1/users", "/v1/nothing", "/docs", f"{USERS}/GetMe", f"{USERS}/MadeUp"),
                (headers, asks),
                ({}, edge.credentials, {"x-api-key": "x"}),
            ):
                answer = await client.options(path, headers=given | credentials)
                allowed = "access-control-allow-origin" in answer.headers
                assert allowed == (origin == ORIGIN)
                if given is asks and allowed:
                    assert answer.status_code == 200
                elif content_type == "application/grpc":
                    assert (answer.status_code, answer.headers["grpc-status"]) == (200, "12")
                else:
                    known = path not in {"/v1/nothing", f"{USERS}/MadeUp"}
                    assert answer.status_code == (204 if known else 404)
                    assert answer.headers.get("allow", "").endswith("OPTIONS") == known
        assert (backend.calls, backend.strays) == ([], [])
