"""Answers reads from the memory of the process, for callers who accept an age (ADR 46).

An answer is given while the time since its read began is at most the age that the caller accepts. So none is older than
asked, whatever else fails; a change that this process makes, or the feed tells, only drops answers earlier.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cachetools import LRUCache

from api_common.call import MAX_AGE_SECONDS
from api_common.contract import MethodPolicy
from api_common.rpc.call import Call, Done, Layer
from api_common.telemetry import Metrics
from api_common.watch import ChangeNotifier, Topic

OVERHEAD_BYTES: Final = 600
"""What an answer takes in memory beside its own bytes and those of its request; measured with tracemalloc."""
SHELF_BYTES: Final = 3000
"""What a shelf without answers takes, measured in the same way."""
LARGEST_PART: Final = 16
"""An answer larger than this part of the memory is not kept, because it would displace too many others."""

_Place = tuple[str, str]
_Request = tuple[str, bytes]


class _Answer(NamedTuple):
    response: bytes
    began: float
    """When its read began, on the clock of the cache."""
    size: int


@dataclass(eq=False, slots=True)
class _Shelf:
    """The answers about one collection of one tenant. The next change of the collection drops all of them."""

    place: _Place
    topic: Topic
    end: asyncio.TimerHandle
    answers: LRUCache[_Request, _Answer]
    generation: int = field(init=False)

    def __post_init__(self) -> None:
        self.generation = self.topic.__enter__().generation

    @property
    def is_current(self) -> bool:
        return self.topic.generation == self.generation


class AnswerCache:
    """The kept answers of this process.

    All together take ``most_bytes``. If there is no room, the tenant that holds the most gives up what it has not used
    for longest, so a tenant with less than an equal part loses nothing to others.

    Args:
        now: a clock that never goes back, in seconds.
    """

    def __init__(
        self, most_bytes: int, notifier: ChangeNotifier, metrics: Metrics, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.most_bytes: Final = most_bytes
        self.now: Final = now
        self.shelves: Final[dict[_Place, _Shelf]] = {}
        """By tenant and collection."""
        self._notifier = notifier
        self._metrics = metrics
        self._size: float = 0

    def shelf(self, tenant_id: str, collection: str) -> _Shelf:
        """Returns the answers that may be given, as far as the feed of changes has told.

        A shelf lives as long as an answer may, so that a tenant who has gone leaves nothing.
        """
        place = (tenant_id, collection)
        shelf = self.shelves.get(place)
        if shelf is not None and not shelf.is_current:
            self.drop(*place)
            shelf = None
        if shelf is None:
            end = asyncio.get_running_loop().call_later(MAX_AGE_SECONDS, self.drop, *place, "age")
            # `keep` bounds all shelves together.
            answers = LRUCache[_Request, _Answer](math.inf, getsizeof=lambda answer: answer.size)
            shelf = self.shelves[place] = _Shelf(place, self._notifier.follow(*place), end, answers)
            self._size += SHELF_BYTES
        return shelf

    def keep(self, shelf: _Shelf, request: _Request, response: bytes, began: float) -> None:
        """Keeps an answer, unless it is too large, or there was a change since ``shelf`` was returned."""
        size = len(response) + len(request[1]) + OVERHEAD_BYTES
        if self.shelves.get(shelf.place) is not shelf or not shelf.is_current or size > self.most_bytes // LARGEST_PART:
            return
        held = shelf.answers.currsize
        shelf.answers[request] = _Answer(response, began, size)
        self._size += shelf.answers.currsize - held
        while self._size > self.most_bytes:
            fullest = max(self.shelves.values(), key=lambda one: one.answers.currsize)
            if len(fullest.answers) < 2:
                self.drop(*fullest.place, "room")
            else:
                self._size -= fullest.answers.popitem()[1].size
                self._metrics.cache_dropped.labels("room").inc()
        self._metrics.cache_bytes.set(self._size)

    def drop(self, tenant_id: str, collection: str, reason: str = "change") -> None:
        """Drops all answers about a collection of a tenant."""
        shelf = self.shelves.pop((tenant_id, collection), None)
        if shelf is not None:
            shelf.end.cancel()
            shelf.topic.__exit__()
            self._size -= shelf.answers.currsize + SHELF_BYTES
            self._metrics.cache_dropped.labels(reason).inc(len(shelf.answers))
            self._metrics.cache_bytes.set(self._size)


def from_cache(method: MethodPolicy, within: Layer, *, cache: AnswerCache, metrics: Metrics) -> Layer | None:
    """Answers calls of ``method`` with a kept answer that is young enough, and keeps those of ``within``.

    Admission has run: tenant, permission and stored user of this caller are checked. Returns None if nothing is kept.
    """
    if not method.cacheable or not cache.most_bytes:
        return None
    name = method.path[1:]
    hits, misses = (metrics.cache_reads.labels(name, result) for result in ("hit", "miss"))

    async def layer(call: Call) -> None:
        assert call.principal is not None  # admission ran
        if not call.payload:
            # Admission has let go of a large one, so it is not known what was asked.
            await within(call)
            return
        shelf = cache.shelf(call.principal.tenant_id, method.collection)
        request, began = (name, call.payload), cache.now()
        answer = shelf.answers.get(request)
        if answer is not None and began - answer.began <= call.incoming.headers.max_age_seconds:
            age = began - answer.began
            call.done = Done(answer.response, age_seconds=math.ceil(age))
            hits.inc()
            metrics.cache_age.observe(age)
            return
        misses.inc()
        await within(call)
        if call.done is not None:
            cache.keep(shelf, request, call.done.response, began)

    return layer
