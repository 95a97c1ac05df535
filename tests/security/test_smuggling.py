"""Requests whose end or meaning two parsers could see differently: refused, or passed on in one meaning only.

The edge speaks HTTP/2 with the services, so nothing of how a request was written reaches them. Envoy's parser takes a
bare line feed (RFC 9112, section 2.2, allows it), a folded header (section 5.2: it becomes spaces) and a lone carriage
return, and has no switch for them: those rows show that nobody's next request suffers.
"""

import asyncio
import base64

import httpx
import pytest
from google.rpc import status_pb2

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, rest_refusal
from tests.e2e.edge.plugin import Edge
from tests.http2 import Http2

CANARY = "GET /v1/users/canary HTTP/1.1\r\nhost: x\r\n{auth}\r\nconnection: close\r\n\r\n"
GET = "GET /v1/me HTTP/1.1\r\nhost: x\r\n{auth}\r\n"
POST = "POST /v1/users HTTP/1.1\r\nhost: x\r\n{auth}\r\n"

AMBIGUOUS = [
    "GET /v1/me HTTP/1.1\r\nhost: x\r\nhost: y\r\n{auth}\r\n\r\n",
    GET + "x-a : b\r\n\r\n",
    "GET /v1/me HTTP/1.1\r\n x: y\r\nhost: x\r\n{auth}\r\n\r\n",
    GET + "no colon\r\n\r\n",
    POST + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    POST + "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    POST + "content-length: 2, 2\r\n\r\n{}",
    POST + "content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    POST + "content-length: -1\r\n\r\n{}",
    POST + "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + "transfer-encoding: chunked\r\n\r\n2;a\n{}\r\n0\r\n\r\n",
    POST + "transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
    POST + "transfer-encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
]


async def exchange(edge: Edge, text: str) -> str:
    """Sends everything at once and returns all that comes back until the edge closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(text.replace("{auth}", f"authorization: Bearer {edge.token}").encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode("latin-1")


def response_of(answer: str) -> httpx.Response:
    head, _, body = answer.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx.Response(int(first.split(" ")[1]), headers=headers, content=body)


class TestHttp1:
    @pytest.mark.parametrize(
        ("text", "status"),
        [
            (POST + "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (POST + "content-length: 4\r\ncontent-length: 5\r\n\r\n{}  ", 400),
            (POST + "transfer-encoding: gzip\r\n\r\n", 501),
            (GET + "x-a: a\0b\r\n\r\n", 400),
            ("GET /v1/me HTTP/1.1\r\n\r\n", 400),
            ("GET /v1/me HTTP/1.0\r\nhost: x\r\n{auth}\r\n\r\n", 426),
            (GET + "connection: upgrade, close\r\nupgrade: websocket\r\n\r\n", 400),
        ],
        ids=["two lengths", "lengths differ", "coding", "nul", "no host", "http 1.0", "upgrade"],
    )
    async def test_is_refused_in_our_shape_and_poisons_nothing(
        self, edge: Edge, rest: httpx.AsyncClient, backend: Backend, text: str, status: int
    ) -> None:
        refusal = rest_refusal(response_of(await exchange(edge, text)))
        assert (refusal.http_status, refusal.message) == (status, REPLIES[status].message)
        assert backend.calls == []
        assert (await rest.get("/v1/me")).status_code == 200

    @pytest.mark.parametrize("head", ["POST /v1/me HTTP/1.1\r\n", "POST /v1/a%2fb HTTP/1.1\r\nhost: x\r\n"])
    async def test_that_no_filter_sees_cannot_write_its_refusal(self, edge: Edge, head: str) -> None:
        """The parser refuses it, with its headers as the client wrote them."""
        head += 'x-request-id: "},<b>\r\nx-envoy-original-path: /v1/me\r\ncontent-length: 0\r\n'
        refused = rest_refusal(response_of(await exchange(edge, head + "\r\n")))
        assert (refused.message, refused.request_id) == (REPLIES[400].message, "")
        headers = response_of(await exchange(edge, head + "content-type: application/grpc\r\n\r\n")).headers
        assert (headers["grpc-status"], headers["grpc-message"]) == ("3", REPLIES[400].message)
        status = status_pb2.Status.FromString(base64.b64decode(headers["grpc-status-details-bin"]))
        assert [detail.TypeName().rpartition(".")[2] for detail in status.details] == ["ErrorInfo", "RequestInfo"]
        assert "<b>" not in str(status)

    async def test_that_is_ambiguous_is_refused(self, edge: Edge, backend: Backend, rest: httpx.AsyncClient) -> None:
        # All at once: after each the edge waits a second for the client to hang up.
        answers = await asyncio.gather(*(exchange(edge, text + CANARY) for text in AMBIGUOUS))
        statuses = {text: answer.split(" ")[1] for text, answer in zip(AMBIGUOUS, answers, strict=True)}
        assert {text: status for text, status in statuses.items() if status not in {"400", "501"}} == {}
        # What follows on the same connection is thrown away or is itself.
        assert {call.request.id for call in backend.calls} <= {"canary"}
        backend.calls.clear()
        # On the connection to the service that is open.
        assert (await rest.get("/v1/users/next")).status_code == 200
        assert [call.request.id for call in backend.calls] == ["next"]

    @pytest.mark.parametrize(
        ("text", "seen"),
        [
            ("GET /v1/users/a HTTP/1.1\nhost: x\n{auth}\n\n", None),
            ("GET /v1/users/a HTTP/1.1\r\nhost: x\n{auth}\r\n\r\n", None),
            ("GET /v1/users/a HTTP/1.1\r\nhost: x\r\n{auth}\r\nuser-agent: b\r\n c: d\r\n\r\n", "b c: d"),
            ("GET /v1/users/a HTTP/1.1\r\nhost: x\r\n{auth}\r\nuser-agent: b\r\n\tc\r\n\r\n", "b?c"),
            ("GET /v1/users/a HTTP/1.1\r\nhost: x\r\n{auth}\r\nuser-agent: b\rc: d\r\n\r\n", "bc: d"),
            ("GET /v1/users/a HTTP/1.1\r\nhost: x\r\n{auth}\r\ncontent-length: 0\r\n\r\n", None),
        ],
    )
    async def test_that_is_odd_is_one_request_and_the_next_is_the_next(
        self, edge: Edge, backend: Backend, text: str, seen: str | None
    ) -> None:
        answer = await exchange(edge, text + CANARY)
        assert answer.count("HTTP/1.1 200 OK") == 2
        assert [call.request.id for call in backend.calls] == ["a", "canary"]
        assert [call.metadata.get("user-agent") for call in backend.calls] == [seen, None]


class TestHttp2:
    @pytest.mark.parametrize(
        "header",
        [
            ("X-Upper", "1"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("x-a", "b\r\nx-tenant: c"),
            ("x-a", "b\0c"),
            ("content-length", "5"),
            ("te", "gzip"),
        ],
        ids=str,
    )
    async def test_that_is_malformed_ends_its_stream_and_no_other(
        self, edge: Edge, backend: Backend, header: tuple[str, str]
    ) -> None:
        """RFC 9113, section 8.2; the connection stays for the 999 others."""
        credentials = list(edge.credentials.items())
        async with Http2(edge.port) as connection:
            assert (await connection.ask([*credentials, header])).outcome in {"400", "reset"}
            assert backend.calls == []
            assert (await connection.ask(credentials)).outcome == "200"
        assert len(backend.calls) == 1
