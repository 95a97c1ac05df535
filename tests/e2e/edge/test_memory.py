"""How much of the edge's memory one client can hold: it asks over HTTP/2 and never reads."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import h2.config
import h2.connection
import httpx
import pytest
import yaml
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import USERS
from tests.e2e.edge.plugin import Edge, Layout, running

STREAMS: Final = 18
HEAP: Final = 96 * MIB
FRAME: Final = b"\0" * 5


@pytest.fixture
async def small(layout: Layout, published: None) -> AsyncIterator[Edge]:
    """An edge with a heap that a test can fill."""
    laid = layout("small", 2)
    path = laid.folder / "envoy.yaml"
    config = yaml.load(path.read_text(), yaml.CSafeLoader)
    config["overload_manager"]["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"] = HEAP
    path.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
    async with running(laid) as edge:
        yield edge


@pytest.fixture
def large(backend: Backend) -> Backend:
    """The service answers with 10 MiB."""
    return answering(backend, 10 * MIB - 5)


def answering(backend: Backend, size: int) -> Backend:
    """Lets the service answer with as many bytes."""
    answer = pb.User(display_name="x" * size)

    async def get_me(_request: Any, _context: Any) -> pb.User:
        return answer

    backend.script["GetMe"] = get_me
    return backend


@asynccontextmanager
async def asking(
    edge: Edge, method: str, path: str, headers: Mapping[str, str] = {}, *, streams: int = STREAMS
) -> AsyncIterator[None]:
    """Makes as many requests, on one connection that nobody reads from until the block ends."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    lines = {":method": method, ":path": path, ":scheme": "http", ":authority": "x", **edge.credentials, **headers}
    for stream in range(1, 2 * streams, 2):
        connection.send_headers(stream, lines.items(), end_stream=method == "GET")
        if method != "GET":
            connection.send_data(stream, FRAME, end_stream=True)
    _reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(connection.data_to_send())
    try:
        yield
    finally:
        writer.close()


async def ask_admin(edge: Edge, path: str) -> Any:
    async with httpx.AsyncClient(base_url=edge.admin, verify=False) as admin:
        return (await admin.get(path)).json()


async def allocated(edge: Edge) -> int:
    return int((await ask_admin(edge, "/memory"))["allocated"])


async def count(edge: Edge, name: str) -> int:
    stats = (await ask_admin(edge, f"/stats?format=json&filter={name}$"))["stats"]
    return sum(one["value"] for one in stats)


async def get_served(small: Edge, somebody: httpx.AsyncClient, deadline: float) -> None:
    """Waits until streams were dropped, and then for an answer: a full edge refuses requests or closes connections."""
    while not await count(small, "reset_high_memory_stream.count"):
        assert time.monotonic() < deadline, f"of {await allocated(small)} bytes nothing was dropped"
        await asyncio.sleep(0.05)
    status = 503
    while status != 200:
        assert (status, time.monotonic() < deadline) == (503, True)
        await asyncio.sleep(0.05)
        with suppress(httpx.RemoteProtocolError):
            status = (await somebody.get("/v1/users/a")).status_code


class TestUnreadAnswers:
    async def test_of_grpc_wait_in_the_service(self, edge: Edge, large: Backend) -> None:
        before, still, arrived = await allocated(edge), 0, 0
        deadline = time.monotonic() + 20
        async with asking(edge, "POST", f"{USERS}/GetMe", {"content-type": "application/grpc", "te": "trailers"}):
            # Until nothing more comes from the service.
            while len(large.calls) < STREAMS or still < 10:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
                now = await count(edge, "cluster.users.upstream_cx_rx_bytes_total")
                still, arrived = (still + 1 if now == arrived else 0), now
            # 64 KiB of window on either side, and what is on its way between them.
            assert await allocated(edge) - before < STREAMS * MIB // 4

    async def test_of_grpc_leave_room_for_the_answers_of_others(self, edge: Edge, backend: Backend) -> None:
        """What one stream holds of the window of the edge's connection to a service, all others of it lack."""
        # More than any stream holds; ten times as much would take seven seconds to write.
        answering(backend, MIB)
        unread = {"content-type": "application/grpc", "te": "trailers"}
        async with asking(edge, "POST", f"{USERS}/GetMe", unread, streams=100):
            deadline = time.monotonic() + 30
            while len(backend.calls) < 100:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            # A worker of the edge has a connection of its own to the service, and a client stays with a worker.
            for _ in range(10):
                async with edge.client(headers=edge.credentials) as somebody:
                    assert (await somebody.get("/v1/users/a")).status_code == 200

    async def test_of_rest_are_dropped_so_that_others_are_served(self, small: Edge, large: Backend) -> None:
        deadline = time.monotonic() + 30
        async with asking(small, "GET", "/v1/me"), small.client(headers=small.credentials) as somebody:
            await get_served(small, somebody, deadline)
            # Of the answers nobody reads, 180 MiB.
            assert await allocated(small) < HEAP

    async def test_of_pages_are_few(self, edge: Edge) -> None:
        """A page is copied into each answer, and anybody may ask."""
        before, refused = await allocated(edge), await count(edge, "address.http_local_rate_limit.rate_limited")
        async with asking(edge, "GET", "/docs/swagger-ui-bundle.js", streams=300):
            deadline = time.monotonic() + 20
            while await count(edge, "address.http_local_rate_limit.rate_limited") - refused < 200:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert await allocated(edge) - before < 100 * 2 * MIB


class TestUnfinishedBodies:
    async def test_of_http2_are_dropped_so_that_others_are_served(self, small: Edge, backend: Backend) -> None:
        """A call of gRPC announces no length, so what it may hold is bounded when the heap fills."""
        deadline, unfinished = time.monotonic() + 60, b"\0" + (9 * MIB + 1).to_bytes(4, "big")
        headers = {"content-type": "application/grpc", "te": "trailers"}

        async def endless() -> AsyncIterator[bytes]:
            yield unfinished
            for _ in range(9 * 16):
                yield b"x" * (MIB // 16)
            await asyncio.Event().wait()

        async def hold() -> None:
            async with small.client(headers=small.credentials | headers, http1=False, http2=True) as client:
                with suppress(httpx.HTTPError):
                    await client.post(f"{USERS}/CreateUser", content=endless())

        holding = [asyncio.create_task(hold()) for _ in range(STREAMS)]
        async with small.client(headers=small.credentials) as somebody:
            await get_served(small, somebody, deadline)
            assert await allocated(small) < HEAP
        for one in holding:
            one.cancel()
