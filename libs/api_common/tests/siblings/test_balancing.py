"""Calls to a sibling that has several replicas, as a headless Service names them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from ameide.user.v1 import user_pb2 as pb

from libs.api_common.tests.sibling import REQUEST, Sibling, calling, context, serving


async def test_replicas_share_the_calls_and_stand_in_for_one_another() -> None:
    replicas = [Sibling() for _ in range(3)]
    async with AsyncExitStack() as stack, AsyncExitStack() as first:
        addresses = [
            await where.enter_async_context(serving(replica))
            for replica, where in zip(replicas, (first, stack, stack), strict=True)
        ]
        users = await stack.enter_async_context(calling(f"ipv4:{','.join(addresses)}"))

        async def shares(calls: int) -> list[int]:
            before = [len(replica.calls) for replica in replicas]
            for _ in range(calls):
                await users.call(REQUEST, pb.User, context())
            return [len(replica.calls) - count for replica, count in zip(replicas, before, strict=True)]

        # The connections come up one after the other.
        async with asyncio.timeout(10):
            while await shares(3) != [1, 1, 1]:
                pass
        assert await shares(30) == [10, 10, 10]
        await first.aclose()
        assert sum((await shares(30))[1:]) == 30
