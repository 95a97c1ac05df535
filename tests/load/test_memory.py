"""No call leaves anything behind in its process, however it ends: in small what `make soak` shows in large."""

import asyncio
import gc
import sys
from typing import Final

from api_common.testing.database import TestDatabase
from api_common.testing.identity import Caller, Identity
from api_common.testing.service import running_service, settings_for
from users_service.service import SERVICE

from tests.load.churn import HABITS, Churn

TIMES: Final = 30
"""Each habit in a round."""
ROUNDS: Final = 4
ALLOWED_BLOCKS: Final = TIMES * ROUNDS * len(HABITS)
"""One a call. What leaks holds more: an error with its traceback 50. What comes and goes by itself is up to 400."""


async def test_calls_leave_nothing_behind(users_database: TestDatabase, identity: Identity, admin: Caller) -> None:
    async with running_service(SERVICE, settings_for(users_database, identity)) as service:
        churn = await Churn(service.channel, service.channel, admin.metadata).prepare()
        # The first two fill caches.
        blocks = [await after_a_round(churn) for _ in range(2 + ROUNDS)][1:]
    assert blocks[-1] - blocks[0] < ALLOWED_BLOCKS, (
        f"{blocks}: blocks of memory grow with calls. Find whose: take habits out of tests/load/churn.py one by one,"
        " then compare tracemalloc's snapshots around a round."
    )


async def after_a_round(churn: Churn) -> int:
    """Returns how many blocks of memory Python has given away, when all calls are over."""
    for _ in range(TIMES):
        # At the same time, as they come: some wait for a connection, some for the loop.
        async with asyncio.TaskGroup() as group:
            for habit in HABITS.values():
                group.create_task(habit(churn))
    # What was cancelled still has its cleaning up to do.
    while True:
        tasks = len(asyncio.all_tasks())
        await asyncio.sleep(0.02)
        if len(asyncio.all_tasks()) == tasks:
            break
    gc.collect()
    return sys.getallocatedblocks()
