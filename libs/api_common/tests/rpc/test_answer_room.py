"""The memory that kept answers take: bounded, shared by tenants, and free again in time."""

import asyncio
import random
import tracemalloc
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest
from api_common.call import MAX_AGE_SECONDS
from api_common.db import Database
from api_common.rpc import AnswerCache
from api_common.rpc.layers.answer_cache import LARGEST_BYTES
from api_common.telemetry import Metrics
from api_common.watch import ChangeNotifier
from prometheus_client import CollectorRegistry

ROOM_BYTES: Final = 2**18
FRAMES: Final = 8
"""How deep below this file an answer is kept."""


@dataclass
class Room:
    """A small cache, with what it is filled through."""

    cache: AnswerCache = field(init=False)
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))

    def __post_init__(self) -> None:
        self.cache = AnswerCache(ROOM_BYTES, ChangeNotifier(cast(Database, None)), self.metrics)

    def keep(self, tenant: str, number: int, size: int) -> None:
        shelf = self.cache.shelf(tenant, "users")
        self.cache.keep(shelf, ("Get", b"%036d" % number), random.Random(number).randbytes(size), self.cache.now())

    def count(self, tenant: str) -> int:
        return len(self.cache.shelf(tenant, "users").answers)

    def dropped(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("answer_cache_dropped_total", {"reason": reason}) or 0

    @property
    def held(self) -> float:
        return self.metrics.registry.get_sample_value("answer_cache_bytes") or 0


class TestTheRoom:
    @pytest.mark.parametrize(("tenants", "size"), [(1, 0), (1, 2000), (50, 300), (1000, 10)])
    async def test_is_bounded_in_bytes_that_are_really_taken(self, tenants: int, size: int) -> None:
        room = Room()
        room.keep("warm", 0, 0)
        tracemalloc.start(FRAMES)
        for number in range(1500):
            room.keep(f"tenant-{number % tenants}", number, size)
            if number % 250 == 0:
                assert room.held <= ROOM_BYTES
                # The loop forgets timers that were cancelled.
                await asyncio.sleep(0)
        # What the services of other tests take meanwhile is not taken by the room.
        snapshot = tracemalloc.take_snapshot()
        tracemalloc.stop()
        kept = snapshot.filter_traces([tracemalloc.Filter(True, __file__, all_frames=True)])
        taken = sum(trace.size for trace in kept.traces)
        assert taken <= 1.25 * ROOM_BYTES
        assert room.dropped("room") > 0

    async def test_of_a_tenant_with_little_is_not_taken_by_one_that_fills_it(self) -> None:
        room = Room()
        for number in range(50):
            room.keep("small", number, 300)
        for number in range(2000):
            room.keep("greedy", number, 300)
        assert room.count("small") == 50
        assert room.count("greedy") > 100

    async def test_is_not_given_to_a_huge_answer(self) -> None:
        room = Room()
        room.keep("acme", 1, 100)
        room.keep("acme", 2, LARGEST_BYTES + 1)
        assert room.count("acme") == 1

    async def test_is_free_again_when_an_answer_may_not_be_given_any_more(self) -> None:
        room = Room()
        room.keep("acme", 1, 100)
        loop = asyncio.get_running_loop()
        shelf = room.cache.shelf("acme", "users")
        assert shelf.end.when() <= loop.time() + MAX_AGE_SECONDS
        cast(Any, shelf.end)._run()
        assert (room.held, room.dropped("age"), room.cache.shelves) == (0, 1, {})
        assert shelf.topic.watches == 0, "nothing is left to poll for"
