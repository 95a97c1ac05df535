"""No request of up to 10 MiB holds the event loop of a service for more than 30 ms, whatever it is filled with.

Measured is the CPU time of the loop's thread between two of its turns, which other processes do not prolong. What
gRPC inflates there is beside the bound: it is bounded by the size of a message, and costs what zlib costs.
"""

import asyncio
import gzip
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, Self

import grpc
import httpx
import pytest

from libs.api_common.tests.rpc.test_bodies import raw_client
from libs.api_common.tests.turns import least
from tests.api.fillings import fills, unknown
from tests.security.world import Founding, Rpc, World, internal_rpcs, rpc, rpcs

MAX_LAG_SECONDS: Final = 0.030
SENT: Final = set[str]()
"""The kinds of which this process has sent 10 MiB."""


class Lag:
    """The longest turn of the event loop while the block runs."""

    async def __aenter__(self) -> Self:
        self.seconds = 0.0
        self._last = time.thread_time()
        self._turn()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._next.cancel()

    def _turn(self) -> None:
        now = time.thread_time()
        self.seconds, self._last = max(self.seconds, now - self._last), now
        self._next = asyncio.get_running_loop().call_soon(self._turn)


@pytest.fixture(scope="module")
async def world(found: Founding) -> World:
    """A tenant whose resources the requests may change and delete."""
    return await found()


@pytest.mark.parametrize("rpc_", [*rpcs(), *internal_rpcs()], ids=str)
async def test_no_request_holds_the_loop(world: World, rpc_: Rpc) -> None:
    good = b"" if rpc_.policy.internal else world.request(rpc_).SerializeToString()
    seen = dict[str, float]()
    for fill in (*unknown(), *fills(rpc_.method.input_type)):
        # What is refused unread costs the same wherever it is, so 10 MiB of each kind are sent once.
        for filling in (fill.allowed,) if fill.kind in SENT else (fill.large, fill.allowed):
            payload = good + fill.write(filling)
            name = f"{fill.kind} in {fill.path}, {len(payload)} bytes"
            seen[name] = await least_lag(partial(send, world, rpc_, payload))
        SENT.add(fill.kind)
    check(seen)


@pytest.mark.parametrize("name", ["BatchCreateAgents", "CreateWorkflow", "BatchGetUsers"])
async def test_no_compressed_request_holds_the_loop(world: World, name: str) -> None:
    rpc_ = rpc(name)
    good = world.request(rpc_).SerializeToString()
    seen = dict[str, float]()
    async with raw_client(world.mesh[rpc_.service].service, world.caller) as client:
        client.headers["grpc-encoding"] = "gzip"
        for fill in {fill.kind: fill for fill in (*unknown(), *fills(rpc_.method.input_type))}.values():
            packed = gzip.compress(good + fill.write(fill.large), 1)
            body = b"\1" + len(packed).to_bytes(4, "big") + packed
            name = f"{fill.kind} in {fill.path}"
            seen[name] = await least_lag(partial(post, client, rpc_.policy.path, body), packed)
    check(seen)


def check(seen: Mapping[str, float]) -> None:
    assert max(seen.values()) < MAX_LAG_SECONDS, {name: lag for name, lag in seen.items() if lag > MAX_LAG_SECONDS}


async def least_lag(send: Callable[[], Awaitable[None]], packed: bytes = b"") -> float:
    """Returns the longest turn of the loop while a request is handled, less what inflating ``packed`` takes."""

    async def lag() -> float:
        async with Lag() as measured:
            await send()
        return measured.seconds - (inflating(packed) if packed else 0)

    return await least(lag, MAX_LAG_SECONDS)


def inflating(packed: bytes) -> float:
    """Returns the CPU time in which zlib inflates a body in blocks of 8 KiB, as gRPC does."""
    began, stream = time.thread_time(), zlib.decompressobj(zlib.MAX_WBITS | 16)
    while packed:
        stream.decompress(packed, 8192)
        packed = stream.unconsumed_tail
    return time.thread_time() - began


async def post(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    answer = await client.post(path, content=body)
    # One long field that nobody knows is no malformed request.
    assert answer.headers.get("error-type") in {None, "INVALID_REQUEST", "RESOURCE_NOT_FOUND"}


async def send(world: World, one: Rpc, payload: bytes) -> None:
    channel = world.mesh[one.service].service.channel
    if one.policy.is_stream:
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(one.policy.path)
        watch = stream(payload, metadata=world.caller.metadata)
        with suppress(grpc.aio.AioRpcError):
            await watch.read()
        watch.cancel()
        return
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(one.policy.path)
    await method(payload, metadata=world.caller.metadata).code()
