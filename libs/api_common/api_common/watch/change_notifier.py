"""Polls for new changes, once per process, and wakes the watches of their tenant and collection.

The table of changes is the truth and is polled each second. A commit of this process, or a NOTIFY from another one,
only makes the next poll come sooner. NOTIFY is sent on the notifier's own connection: in the transaction of a request
it would serialize all commits of the database.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final, Self

import structlog
from sqlalchemy import select, true

from api_common.db import DRIVER_ERRORS, Connection, Database, Transaction, compile_statement
from api_common.watch.resume_token import xmin
from api_common.watch.statements import CHANGES, SNAPSHOT, unseen
from api_common.watch.tables import FOLLOWER

CHANNEL: Final = "changes"
"""The channel of NOTIFY; each service has its own database, so its own channel."""
POLL_SECONDS: Final = 1.0
"""The time between two polls without a commit or NOTIFY."""
PAUSE_SECONDS: Final = 0.02
"""The least time between two polls: commits close together are announced together."""

_POLL_TIMEOUT_SECONDS: Final = 10

_header = select(SNAPSHOT.label("snapshot")).subquery("header")
_new = select(CHANGES.c.tenant_id, CHANGES.c.collection).where(unseen("seen")).distinct().subquery("new")
_POLL: Final = compile_statement(
    select(_header, _new).select_from(_header.outerjoin(_new, true())), plan_for_values=True
)

_TICK_SECONDS: Final = 0.1
"""Waits that end within the same tick end together."""

_generations: Final = count()
_log: Final = structlog.get_logger()


class TimerWheel:
    """Ends many waits with few timers: one timer per wait would be most of the cost of an idle watch."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}

    def add(self, waiter: "asyncio.Future[None]", *, due: float) -> int:
        """Finishes ``waiter`` at ``due`` on the event loop's clock, or up to a tick later; returns the tick."""
        tick = math.ceil(due / _TICK_SECONDS)
        waiting = self._waiting.get(tick)
        if waiting is None:
            waiting = self._waiting[tick] = set()
            asyncio.get_running_loop().call_at(tick * _TICK_SECONDS, self._end, tick)
        waiting.add(waiter)
        return tick

    def remove(self, waiter: "asyncio.Future[None]", tick: int) -> None:
        """Removes a waiter of ``tick``."""
        self._waiting.get(tick, set()).discard(waiter)

    def _end(self, tick: int) -> None:
        for waiter in self._waiting.pop(tick):
            _finish(waiter)


@dataclass(eq=False, slots=True)
class Topic:
    """Announces the changes of one tenant in one collection to its watches."""

    timers: TimerWheel
    """Shared by all topics of a process."""
    forget: Callable[[], object]
    """Called when the last watch has ended."""
    generation: int = field(default_factory=_generations.__next__)
    """Unique, and new after each announcement: it tells what was read before one from what is read after."""
    watches: int = 0
    """The number of open watches."""
    waiting: set["asyncio.Future[None]"] = field(default_factory=set)
    """The watches that wait for changes."""
    _previous: int = -1
    _since: str = ""

    def __enter__(self) -> Self:
        """Counts one watch until the block ends."""
        self.watches += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.watches -= 1
        if not self.watches:
            self.forget()

    def announce(self, since: str = "") -> None:
        """Wakes the watches.

        Args:
            since: a snapshot before which nothing is new to those that read in the generation that ends now.
        """
        self._previous, self._since = self.generation, since
        self.generation = next(_generations)
        for waiter in self.waiting:
            _finish(waiter)

    def has_changed(self, generation: int) -> bool:
        """Tells whether a change was announced after ``generation``; what the first poll announces need be none."""
        return self.generation != generation and (self._previous != generation or self._since != "")

    def since(self, generation: int) -> str:
        """Returns a snapshot of which a watch that last read in ``generation`` has seen all; empty if none is known.

        It is the same for all these watches, whenever they began, so that they share the next page.
        """
        return self._since if self._previous == generation else ""

    async def wait(self, seen: int, *, timeout_seconds: float) -> None:
        """Returns when a change was announced after generation ``seen``, or after the time-out."""
        if self.generation != seen or timeout_seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        tick = self.timers.add(waiter, due=loop.time() + timeout_seconds)
        self.waiting.add(waiter)
        try:
            await waiter
        finally:
            self.timers.remove(waiter, tick)
            self.waiting.discard(waiter)


class ChangeNotifier:
    """Polls for changes on behalf of all watches of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._timers = TimerWheel()
        self._topics: dict[tuple[str, str], Topic] = {}
        self._woken = asyncio.Event()
        self._committed = False
        self._listening: Connection | None = None
        self._snapshot = ""
        self.polls: int = 0
        """The number of polls, including a running one."""
        self._polled = 0
        self.stopping = asyncio.Event()

    @property
    def watches(self) -> int:
        """The number of open watches."""
        return sum(topic.watches for topic in self._topics.values())

    def quiet_since(self, poll: int) -> str:
        """Returns the snapshot of the last poll if that began after ``poll``, else an empty text."""
        return self._snapshot if self._polled > poll else ""

    def wake(self) -> None:
        """Notes that this process has committed a change."""
        self._committed = True
        self._woken.set()

    def stop(self) -> None:
        """Ends all watches."""
        self.stopping.set()
        for topic in self._topics.values():
            topic.announce()

    def follow(self, tenant_id: str, collection: str) -> Topic:
        """Returns the topic of a collection; its changes are announced while a block has entered it."""
        if not self._topics:
            # The first poll finds out where changes begin to be new.
            self._woken.set()
        key = (tenant_id, collection)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(self._timers, partial(self._topics.pop, key))
        return topic

    async def run(self) -> None:
        """Polls and listens. Never returns."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._woken.wait()
                self._woken.clear()
                try:
                    # The network may drop a connection without a word.
                    async with asyncio.timeout(_POLL_TIMEOUT_SECONDS):
                        await self._notify_others()
                        await self._poll()
                except Exception as error:  # noqa: BLE001 - whatever it is, the next poll may succeed
                    _log.warning("poll for changes failed", error=repr(error))
                    await asyncio.sleep(POLL_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _notify_others(self) -> None:
        """Wakes the other processes of the service, once for all commits of this one since the last time."""
        listening = self._listening
        if self._committed and listening is not None:
            self._committed = False
            try:
                await listening.execute(f"NOTIFY {CHANNEL}")
            except BaseException as error:
                # `_listen` connects again.
                listening.terminate()
                if not isinstance(error, DRIVER_ERRORS):
                    raise

    async def _poll(self) -> None:
        if not self._topics:
            # Without watches there is nothing to announce. The first poll for a new watch announces everything.
            self._snapshot = ""
            return
        self.polls += 1
        poll = self.polls
        polling = Transaction(self._database, task=FOLLOWER, read_only=True, timeout_seconds=_POLL_TIMEOUT_SECONDS)
        async with polling as transaction:
            # The first poll knows nothing of before, so it announces everything.
            seen = self._snapshot
            values = {"seen": seen or "1:1:", "xmin": xmin(seen) if seen else 2**62}
            rows = await transaction.fetch_all(_POLL, values)
        new = {(row["tenant_id"], row["collection"]) for row in rows} if seen else set(self._topics)
        self._snapshot, self._polled = rows[0]["snapshot"], poll
        for key in new:
            if topic := self._topics.get(key):
                topic.announce(seen)

    def _on_notify(self, connection: object, pid: int, *_: object) -> None:
        listening = self._listening
        # A NOTIFY from this process itself is no news.
        if listening is None or listening.is_closed() or pid != listening.get_server_pid():
            self._woken.set()

    async def _listen(self) -> None:
        """Listens for NOTIFY from other processes, and connects again when the connection is lost. Never returns."""
        while True:
            try:
                connection = await self._database.dedicated()
                try:
                    closed = asyncio.Event()
                    connection.add_termination_listener(lambda *_, closed=closed: closed.set())
                    await connection.add_listener(CHANNEL, self._on_notify)
                    self._listening = connection
                    await closed.wait()
                finally:
                    self._listening = None
                    connection.terminate()
            except DRIVER_ERRORS as error:
                _log.warning("listening for changes failed", error=repr(error))
            await asyncio.sleep(POLL_SECONDS)


def _finish(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
