"""Connect at the edge: what callers may say and what they get, in protobuf and JSON (ADR 40).

tests/e2e/edge/test_connect_clients.py has the official clients.
"""

import base64
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
from ameide.common.v1 import watch_pb2
from ameide.user.v1 import user_pb2 as pb
from google.rpc import error_details_pb2

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import CONNECT, REPLIES, USERS, connect_error, connect_refusal, rest_refusal
from tests.e2e.edge.connect import END, WATCH, call, decoded, encoded, envelope, envelopes, stream_refusal, watch
from tests.e2e.edge.histories import CHANGES, ERRORS, watch_users
from tests.e2e.edge.plugin import Edge

CODECS: Final = ("proto", "json")
GET: Final = f"{USERS}/GetUser"
CREATE: Final = f"{USERS}/CreateUser"


@pytest.fixture(params=[False, True], ids=["HTTP/1.1", "HTTP/2"])
async def client(edge: Edge, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a token, which says the version of Connect."""
    headers = edge.credentials | {"connect-protocol-version": "1"}
    async with edge.client(headers=headers, http1=not request.param, http2=request.param) as client:
        yield client


@pytest.mark.parametrize("codec", CODECS)
class TestUnary:
    async def test_reaches_the_service_as_any_other_call(
        self, client: httpx.AsyncClient, backend: Backend, codec: str
    ) -> None:
        async def answer(request: pb.CreateUserRequest, context: Any) -> pb.User:
            await context.send_initial_metadata((("etag", '"3"'), ("idempotent-replayed", "true")))
            return request.user

        backend.script["CreateUser"] = answer
        user = pb.User(display_name='Ada "Countess" Lovelace\n', email="ada@example.com")
        response = await call(
            *(client, CREATE, codec, encoded(pb.CreateUserRequest(user=user), codec)),
            idempotency_key="one",
            if_match='"2"',
            connect_timeout_ms="5000",
            grpc_timeout="1H",
        )
        assert (response.status_code, response.headers["content-type"]) == (200, f"application/{codec}")
        assert decoded(response.content, codec, pb.User) == user
        assert (response.headers.get_list("etag"), response.headers["idempotent-replayed"]) == (['"3"'], "true")
        assert not [name for name in response.headers if name.startswith(("grpc-", "x-ameide", "trailer-"))]
        (said,) = backend.calls
        assert (said.request.user, said.metadata["idempotency-key"], said.metadata["if-match"]) == (user, "one", '"2"')
        assert said.seconds_left and 3 < said.seconds_left <= 5
        assert not [name for name in said.metadata if name.startswith(("connect-", "x-ameide-size"))]

    async def test_needs_no_version(self, edge: Edge, backend: Backend, codec: str) -> None:
        async with edge.client(headers=edge.credentials) as client:
            response = await call(client, f"{USERS}/GetMe", codec, encoded(pb.GetMeRequest(), codec))
        assert (response.status_code, response.headers["content-type"]) == (200, f"application/{codec}")

    async def test_may_be_as_large_as_elsewhere(self, client: httpx.AsyncClient, backend: Backend, codec: str) -> None:
        async def answer(_request: Any, _context: Any) -> pb.User:
            return pb.User(display_name="x" * (9 * MIB))

        backend.script["GetMe"] = answer
        response = await call(client, f"{USERS}/GetMe", codec, b"" if codec == "proto" else b"{}")
        assert len(decoded(response.content, codec, pb.User).display_name) == 9 * MIB
        # In JSON no text may be as long.
        large = pb.CreateUserRequest(user=pb.User(labels={str(number): "x" * MIB for number in range(9)}))
        assert (await call(client, CREATE, codec, encoded(large, codec))).status_code == 200
        assert backend.calls[-1].request == large

    async def test_is_compressed_for_who_accepts_it(
        self, client: httpx.AsyncClient, backend: Backend, codec: str
    ) -> None:
        async def answer(_request: Any, context: Any) -> pb.User:
            await context.send_initial_metadata((("etag", '"3"'),))
            return pb.User(display_name="x" * 100_000)

        backend.script["GetMe"] = answer
        content = encoded(pb.GetMeRequest(), codec)
        response = await call(client, f"{USERS}/GetMe", codec, content, accept_encoding="gzip")
        assert (response.headers["content-encoding"], response.headers["etag"]) == ("gzip", '"3"')
        assert response.num_bytes_downloaded < 5_000
        assert len(decoded(response.content, codec, pb.User).display_name) == 100_000

    @pytest.mark.parametrize(
        ("name", "value", "row"),
        [("connect-protocol-version", "2", 400), ("content-encoding", "br", 501), ("idempotency-key", "\x80", 400)],
    )
    async def test_with_a_header_that_nobody_reads_is_refused(
        self, client: httpx.AsyncClient, backend: Backend, codec: str, name: str, value: str, row: int
    ) -> None:
        content = encoded(pb.GetUserRequest(id="1"), codec)
        headers = {b"content-type": f"application/{codec}".encode(), name.encode(): value.encode("latin-1")}
        response = await client.post(GET, content=content, headers=headers)
        connect_refusal(response).is_row(REPLIES[row], http_status=CONNECT[REPLIES[row].code.value[0]][1])
        assert backend.calls == []

    @pytest.mark.parametrize("said", ["", "x", "-1", "1.5", "12345678901", "1m", "5000,1"])
    async def test_with_a_deadline_that_is_none_has_the_edge_s(
        self, client: httpx.AsyncClient, backend: Backend, codec: str, said: str
    ) -> None:
        response = await call(client, GET, codec, encoded(pb.GetUserRequest(), codec), connect_timeout_ms=said)
        left = backend.calls[0].seconds_left
        assert response.status_code == 200
        assert left and 25 < left <= 30

    async def test_of_a_stream_is_refused(self, client: httpx.AsyncClient, backend: Backend, codec: str) -> None:
        refusal = connect_refusal(await call(client, WATCH, codec, encoded(pb.WatchUsersRequest(), codec)))
        assert refusal.reason == "UNSUPPORTED_MEDIA_TYPE"
        refusal = stream_refusal(await call(client, GET, f"connect+{codec}", envelope(b"")), codec)
        assert refusal.reason == "UNSUPPORTED_MEDIA_TYPE"
        assert backend.calls == []


class TestProto:
    async def test_may_be_compressed(self, client: httpx.AsyncClient, backend: Backend) -> None:
        packed = gzip.compress(pb.GetUserRequest(id="1").SerializeToString())
        response = await call(client, GET, "proto", packed, content_encoding="gzip")
        assert response.status_code == 200
        assert backend.calls[0].request.id == "1"


class TestJson:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (b'{"id": "1", "colour": 2}', "colour"),
            (b'{"id": "1", "id": "1"}', "id"),
            (b'{"id": 1}', "id"),
            (b"{'id': '1'}", ""),
            (b'{"id": "1"} {"id": "1"}', ""),
            (b'{"id": "1",}', ""),
            (b"[]", ""),
        ],
    )
    async def test_is_as_strict_as_rest(
        self, client: httpx.AsyncClient, backend: Backend, body: bytes, field: str
    ) -> None:
        refusals = (
            connect_refusal(await call(client, GET, "json", body)),
            stream_refusal(await watch(client, "json", envelope(body)), "json"),
        )
        for refusal in refusals:
            violations = error_details_pb2.BadRequest()
            assert refusal.status.details[-1].Unpack(violations)
            assert (refusal.reason, violations.field_violations[0].reason != "") == ("INVALID_REQUEST", True)
            # The other request has other fields.
            assert refusal is refusals[1] or violations.field_violations[0].field == field
        assert backend.calls == []

    async def test_names_the_field_of_a_day_that_no_month_has(
        self, client: httpx.AsyncClient, backend: Backend
    ) -> None:
        body = b'{"user": {"createTime": "2026-02-30T00:00:00Z"}}'
        refusal = connect_refusal(await call(client, f"{USERS}/CreateUser", "json", body))
        violations = error_details_pb2.BadRequest()
        assert refusal.status.details[-1].Unpack(violations)
        (found,) = violations.field_violations
        assert (found.field, found.reason) == ("user.createTime", "OUT_OF_RANGE")
        assert backend.calls == []

    @pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/connect+xml", None])
    async def test_is_said_to_be_json(
        self, client: httpx.AsyncClient, backend: Backend, content_type: str | None
    ) -> None:
        headers = {"content-type": content_type} if content_type else {}
        response = await client.post(GET, content=b'{"id": "1"}', headers=headers)
        rest_refusal(response).is_row(REPLIES[415], http_status=415)
        assert backend.calls == []


@pytest.mark.parametrize("codec", CODECS)
class TestStream:
    async def test_brings_every_message_and_an_end(
        self, client: httpx.AsyncClient, backend: Backend, codec: str
    ) -> None:
        backend.script["WatchUsers"] = watch_users()
        request = pb.WatchUsersRequest(filter="unavailable", resume_token=str(CHANGES - 2))
        response = await watch(client, codec, envelope(encoded(request, codec)), connect_accept_encoding="gzip, br")
        assert (response.status_code, response.headers["content-type"]) == (200, f"application/connect+{codec}")
        *messages, (flags, last) = envelopes(response.content)
        assert {flag for flag, _ in messages} == {0}
        places = [decoded(content, codec, pb.WatchUsersResponse).resume_token for _, content in messages]
        assert places == [str(CHANGES - 2), str(CHANGES - 1), str(CHANGES), str(CHANGES)]
        assert flags == END
        end = json.loads(last)
        error = ERRORS["unavailable"]
        refusal = connect_error(end["error"], 200, {name: said for name, (said,) in end["metadata"].items()})
        assert (refusal.code, refusal.reason, refusal.message) == (14, error.reason, str(error))

    async def test_that_ends_well_has_no_error(self, client: httpx.AsyncClient, backend: Backend, codec: str) -> None:
        async def answer(_request: Any, context: Any) -> None:
            await context.write(pb.WatchUsersResponse(bookmark=watch_pb2.Bookmark()))

        backend.script["WatchUsers"] = answer
        response = await watch(client, codec, envelope(encoded(pb.WatchUsersRequest(), codec)))
        (_, first), (flags, last) = envelopes(response.content)
        assert decoded(first, codec, pb.WatchUsersResponse).HasField("bookmark")
        assert flags == END
        assert "error" not in json.loads(last)

    async def test_without_a_message_ends(self, client: httpx.AsyncClient, backend: Backend, codec: str) -> None:
        async def answer(_request: Any, context: Any) -> None:
            await context.send_initial_metadata(())

        for backend.script["WatchUsers"] in (answer, _nothing):
            response = await watch(client, codec, envelope(encoded(pb.WatchUsersRequest(), codec)))
            ((flags, last),) = envelopes(response.content)
            assert (flags, "error" in json.loads(last)) == (END, False)

    @pytest.mark.parametrize("opened", [False, True])
    async def test_that_the_service_refuses_ends_with_its_error(
        self, client: httpx.AsyncClient, backend: Backend, codec: str, opened: bool
    ) -> None:
        refuse = watch_users()

        async def answer(request: Any, context: Any) -> None:
            if opened:
                await context.send_initial_metadata(())
            await refuse(request, context)

        backend.script["WatchUsers"] = answer
        content = envelope(encoded(pb.WatchUsersRequest(filter="refused gone"), codec))
        response = await watch(client, codec, content)
        assert response.status_code == 200
        ((flags, last),) = envelopes(response.content)
        end = json.loads(last)
        assert flags == END
        metadata = {name: said for name, (said,) in end.get("metadata", {}).items()}
        refusal = connect_error(end["error"], 200, dict(response.headers) | metadata)
        assert (refusal.code, refusal.reason) == (11, "RESUME_TOKEN_EXPIRED")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\0",
            b"\0\0\0\0",
            b"\0\xff\xff\xff\xff",
            b"\0\0\0\0\2{",
            envelope(b"{}") + b"\0",
            envelope(b"{}") * 2,
            envelope(b"{}", END),
            envelope(b"{}", 0x80),
            envelope(b"{}", 4),
            b"{}",
        ],
    )
    async def test_of_another_body_is_refused_at_once(
        self, client: httpx.AsyncClient, backend: Backend, codec: str, body: bytes
    ) -> None:
        stream_refusal(await watch(client, codec, body), codec).is_row(REPLIES[400], http_status=200)
        assert backend.calls == []

    async def test_without_a_token_is_refused(self, edge: Edge, codec: str) -> None:
        async with edge.client() as client:
            response = await watch(client, codec, envelope(b""))
        stream_refusal(response, codec).is_row(REPLIES[401], http_status=200)
        assert response.headers["www-authenticate"].startswith("Bearer")

    async def test_of_a_service_that_is_down(self, client: httpx.AsyncClient, codec: str) -> None:
        path = "/ameide.workflow.v1.WorkflowService/WatchWorkflows"
        response = await call(client, path, f"connect+{codec}", envelope(b"{}" if codec == "json" else b""))
        stream_refusal(response, codec).is_row(REPLIES[503], http_status=200)

    async def test_in_a_compression_that_nobody_reads_is_refused(
        self, client: httpx.AsyncClient, backend: Backend, codec: str
    ) -> None:
        response = await watch(client, codec, envelope(b"{}"), connect_content_encoding="br")
        stream_refusal(response, codec).is_row(REPLIES[501], http_status=200)
        assert backend.calls == []


async def _nothing(_request: Any, _context: Any) -> None:
    return None


def query(codec: str, content: bytes, **changed: str | None) -> dict[str, str]:
    in_base64 = base64.urlsafe_b64encode(content).decode().rstrip("=")
    good = {"connect": "v1", "encoding": codec, "base64": "1", "message": in_base64} | changed
    return {name: value for name, value in good.items() if value is not None}


@pytest.mark.parametrize("codec", CODECS)
class TestGet:
    async def test_asks_for_what_has_no_side_effects(
        self, client: httpx.AsyncClient, backend: Backend, codec: str
    ) -> None:
        async def answer(request: pb.GetUserRequest, _context: Any) -> pb.User:
            return pb.User(id=request.id)

        backend.script["GetUser"] = answer
        request = pb.GetUserRequest(id="a?b&c=ü+")
        response = await client.get(GET, params=query(codec, encoded(request, codec)))
        assert (response.status_code, response.headers["content-type"]) == (200, f"application/{codec}")
        assert decoded(response.content, codec, pb.User).id == request.id
        assert (await client.get(f"{USERS}/GetMe", params=query(codec, b""))).status_code == 200
        plain = query("json", b"", message='{"id": "a b+"}', base64=None)
        assert (await client.get(GET, params=plain)).status_code == 200
        assert backend.calls[-1].request.id == "a b+"
        packed = gzip.compress(encoded(request, codec))
        response = await client.get(GET, params=query(codec, packed, compression="gzip"))
        assert (response.status_code, codec) in {(200, "proto"), (400, "json")}

    @pytest.mark.parametrize("path", [CREATE, WATCH])
    async def test_of_something_else_is_refused(
        self, client: httpx.AsyncClient, backend: Backend, codec: str, path: str
    ) -> None:
        response = await client.get(path, params=query(codec, b"{}" if codec == "json" else b""))
        connect_refusal(response).is_row(REPLIES[405], http_status=501)
        assert response.headers["allow"] == "POST, OPTIONS"
        assert backend.calls == []

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"message": None}, "message"),
            ({"message": "A"}, "message"),
            ({"message": "AB"}, "message"),
            ({"message": "AA*A"}, "message"),
            ({"message": "AAAA===="}, "message"),
            ({"base64": "2"}, "base64"),
            ({"encoding": "xml"}, "encoding"),
            ({"encoding": None}, "encoding"),
            ({"compression": "br"}, "compression"),
            ({"colour": "red"}, "colour"),
        ],
    )
    async def test_that_is_malformed_names_the_parameter(
        self, client: httpx.AsyncClient, backend: Backend, codec: str, changed: dict[str, str | None], field: str
    ) -> None:
        refusal = connect_refusal(await client.get(GET, params=query(codec, b"", **changed)))
        violations = error_details_pb2.BadRequest()
        assert refusal.status.details[-1].Unpack(violations)
        assert (refusal.reason, violations.field_violations[0].field) == ("INVALID_REQUEST", field)
        assert backend.calls == []

    async def test_has_no_body(self, client: httpx.AsyncClient, backend: Backend, codec: str) -> None:
        async def unannounced() -> AsyncIterator[bytes]:
            yield b"{}"

        for content in (b"{}", unannounced()):
            response = await client.request("GET", GET, params=query(codec, b""), content=content)
            assert connect_refusal(response).reason == "INVALID_REQUEST"
        assert backend.calls == []

    async def test_is_refused_without_a_token(self, edge: Edge, codec: str) -> None:
        async with edge.client() as client:
            response = await client.get(GET, params=query(codec, b"", message="*"))
        connect_refusal(response).is_row(REPLIES[401], http_status=401)

    async def test_is_only_connect_with_its_parameter(self, client: httpx.AsyncClient, codec: str) -> None:
        """The filter that makes gRPC of Connect would take more requests for it."""
        refused = await client.get(GET, params=query(codec, b"", connect="v2"))
        rest_refusal(refused).is_row(REPLIES[405], http_status=405)
        for path in ("/v1/users/a", "/v1/users/a?%63onnect=v1"):
            refused = await client.get(path, params=query(codec, b"") if "?" not in path else None)
            assert rest_refusal(refused).reason == "INVALID_REQUEST"
