"""Whatever bytes arrive as the message of any RPC: the caller's mistake, never ours (BI-1)."""

import asyncio
from typing import Final

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.security.world import Rpc, World, ask, rpcs

S: Final = grpc.StatusCode
OURS: Final = {S.UNKNOWN, S.INTERNAL, S.UNAVAILABLE, S.DEADLINE_EXCEEDED, S.UNIMPLEMENTED, S.DATA_LOSS, S.CANCELLED}

Changes = list[tuple[int, int]]

random_bytes: Final = st.binary(max_size=64)
# What decodes and means something else than it did gets further than what does not decode.
changes: Final = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.mark.parametrize("rpc_", rpcs(), ids=str)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.lists(random_bytes, max_size=4), damaged=st.lists(changes, min_size=4, max_size=8))
async def test_is_the_callers_mistake(world: World, rpc_: Rpc, garbage: list[bytes], damaged: list[Changes]) -> None:
    good = world.request(rpc_).SerializeToString() or b"\0"
    payloads = [*garbage, *(damage(good, one) for one in damaged)]
    answers = await asyncio.gather(*(send(world, rpc_, payload) for payload in payloads), return_exceptions=True)
    codes = [answer.code() if isinstance(answer, grpc.aio.AioRpcError) else answer for answer in answers]
    assert OURS.isdisjoint(code for code in codes if isinstance(code, S)), list(zip(codes, payloads, strict=True))
    assert not [code for code in codes if isinstance(code, BaseException)]


def damage(good: bytes, changes: Changes) -> bytes:
    """Returns ``good`` with some bytes replaced."""
    damaged = bytearray(good)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    return bytes(damaged)


async def send(world: World, one: Rpc, payload: bytes) -> bytes:
    return await ask(one, world.mesh[one.service].service.channel, payload, world.caller.metadata)
