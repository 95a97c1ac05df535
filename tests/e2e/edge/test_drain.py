"""An edge that stops, or has had a connection for long, sends its clients elsewhere and loses nobody's call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.plugin import Edge, Layout, running


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
        while True:
            fields = dict(self._headers.decode((await self.until(HeadersFrame)).data, raw=True))
            if b":status" in fields:  # trailers have none
                return fields[b":status"].decode()


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


class TestLeaving:
    async def test_under_load_listens_no_more_in_the_end_and_loses_nobody(
        self, layout: Layout, published: None, backend: Backend
    ) -> None:
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def answer_late(_request: Any, _context: Any) -> pb.ListUsersResponse:
            arrived.set()
            await go_on.wait()
            return pb.ListUsersResponse()

        async def watch(_request: Any, context: Any) -> None:
            await context.write(pb.WatchUsersResponse())
            await go_on.wait()
            await context.write(pb.WatchUsersResponse())

        backend.script |= {"ListUsers": answer_late, "WatchUsers": watch}
        async with (
            running(layout("leaving", 3), drain_seconds=1) as edge,
            httpx.AsyncClient(base_url=edge.admin) as admin,
            edge.client(headers=edge.credentials) as waiting,
            edge.client(headers=edge.credentials) as resting,
            Http2.to(edge) as watching,
            Http2.to(edge) as connection,
        ):
            late = asyncio.create_task(waiting.get("/v1/users"))
            await arrived.wait()
            watching.get("/v1/users:watch")
            assert await watching.status() == "200"
            assert (await resting.get("/v1/users/a")).status_code == 200
            connection.get("/v1/users/a")
            assert await connection.status() == "200"

            load = [asyncio.create_task(ask_until_turned_away(edge)) for _ in range(4)]
            assert (await admin.post("/drain_listeners?graceful")).status_code == 200
            async with asyncio.timeout(15):
                for answers in await asyncio.gather(*load):
                    assert {answer.status_code for answer in answers} == {200}
                    assert answers[-1].headers["connection"] == "close"
            for port in (edge.port, edge.secure_port):
                await until_nobody_listens(port)

            # Who was here before is served, and told to go.
            answer = await resting.get("/v1/users/a")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            connection.get("/v1/users/a")
            assert await connection.status() == "200"
            assert GoAwayFrame in connection.seen or await connection.until(GoAwayFrame)
            seen = watching.seen.count(DataFrame)
            go_on.set()
            assert (await late).status_code == 200
            while watching.seen.count(DataFrame) == seen:
                await watching.until(DataFrame)


class TestStop:
    async def test_is_told_to_balancers_and_clients(
        self, edge: Edge, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        """What the chart does before it ends an edge."""
        async with httpx.AsyncClient(base_url=edge.admin) as admin, Http2.to(edge) as connection:
            assert "connection" not in (await rest.get("/v1/users/a")).headers
            await admin.post("/healthcheck/fail")
            try:
                for address in (edge.url, edge.operations_url):
                    assert (await rest.get(f"{address}/healthz")).status_code == 503
                answer = await rest.get("/v1/users/a")
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
                connection.get("/v1/users/a")
                assert await connection.status() == "200"
                assert GoAwayFrame in connection.seen or await connection.until(GoAwayFrame)
            finally:
                await admin.post("/healthcheck/ok")


async def ask_until_turned_away(edge: Edge) -> list[httpx.Response]:
    """Asks again and again; returns the answers that came before nobody listened."""
    answers: list[httpx.Response] = []
    async with edge.client(headers=edge.credentials) as client:
        with suppress(httpx.TransportError):
            while True:
                answers.append(await client.get("/v1/users/a"))
    return answers


async def until_nobody_listens(port: int) -> None:
    """Returns once ``port`` is closed; each thread of Envoy closes its own."""
    async with asyncio.timeout(10):
        with suppress(ConnectionRefusedError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await asyncio.sleep(0.01)
