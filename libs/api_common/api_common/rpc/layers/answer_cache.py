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
LARGEST_BYTES: Final = 64 * 1024
"""Larger answers are not kept: they are paid for like others (ADR 44), and cost the edge more than the service."""

LARGEST_REQUEST_BYTES: Final = 8192
"""The answers to larger requests are not kept; a batch of a hundred ids has half of it."""

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
        return not self.topic.has_changed(self.generation)


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
        if self.shelves.get(shelf.place) is not shelf or not shelf.is_current or len(response) > LARGEST_BYTES:
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


class KeptAnswers:
    """The kept answers of one method."""

    def __init__(self, method: MethodPolicy, within: Layer, *, cache: AnswerCache, metrics: Metrics) -> None:
        self._name: Final = method.path[1:]
        self._collection: Final = method.collection
        self._within = within
        self._cache = cache
        self._age = metrics.cache_age
        self._hits, self._misses = (metrics.cache_reads.labels(self._name, result) for result in ("hit", "miss"))

    def give(self, call: Call) -> bool:
        """Answers a call, whose caller admission has checked, and returns True if a kept answer is young enough.

        The request needs no check: one with the same bytes has passed them all. Only If-Match is beside the bytes.
        """
        found = self._find(call)
        if found is None or call.incoming.headers.if_match:
            return False
        shelf, request = found
        answer, now = shelf.answers.get(request), self._cache.now()
        if answer is None or now - answer.began > call.incoming.headers.max_age_seconds:
            self._misses.inc()
            return False
        call.done = Done(answer.response, age_seconds=math.ceil(now - answer.began))
        self._hits.inc()
        self._age.observe(now - answer.began)
        return True

    async def layer(self, call: Call) -> None:
        """Lets the layers within answer, and keeps their answer."""
        found, began = self._find(call), self._cache.now()
        await self._within(call)
        if found is not None and call.done is not None:
            self._cache.keep(*found, call.done.response, began)

    def _find(self, call: Call) -> tuple[_Shelf, _Request] | None:
        """Returns where the answer belongs; None if the request is too large, or admission has let go of its bytes."""
        if call.principal is None or not 0 < len(call.payload) <= LARGEST_REQUEST_BYTES:
            return None
        return self._cache.shelf(call.principal.tenant_id, self._collection), (self._name, call.payload)
