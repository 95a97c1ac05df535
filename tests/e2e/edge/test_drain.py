"""An edge that stops, or has had a connection for long, sends its clients elsewhere and loses nobody's call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Decoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.conftest import Edge, Layout, running


@pytest.fixture(scope="module")
async def restless(layout: Layout, published: None) -> AsyncIterator[Edge]:
    """The edge with figures that a test can reach."""

    def change(manager: Any) -> None:
        manager["common_http_protocol_options"]["max_connection_duration"] = "1s"
        manager["drain_timeout"] = "0.2s"

    async with running(layout("restless", 2, change)) as result:
        yield result


class Http2:
    """A connection whose frames one sees; h2 itself gives up at the first GOAWAY."""

    def __init__(self, edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._headers = Decoder()
        self._edge, self._reader, self._writer = edge, reader, writer
        self.seen: list[type[Frame]] = []

    @classmethod
    @asynccontextmanager
    async def to(cls, edge: Edge) -> AsyncIterator["Http2"]:
        """Opens a connection to ``edge``."""
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        try:
            yield cls(edge, reader, writer)
        finally:
            writer.close()

    def get(self, path: str) -> None:
        """Asks for ``path``."""
        headers = {":method": "GET", ":scheme": "http", ":authority": "edge", ":path": path, **self._edge.credentials}
        self._h2.send_headers(self._h2.get_next_available_stream_id(), list(headers.items()), end_stream=True)
        self._writer.write(self._h2.data_to_send())

    async def until(self, kind: type[Frame]) -> Any:
        """Returns the next frame of this kind."""
        async with asyncio.timeout(10):
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self.seen.append(type(frame))
                if isinstance(frame, kind):
                    return frame

    async def status(self) -> str:
        """Returns the HTTP status of the next answer."""
        answer = await self.until(HeadersFrame)
        return dict(self._headers.decode(answer.data, raw=True))[b":status"].decode()


class TestConnection:
    async def test_is_told_to_go_elsewhere_also_while_it_waits_for_an_answer(
        self, restless: Edge, backend: Backend
    ) -> None:
        go_on = asyncio.Event()

        async def answer(_request: Any, _context: Any) -> pb.User:
            await go_on.wait()
            return pb.User()

        backend.script["GetUser"] = answer
        async with Http2.to(restless) as connection:
            connection.get("/v1/users/a")
            await connection.until(GoAwayFrame)
            assert HeadersFrame not in connection.seen
            go_on.set()
            assert await connection.status() == "200"

    async def test_of_http_1_is_closed_with_an_answer(self, restless: Edge, backend: Backend) -> None:
        async with restless.client(headers=restless.credentials) as client, asyncio.timeout(10):
            while (answer := await client.get("/v1/users/a")).headers.get("connection") != "close":
                assert answer.status_code == 200
            assert answer.status_code == 200


class TestStop:
    async def test_is_told_to_balancers_and_clients(
        self, edge: Edge, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        """What the chart does before it ends an edge."""
        async with httpx.AsyncClient(base_url=edge.admin) as admin, Http2.to(edge) as connection:
            assert "connection" not in (await rest.get("/v1/users/a")).headers
            await admin.post("/healthcheck/fail")
            try:
                assert (await rest.get("/healthz")).status_code == 503
                answer = await rest.get("/v1/users/a")
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
                connection.get("/v1/users/a")
                assert await connection.status() == "200"
                assert GoAwayFrame in connection.seen or await connection.until(GoAwayFrame)
            finally:
                await admin.post("/healthcheck/ok")
