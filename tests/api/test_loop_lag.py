"""No request of up to 10 MiB holds the event loop of a service for more than 30 ms, whatever it is filled with.

Measured is the CPU time of the loop's thread between two of its turns, which other processes do not prolong.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple, Self

import grpc
import pytest
from api_common.contract import MAX_FIELDS
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from bench.attack.messages import field, varint, within
from tests import protos
from tests.security.world import Founding, Rpc, World, internal_rpcs, rpcs

MAX_LAG_SECONDS: Final = 0.030
"""On a core that counts to a million in `COUNT_SECONDS`; a slower or shared one has as much longer."""
COUNT_SECONDS: Final = 0.032
MAX_TRIES: Final = 5
UNKNOWN: Final = 2047
"""The number of a field that no message has."""

ROOM: Final = 10 * 1024 * 1024 - 4096
EMOJI: Final = "😀".encode() * (ROOM // 4)
SENT: Final = set[str]()
"""The kinds of which this process has sent 10 MiB."""
TEXTS: Final = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})


class Fill(NamedTuple):
    """What a request may be filled with."""

    kind: str
    path: tuple[int, ...]
    """The numbers of the fields that it lies in."""
    large: bytes
    """10 MiB."""
    allowed: bytes
    """As much as no limit of ours forbids."""

    def write(self, filling: bytes) -> bytes:
        """Returns the request around a filling."""
        return within(self.path, filling)


def sizes(unit: bytes, fields: int) -> tuple[bytes, bytes]:
    """Returns as many of ``unit`` as 10 MiB hold, and as many as the limit of fields allows."""
    return unit * (ROOM // len(unit)), unit * min(ROOM // len(unit), (MAX_FIELDS - 500) // fields)


@cache
def entries(number: int, value: bytes, fields: int) -> tuple[bytes, bytes]:
    """Returns a map in the field ``number``, with distinct keys."""
    most, allowed = ROOM // (len(value) + 12), (MAX_FIELDS - 500) // fields
    every = [field(number, field(1, b"%06x" % index) + value) for index in range(most)]
    return b"".join(every), b"".join(every[:allowed])


@cache
def structs() -> dict[str, tuple[bytes, bytes]]:
    """Returns Structs of every shape."""
    made = {"members": entries(1, field(2, b"\x08\0"), 4)}
    for name, value, fields in (
        ("nulls", b"\x08\0", 2),
        ("numbers", b"\x11" + b"\x01" * 8, 2),
        ("objects", field(5, field(1, field(1, b"a") + field(2, b"\x08\0"))), 6),
        ("lists", field(6, b""), 2),
    ):
        large, allowed = (
            field(1, field(1, b"a") + field(2, field(6, items))) for items in sizes(field(1, value), fields)
        )
        made[name] = (large, allowed)
    return made


def fills(message: Descriptor, path: tuple[int, ...] = (), seen: frozenset[Descriptor] = frozenset()) -> Iterator[Fill]:
    """Yields every place in a message that can be filled."""
    for declared in message.fields:
        number, held, within = declared.number, declared.message_type, (*path, declared.number)
        if held is None:
            if declared.type in TEXTS:
                yield Fill("text", within, EMOJI, EMOJI[:200_000])
            if declared.is_repeated:
                yield Fill("items", path, *sizes(field(number, b"" if declared.type in TEXTS else b"\1"), 1))
        elif protos.is_map_entry(held):
            yield Fill("map", path, *entries(number, field(2, b"v"), 3))
        elif held.full_name == "google.protobuf.Struct":
            yield from (Fill(f"Struct of {shape}", within, *written) for shape, written in structs().items())
        else:
            if declared.is_repeated:
                yield Fill("messages", path, *sizes(field(number, b""), 1))
            if held not in seen:
                yield from fills(held, within, seen | {message})


def unknown() -> Iterator[Fill]:
    """Yields what no message knows."""
    for name, unit in (
        ("varints", varint(UNKNOWN << 3) + b"\1"),
        ("texts", field(UNKNOWN, b"")),
        ("groups", b"\xfb\x7f\xfc\x7f"),
    ):
        yield Fill(f"unknown {name}", (), *sizes(unit, 2))
    yield Fill("unknown text", (UNKNOWN,), b"x" * ROOM, b"")


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
    slow = dict[str, float]()
    for fill in (*unknown(), *fills(rpc_.method.input_type)):
        # What is refused unread costs the same wherever it is, so 10 MiB of each kind are sent once.
        for filling in (fill.allowed,) if fill.kind in SENT else (fill.large, fill.allowed):
            payload = good + fill.write(filling)
            seconds, tries = await lag(world, rpc_, payload), 0
            # A busy machine is slower now and then; what is too slow, is so each time.
            while seconds > MAX_LAG_SECONDS and tries < MAX_TRIES:
                seconds, tries = min(seconds, await lag(world, rpc_, payload)), tries + 1
            slow[f"{fill.kind} in {fill.path}, {len(payload)} bytes"] = seconds
        SENT.add(fill.kind)
    bound = MAX_LAG_SECONDS * max(1.0, count_seconds() / COUNT_SECONDS)
    assert max(slow.values()) < bound, {name: lag for name, lag in slow.items() if lag > bound}


def count_seconds() -> float:
    """Returns the CPU time in which this core, as busy as it is, counts to a million."""
    began = time.thread_time()
    for _ in range(1_000_000):
        pass
    return time.thread_time() - began


async def lag(world: World, one: Rpc, payload: bytes) -> float:
    """Returns the longest turn of the loop while a request is handled."""
    async with Lag() as measured:
        await send(world, one, payload)
    return measured.seconds


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
