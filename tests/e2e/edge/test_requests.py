"""What becomes of a request on its way in: identity, headers, paths, ids, protocols."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.call import CLIENT_HEADERS

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, USERS, UUID, rest_refusal
from tests.e2e.edge.plugin import Edge

ORIGIN = "http://localhost:3000"
A_UUID = "6f9c2a34-8f3f-4b0e-9a51-0c8f4f0f4f10"


async def send_raw(edge: Edge, head: str) -> list[str]:
    """Sends ``head`` as it is, and returns the lines of the answer's head and its body until the edge closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(head.encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode("latin-1").split("\r\n")


class TestRequestId:
    @pytest.mark.parametrize("given", [A_UUID, "0190A1B2-0000-7000-8000-00000000000F"])
    async def test_comes_back_as_it_was_sent(self, rest: httpx.AsyncClient, backend: Backend, given: str) -> None:
        response = await rest.get("/v1/me", headers={"x-request-id": given})
        assert response.headers.get_list("x-request-id") == [given]
        assert backend.calls[0].metadata["x-request-id"] == given

    @pytest.mark.parametrize(
        "given",
        ["1", "a" * 36, '"><script>', "0190a1b2-0000-7000-8000-00000000000g", f"{A_UUID}, {A_UUID}"],
    )
    async def test_that_is_no_uuid_is_replaced(self, rest: httpx.AsyncClient, backend: Backend, given: str) -> None:
        response = await rest.get("/v1/me", headers={"x-request-id": given})
        (answered,) = response.headers.get_list("x-request-id")
        assert answered != given
        assert UUID.fullmatch(answered)
        assert backend.calls[0].metadata["x-request-id"] == answered

    async def test_is_made_when_absent(self, rest: httpx.AsyncClient) -> None:
        made = {(await rest.get("/v1/me")).headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3
        assert all(map(UUID.fullmatch, made))


class TestTrace:
    """`runtime/tracing/random_sampling` is 0 here: only a caller's `traceparent` has spans made."""

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            # Digits that mean "traced" to software that packs a reason into the id.
            *({"x-request-id": f"{A_UUID[:14]}{digit}{A_UUID[15:]}"} for digit in "9ab"),
            {"x-client-trace-id": "1"},
            {"x-envoy-force-trace": "1"},
            {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"},
        ],
    )
    async def test_is_not_begun(self, rest: httpx.AsyncClient, backend: Backend, headers: dict[str, str]) -> None:
        assert (await rest.get("/v1/me", headers=headers)).status_code == 200
        (call,) = backend.calls
        assert str(call.metadata.get("traceparent", "-00")).endswith("-00")
        assert "x-client-trace-id" not in call.metadata

    async def test_of_a_client_goes_on(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c"
        await rest.get("/v1/me", headers={"traceparent": f"{trace}-b7ad6b7169203331-01"})
        arrived = str(backend.calls[0].metadata["traceparent"])
        assert arrived.startswith(trace)
        assert arrived.endswith("-01")


class TestStatistics:
    async def test_count_the_methods_that_there_are(self, rest: httpx.AsyncClient, edge: Edge) -> None:
        async def counted(method: str) -> list[str]:
            async with httpx.AsyncClient(base_url=edge.admin, verify=False) as admin:
                stats = await admin.get(
                    "/stats", params={"filter": rf"grpc\.ameide\.user\.v1\.UserService\.{method}\."}
                )
            return stats.text.splitlines()

        made_up = {"content-type": "application/grpc"}
        assert (await rest.post(f"{USERS}/MadeUp", headers=made_up, content=b"\0" * 5)).status_code == 200
        assert (await rest.get("/v1/me")).status_code == 200
        assert any(re.fullmatch(r"cluster\.users\..*GetMe\.success: [1-9]\d*", line) for line in await counted("GetMe"))
        assert await counted("MadeUp") == []


class TestHeader:
    @pytest.mark.parametrize(
        "name",
        [
            "x-envoy-original-path",
            "x-envoy-retry-on",
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-internal",
            "x-envoy-anything",
            "x-forwarded-client-cert",
            "x-forwarded-host",
            "forwarded",
            "x-ameide-tenant",
            "x-tenant-id",
            "x-user-id",
            "x-roles",
            "x-on-behalf-of",
            "x-jwt-payload",
            "x-original-url",
        ],
    )
    async def test_that_could_be_taken_for_ours_is_dropped(
        self, rest: httpx.AsyncClient, backend: Backend, name: str
    ) -> None:
        response = await rest.get("/v1/me", headers={name: "/v1/forged"})
        assert response.status_code == 200
        assert backend.calls[0].metadata.get(name) in {None, "/v1/me"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *((f"x{character}y", "1") for character in "!#$%&'*+^`|~"),
            ("x-any-bin", "no base64"),
            ("grpc-trace-bin", "!"),
            ("grpc-internal-encoding-request", "gzip"),
            ("grpc-encoding", "unheard-of"),
            ("grpc-timeout", "soon"),
            ("grpc-timeout", "123456789S"),
        ],
    )
    async def test_that_grpc_cannot_carry_is_dropped(
        self, rest: httpx.AsyncClient, backend: Backend, name: str, value: str
    ) -> None:
        """It would be an INTERNAL of the service's gRPC."""
        assert (await rest.get("/v1/me", headers={name: value})).status_code == 200
        assert backend.calls[0].metadata.get(name) is None

    async def test_of_clients_goes_on_only_if_a_service_or_grpc_reads_it(
        self, edge: Edge, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        """Whatever else comes is removed, so nothing of a client is left that somebody could learn to believe."""
        known = dict.fromkeys(CLIENT_HEADERS - {"traceparent", "x-request-id"}, "x") | edge.credentials
        known |= {"if-none-match": "*", "cache-control": "max-age=5"}
        said = known | {"cookie": "a=b", "x-forwarded-for": "203.0.113.9", "x-anything": "1", "accept": "text/html"}
        # What passes until Envoy or a filter has read it.
        said |= dict.fromkeys(
            ("access-control-request-method", "connect-timeout-ms", "http2-settings", "te"), "trailers"
        )
        said |= dict.fromkeys(("x-ameide-header-bytes", "x-envoy-external-address", "tracestate", "upgrade"), "1")
        assert (await rest.get("/v1/me", headers=said | {"user-agent": "me"})).status_code == 200
        metadata = backend.calls[0].metadata
        assert known.items() <= metadata.items()
        ours = {"user-agent", "x-request-id", "x-forwarded-proto", "x-envoy-original-path", "x-envoy-original-method"}
        # The last three come from Envoy's router and tracer.
        assert ours <= set(metadata) - set(known)
        assert set(metadata) - set(known) <= ours | {"x-envoy-expected-rq-timeout-ms", "traceparent", "tracestate"}

    async def test_with_an_underscore_is_refused(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        response = await rest.get("/v1/me", headers={"x_tenant_id": "forged"})
        assert (response.status_code, response.json()["code"]) == (400, 3)
        assert backend.calls == []

    async def test_of_a_deadline_is_there_for_rest_too(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        await rest.get("/v1/me")
        await rest.get("/v1/me", headers={"grpc-timeout": "5S"})
        seconds = [call.seconds_left for call in backend.calls]
        assert 25 < (seconds[0] or 0) <= 30
        assert 0 < (seconds[1] or 0) <= 5


class TestId:
    @pytest.mark.parametrize(
        "query", ["id=b", "x=1&id=b", "%69d=b", "i%64=b", "user.id=b", "userId=b", "user_id=b", "id", "id=b&id=a"]
    )
    async def test_in_the_path_cannot_be_overruled_by_the_query(
        self, rest: httpx.AsyncClient, backend: Backend, query: str
    ) -> None:
        rest_refusal(await rest.get(f"/v1/users/a?{query}")).is_row(REPLIES[400], http_status=400)
        assert backend.calls == []

    async def test_in_the_path_cannot_be_overruled_by_the_body(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        rest_refusal(await rest.patch("/v1/users/a", json={"id": "b"})).is_row(REPLIES[400], http_status=400)
        assert backend.calls == []

    async def test_takes_the_characters_of_any_id(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        assert (await rest.get("/v1/users/a+b%20c%40d?")).status_code == 200
        assert backend.calls[0].request.id == "a+b c@d"


class TestQuery:
    async def test_binds_fields_by_json_name(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        await rest.get("/v1/users?pageSize=3&filter=email+%3D+%22a%2Bb%22&orderBy=display_name%20desc&showDeleted=true")
        request = backend.calls[0].request
        assert (request.page_size, request.filter, request.order_by) == (3, 'email = "a+b"', "display_name desc")
        assert request.show_deleted

    async def test_holds_an_update_mask(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        await rest.patch("/v1/users/a?updateMask=displayName,email", json={"displayName": "b"})
        assert list(backend.calls[0].request.update_mask.paths) == ["display_name", "email"]


class TestResponse:
    async def test_shows_fields_that_are_empty(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        assert (await rest.get("/v1/users")).json() == {"users": [], "nextPageToken": ""}

    async def test_of_a_verb_that_does_not_exist_is_404(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        assert (await rest.post("/v1/users/a:suspend")).status_code == 200
        assert backend.calls[0].method == "SuspendUser"
        for method, path in (("POST", "/v1/users/a:nothing"), ("GET", "/v2/users"), ("POST", f"{USERS}/DropUsers")):
            rest_refusal(await rest.request(method, path)).is_row(REPLIES[404], http_status=404)

    async def test_to_who_wants_a_tunnel_is_404(self, edge: Edge) -> None:
        """CONNECT has no path, which all other requests have."""
        host = "Host: example.com:80\r\nConnection: close\r\n\r\n"
        status, *_, body = await send_raw(edge, f"CONNECT example.com:80 HTTP/1.1\r\n{host}")
        assert (status, json.loads(body)["details"][0]["reason"]) == ("HTTP/1.1 404 Not Found", "METHOD_NOT_FOUND")

    async def test_of_a_method_that_the_path_does_not_have_says_which_it_has(self, rest: httpx.AsyncClient) -> None:
        for method, path, allow in (
            ("PUT", "/v1/users/a", "DELETE, GET, HEAD, PATCH, OPTIONS"),
            ("HEAD", "/v1/users/a:suspend", "POST, OPTIONS"),
            ("HEAD", "/v1/users:watch", "GET, OPTIONS"),
            ("POST", "/docs", "GET, HEAD, OPTIONS"),
        ):
            response = await rest.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, allow)
            if method != "HEAD":
                rest_refusal(response).is_row(REPLIES[405], http_status=405)

    @pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
    async def test_to_head_is_that_to_get_without_its_body(self, edge: Edge, backend: Backend, http2: bool) -> None:
        async def large(_request: Any, _context: Any) -> pb.ListUsersResponse:
            return pb.ListUsersResponse(users=[pb.User(display_name="a" * 100)] * 100)

        backend.script["ListUsers"] = large
        answers = {}
        async with edge.client(headers=edge.credentials, http1=not http2, http2=http2) as client:
            for path in ("/v1/me", "/v1/users", "/v1/users?x=1", "/v1/nothing", "/docs", "/openapi.json", "/healthz"):
                got, head = await client.get(path), await client.head(path, headers={"accept-encoding": "gzip"})
                assert (head.status_code, head.content) == (got.status_code, b""), path
                answers[path] = head.status_code
                for name in ("content-type", "error-type", "cache-control"):
                    assert head.headers.get(name) == got.headers.get(name), path
                assert "content-encoding" not in head.headers
                # Of the body that GET would bring, if it is said (RFC 9110, section 9.3.2).
                assert head.headers.get("content-length") in (None, str(len(got.content))), path
        assert answers == {
            **dict.fromkeys(("/v1/me", "/v1/users", "/docs", "/openapi.json", "/healthz"), 200),
            "/v1/users?x=1": 400,
            "/v1/nothing": 404,
        }
        assert [call.method for call in backend.calls] == ["GetMe", "GetMe", "ListUsers", "ListUsers"]


class TestMalformedPath:
    @pytest.mark.parametrize(
        "path",
        [
            "//v1/me",
            "/v1/./me",
            "/v1/../v1/me",
            "/v1/%2e%2e/v1/me",
            "/v1/%2fme",
            "/v1%5cme",
            "/v1\\me",
            "/v1/users/%00",
            "/v1/users/%zz",
            "/v1/users/\xff",
            "/v1/me;x=1",
            "/healthz/..;/v1/me",
            "/healthz/../v1/me",
            "/docs/../v1/me",
            "/docs/x",
            "/V1/me",
            "/v1/me/",
            "/v1/me#x",
            "/healthz%20",
            "/healthz?x",
            "*",
            "http://x/v1/me",
        ],
    )
    async def test_gets_nobody_in(self, edge: Edge, backend: Backend, path: str) -> None:
        lines = await send_raw(edge, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert int(lines[0].split(" ")[1]) in {400, 401, 404}
        assert "type.googleapis.com/google.rpc.ErrorInfo" in lines[-1]
        assert backend.calls == []
