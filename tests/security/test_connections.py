"""Connections that say nothing, little or slowly: they end, and take nobody's place for long."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import yaml
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.plugin import Edge, Layout, running
from tests.security.sockets import HTTP2_PREFACE, connected, head

SILENT: Final = {
    "nothing": b"",
    "a letter": b"G",
    "half a request line": b"GET /v1/me HT",
    "half a preface": HTTP2_PREFACE[:10],
    "half of the headers": head("GET", "/v1/me", ())[:-2],
}
SECONDS: Final = 20
"""Twice the longest time that the edge waits, 10 s for headers; 300 s of silence were allowed before."""
LIMIT: Final = 50
"""Of connections, in place of 16,000."""
SCARCE: Final = {"scaling_threshold": 0.001, "saturation_threshold": 0.002}
"""From which part of the heap on connections end early, in place of a fifth: less than the edge takes at rest."""
FIRST_FRAMES: Final = HTTP2_PREFACE + b"\0\0\0\4\0\0\0\0\0"
"""What HTTP/2 says before its first request."""
NO_WINDOW: Final = HTTP2_PREFACE + b"\0\0\6\4\0\0\0\0\0" + b"\0\4\0\0\0\0"
"""The same of a client that takes no byte of a body."""
GET_ME: Final = b"\0\0\x0d\1\5\0\0\0\1" + b"\x82\x86\4\6/v1/me\1\1x"
"""A request without a credential (RFC 7541 has its names and values)."""
RESET: Final = b"\0\0\4\3\0\0\0\0\1"
"""The head of the frame that ends it."""


async def test_silent_and_slow_ones_are_closed(edge: Edge) -> None:
    slow = connected(edge, 1)
    secure = connected(edge, 2, port=edge.secure_port)
    async with connected(edge, len(SILENT)) as silent, secure as (still, half), slow as (trickling,):
        for one, said in zip(silent, SILENT.values(), strict=True):
            await one.send(said)
        await half.send(b"\x16\x03\x01\x02\x00\x01")
        await trickling.send(head("GET", "/v1/me", ())[:-2] + b"x-slow: ")
        async with asyncio.timeout(SECONDS):
            # A letter every now and then does not begin the time anew.
            while await trickling.send(b"x"):
                await asyncio.wait([asyncio.create_task(trickling.closed())], timeout=0.5)
            await asyncio.gather(*(one.closed() for one in (*silent, still, half)))
        assert trickling.status == 408


class TestIdleConnections:
    @pytest.fixture
    async def full(self, layout: Layout, published: None) -> AsyncIterator[Edge]:
        """An edge with as many connections as it allows, all of one client."""
        laid = layout("full", 2)
        path = laid.folder / "envoy.yaml"
        config = yaml.load(path.read_text(), yaml.CSafeLoader)
        _, most = config["overload_manager"]["resource_monitors"]
        most["typed_config"]["max_active_downstream_connections"] = LIMIT
        path.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
        async with running(laid) as edge, connected(edge, LIMIT) as connections:
            for one in connections:
                await one.send(head("GET", "/v1/me", ()))
            async with asyncio.timeout(SECONDS):
                while not all(one.received for one in connections):
                    await asyncio.sleep(0.02)
            yield edge

    async def test_leave_health_and_metrics_to_the_operators(self, full: Edge, backend: Backend) -> None:
        async with full.client() as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/healthz")
        async with httpx.AsyncClient(base_url=full.operations_url) as operations:
            assert (await operations.get("/healthz")).status_code == 200
            assert "envoy_listener_downstream_cx_overload_reject" in (await operations.get("/metrics")).text

    @pytest.fixture
    async def scarce(self, layout: Layout, published: None) -> AsyncIterator[Edge]:
        """An edge whose heap is so full that it gives up what costs nobody a call."""
        laid = layout("scarce", 2)
        path = laid.folder / "envoy.yaml"
        config = yaml.load(path.read_text(), yaml.CSafeLoader)
        (shorter,) = (one for one in config["overload_manager"]["actions"] if one["name"].endswith(".reduce_timeouts"))
        shorter["triggers"][0]["scaled"] = SCARCE
        path.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
        async with running(laid) as edge:
            yield edge

    async def test_end_first_when_memory_is_scarce(self, scarce: Edge, backend: Backend) -> None:
        answered = asyncio.Event()

        async def get_me(_request: Any, _context: Any) -> pb.User:
            await answered.wait()
            return pb.User()

        backend.script["GetMe"] = get_me
        async with connected(scarce, 3) as (used, unused, busy):
            await used.send(head("GET", "/v1/me", ()))
            await unused.send(FIRST_FRAMES)
            await busy.send(head("GET", "/v1/me", scarce.credentials.items()))
            async with asyncio.timeout(SECONDS):
                await asyncio.gather(used.closed(), unused.closed())
            assert used.status == 401
            answered.set()
            async with asyncio.timeout(SECONDS):
                while not busy.received:
                    await asyncio.sleep(0.02)
            assert busy.status == 200

    async def test_refusals_that_nobody_reads_end_soon_when_memory_is_scarce(self, scarce: Edge) -> None:
        """Each holds 50 KB, and who opens no window for their bodies may ask for thousands."""
        async with connected(scarce, 1) as (unread,):
            await unread.send(NO_WINDOW + GET_ME)
            async with asyncio.timeout(SECONDS):
                while RESET not in unread.received:
                    await asyncio.sleep(0.02)
