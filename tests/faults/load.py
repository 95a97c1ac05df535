"""A steady load through the edge, whatever becomes of the answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from tests.faults.form import FORM

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTS_PER_SECOND: Final = 200
IN_FLIGHT: Final = 20
"""At most; a machine that is too slow gets fewer requests, not a queue of them in every process."""


@dataclass
class Load:
    """What was asked and what came of it."""

    statuses: Counter[grpc.StatusCode] = field(default_factory=Counter)
    """How often each status was answered."""
    done: set[int] = field(default_factory=set)
    """The numbers of the requests that were answered with OK."""
    failures: dict[int, str] = field(default_factory=dict)
    """What was answered otherwise, to be read, by the number of the request."""
    asked: int = 0

    def failures_since(self, number: float) -> dict[int, str]:
        """Returns the failures of the requests from this number on."""
        return {one: text for one, text in self.failures.items() if one >= number}

    async def go_on(self, seconds: float = FORM.load_seconds) -> None:
        """Returns once so many seconds' requests more were made."""
        target = self.asked + seconds * REQUESTS_PER_SECOND
        while self.asked < target:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def load(ask: Callable[[int], Any], *, in_flight: int = IN_FLIGHT) -> AsyncIterator[Load]:
    """Makes 200 requests a second until the block ends, then waits for every answer.

    Args:
        ask: makes the call of this number.
        in_flight: how many may wait for their answer.
    """
    result, over, gate = Load(), asyncio.Event(), asyncio.Semaphore(in_flight)

    async def one(number: int) -> None:
        try:
            await ask(number)
        except grpc.aio.AioRpcError as error:
            result.statuses[error.code()] += 1
            result.failures[number] = f"{error.code().name} {error.details()}"
        else:
            result.statuses[grpc.StatusCode.OK] += 1
            result.done.add(number)
        finally:
            gate.release()

    async def generate(group: asyncio.TaskGroup) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while not over.is_set():
            await gate.acquire()
            group.create_task(one(result.asked))
            result.asked += 1
            due += 1 / REQUESTS_PER_SECOND
            await asyncio.sleep(due - clock())

    async with asyncio.TaskGroup() as group:
        group.create_task(generate(group))
        try:
            yield result
        finally:
            over.set()
