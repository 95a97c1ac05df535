"""A service that answers with what is no answer: the edge says so in our words, at once, and goes on."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived, StreamEnded

from tests.e2e.edge.backend import listening
from tests.e2e.edge.callers import CALLERS, REPLIES, Ask, http_status_of
from tests.e2e.edge.plugin import WORKFLOWS_PORT, Edge

ASK: Final = ("/v1/workflows", "/ameide.workflow.v1.WorkflowService/ListWorkflows")
SECONDS: Final = 5
"""Far less than the 60 s that the edge waits for an answer."""

Break = Callable[[H2Connection, int], bytes | None]
"""Answers a stream with something wrong; bytes are written past HTTP/2."""


def _begin(connection: H2Connection, stream: int, content_type: str = "application/grpc") -> None:
    connection.send_headers(stream, [(":status", "200"), ("content-type", content_type)])


def _end(connection: H2Connection, stream: int) -> None:
    connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)


def good(connection: H2Connection, stream: int) -> None:
    _begin(connection, stream)
    connection.send_data(stream, struct.pack(">BI", 0, 0))
    _end(connection, stream)


def healthy(connection: H2Connection, stream: int) -> None:
    _begin(connection, stream)
    connection.send_data(stream, struct.pack(">BI", 0, 2) + b"\x08\x01")
    _end(connection, stream)


def garbage(_connection: H2Connection, _stream: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256))


def reset(connection: H2Connection, stream: int) -> None:
    connection.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)


def go_away(connection: H2Connection, _stream: int) -> None:
    connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, last_stream_id=0)


def page(connection: H2Connection, stream: int) -> None:
    connection.send_headers(stream, [(":status", "200"), ("content-type", "text/html")])
    connection.send_data(stream, b"<html>hello</html>", end_stream=True)


def page_of_500(connection: H2Connection, stream: int) -> None:
    connection.send_headers(stream, [(":status", "500"), ("content-type", "text/html")], end_stream=True)


def page_without_end(connection: H2Connection, stream: int) -> None:
    page_of_text = [(":status", "200"), ("content-length", "18")]
    connection.send_headers(stream, page_of_text)
    connection.send_data(stream, b"<html>hello</html>")
    connection.send_headers(stream, [("x-trailer", "1")], end_stream=True)


def half(connection: H2Connection, stream: int) -> None:
    _begin(connection, stream)
    connection.send_data(stream, struct.pack(">BI", 0, 100) + b"\x0a\x01")
    _end(connection, stream)


def reset_amid_a_message(connection: H2Connection, stream: int) -> None:
    _begin(connection, stream)
    connection.send_data(stream, struct.pack(">BI", 0, 100) + b"\x0a\x01")
    connection.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)


@dataclass
class BrokenService:
    """Serves workflows: its health as it should be, all else with ``answer``."""

    answer: Break = good
    asked: int = 0

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        checks: set[int] = set()
        while not writer.is_closing() and (data := await reader.read(65536)):
            raw = b""
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived) and dict(event.headers)[b":path"] != ASK[1].encode():
                    checks.add(event.stream_id)
                elif isinstance(event, StreamEnded):
                    raw = self._answer(connection, event.stream_id, is_check=event.stream_id in checks)
            writer.write(connection.data_to_send() + raw)
        writer.close()

    def _answer(self, connection: H2Connection, stream: int, *, is_check: bool) -> bytes:
        self.asked += not is_check
        return (healthy if is_check else self.answer)(connection, stream) or b""


@pytest.fixture(scope="module")
async def serving(offset: int, certs: Path) -> AsyncIterator[BrokenService]:
    service = BrokenService()
    async with listening(service.meet, WORKFLOWS_PORT + offset, certs):
        yield service


@pytest.fixture
async def broken(serving: BrokenService, rest: httpx.AsyncClient) -> BrokenService:
    """Answers well until a test says otherwise, and the edge knows it."""
    serving.answer, serving.asked = good, 0
    async with asyncio.timeout(SECONDS):
        while (await rest.get(ASK[0])).status_code != 200:
            await asyncio.sleep(0.05)
    serving.asked = 0
    return serving


@pytest.mark.parametrize("answer", [garbage, reset, go_away], ids=lambda one: one.__name__)
@pytest.mark.parametrize("language", CALLERS)
async def test_no_answer_is_unavailable_in_every_language(
    edge: Edge, broken: BrokenService, language: str, answer: Break
) -> None:
    broken.answer = answer
    async with asyncio.timeout(SECONDS):
        refusal = await CALLERS[language](edge, Ask(*ASK, edge.credentials))
    is_rest = language.startswith("rest")
    status = 502 if is_rest and answer is garbage else http_status_of(REPLIES[503], language)
    refusal.is_row(REPLIES[503], http_status=status)
    # A read may be asked again, once.
    assert broken.asked == 2


@pytest.mark.parametrize("answer", [page, page_of_500, page_without_end], ids=lambda one: one.__name__)
@pytest.mark.parametrize("language", CALLERS)
async def test_what_is_not_grpc_is_unavailable_in_every_language(
    edge: Edge, broken: BrokenService, language: str, answer: Break
) -> None:
    broken.answer = answer
    async with asyncio.timeout(SECONDS):
        if language.startswith(("rest", "connect")):
            refusal = await CALLERS[language](edge, Ask(*ASK, edge.credentials))
            refusal.is_row(REPLIES[503], http_status=503)
            assert refusal.headers["content-security-policy"]
        elif language == "grpc":
            async with edge.channel() as channel:
                method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ASK[1])
                assert await method(b"", metadata=tuple(edge.credentials.items())).code() == grpc.StatusCode.UNAVAILABLE
        else:
            headers = edge.credentials | {"content-type": "application/grpc-web+proto"}
            async with edge.client(headers=headers) as client:
                said = await client.post(ASK[1], content=b"\0" * 5)
            assert (said.headers["grpc-status"], said.headers["grpc-message"]) == ("14", REPLIES[503].message)
            assert said.headers["error-type"] == "UNAVAILABLE"


@pytest.mark.parametrize("answer", [half, reset_amid_a_message], ids=lambda one: one.__name__)
async def test_half_an_answer_over_rest_is_refused_with_every_header(
    edge: Edge, broken: BrokenService, answer: Break
) -> None:
    broken.answer = answer
    refusal = await CALLERS["rest"](edge, Ask(*ASK, edge.credentials))
    refusal.is_row(REPLIES[503], http_status=502 if answer is half else 503)
    assert refusal.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert (refusal.headers["cache-control"], refusal.headers["referrer-policy"]) == ("no-store", "no-referrer")


async def test_half_an_answer_is_none(edge: Edge, broken: BrokenService) -> None:
    broken.answer = reset_amid_a_message
    ask = Ask(*ASK, edge.credentials)
    async with asyncio.timeout(SECONDS):
        refusal = await CALLERS["rest"](edge, ask)
        # Not all headers of a refusal: those of the answer were set already.
        assert (refusal.http_status, refusal.reason, refusal.message) == (503, "UNAVAILABLE", REPLIES[503].message)
        async with edge.channel() as channel:
            # Its first half has left: gRPC itself finds that the rest is missing.
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ask.rpc)
            code = await method(b"", metadata=tuple(ask.headers.items())).code()
    assert code in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}
    assert broken.asked == 2
