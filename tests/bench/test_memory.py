"""No call leaves anything behind in its process, however it ends: in small what `make soak` shows in large."""

import asyncio
import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import Any, Final

import pytest
from api_common.errors import DomainError, render
from api_common.rpc import adapter as rpc
from api_common.settings import Settings
from api_common.testing import Caller, Identity, TestDatabase, running_service, settings_for
from api_common.watch import pages
from users_service.service import SERVICE

from bench.churn import HABITS, Churn

TIMES: Final = 30
"""Each habit in a round."""
ROUNDS: Final = 4
ALLOWED_BLOCKS: Final = TIMES * len(HABITS)
"""Of a round, one a call. What leaks holds more: an error with its traceback 50."""


def test_calls_leave_nothing_behind(users_database: TestDatabase, identity: Identity, admin: Caller) -> None:
    # In a process of its own: what other tests left in this one is freed at any time, which hides a leak or
    # looks like one.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        blocks = process.submit(
            blocks_after_each_round, settings_for(users_database, identity), admin.metadata
        ).result()
    growth = sorted(after - before for before, after in pairwise(blocks))
    # A leak grows in every round. One round may open one more connection for a burst.
    assert growth[1] < ALLOWED_BLOCKS, (
        f"{growth}: blocks of memory grow with calls. Find whose: take habits out of bench/churn.py one by one,"
        " then compare tracemalloc's snapshots around a round."
    )


def blocks_after_each_round(settings: Settings, metadata: tuple[tuple[str, str], ...]) -> list[int]:
    """Returns how many blocks of memory this process holds after each round but the first, which fills caches."""
    # Kept pages are bounded by their size, which rounds as short as these would not reach.
    pages.KEPT_BYTES = 0  # type: ignore[misc]

    async def measure() -> list[int]:
        async with running_service(SERVICE, settings) as service:
            churn = await Churn(service.channel, service.channel, metadata).prepare()
            return [await after_a_round(churn) for _ in range(2 + ROUNDS)][1:]

    return asyncio.run(measure())


async def test_nothing_is_sent_to_whom_waits_no_longer(
    users_database: TestDatabase, identity: Identity, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller has heard from gRPC already; what is sent beside that is never freed (grpc/grpc#43360)."""
    sent = []

    def noted(error: DomainError, *, request_id: str) -> Any:
        sent.append(error.reason)
        return render(error, request_id=request_id)

    monkeypatch.setattr(rpc, "render", noted)
    async with running_service(SERVICE, settings_for(users_database, identity)) as service:
        churn = await Churn(service.channel, service.channel, admin.metadata).prepare()
        for _ in range(100):
            await churn.be_in_a_hurry()
        await at_rest()
    assert sent == []


async def after_a_round(churn: Churn) -> int:
    """Returns how many blocks of memory Python has given away, when all calls are over."""
    for _ in range(TIMES):
        # At the same time, as they come: some wait for a connection, some for the loop.
        async with asyncio.TaskGroup() as group:
            for habit in HABITS.values():
                group.create_task(habit(churn))
    await at_rest()
    gc.collect()
    return sys.getallocatedblocks()


async def at_rest() -> None:
    """Waits until what was given up has cleaned up behind itself."""
    before = 0
    while before != (now := len(asyncio.all_tasks())):
        before = now
        await asyncio.sleep(0.05)
