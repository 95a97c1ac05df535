"""Learns that there is something new, once per process, and wakes the watches that it concerns.

The table is the truth and is looked at each second. A commit of this process, and NOTIFY from another one, only make
the next look come sooner. NOTIFY is sent from the notifier's own connection: in a request's transaction it would
make all commits of the database wait for each other.
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

from api_common.db import DRIVER_ERRORS, Connection, Database, UnitOfWork, compile_statement
from api_common.watch.resume_token import xmin
from api_common.watch.statements import CHANGES, SNAPSHOT, unseen
from api_common.watch.tables import FOLLOWER

CHANNEL: Final = "changes"
"""The channel of NOTIFY; each service has a database, and so a channel, of its own."""
POLL_SECONDS: Final = 1.0
"""Between two looks when nobody says that there is something."""
PAUSE_SECONDS: Final = 0.02
"""Between two looks at least: commits that come close together are announced together."""

_LOOK_SECONDS: Final = 10

_header = select(SNAPSHOT.label("snapshot")).subquery("header")
_new = select(CHANGES.c.tenant_id, CHANGES.c.collection).where(unseen("seen")).distinct().subquery("new")
_LOOK: Final = compile_statement(
    select(_header, _new).select_from(_header.outerjoin(_new, true())), plan_for_values=True
)

_TURN_SECONDS: Final = 0.1
"""Waits that end within the same turn end together."""

_generations: Final = count()
_log: Final = structlog.get_logger()


class TimerWheel:
    """Ends waits in time with few timers, however many wait: one each would be most of what an idle watch costs."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}

    def add(self, waiter: "asyncio.Future[None]", *, due: float) -> int:
        """Has ``waiter`` finished at ``due``, on the event loop's clock, or a little later; returns the turn."""
        turn = math.ceil(due / _TURN_SECONDS)
        waiting = self._waiting.get(turn)
        if waiting is None:
            waiting = self._waiting[turn] = set()
            asyncio.get_running_loop().call_at(turn * _TURN_SECONDS, self._end, turn)
        waiting.add(waiter)
        return turn

    def remove(self, waiter: "asyncio.Future[None]", turn: int) -> None:
        """Forgets a waiter of ``turn``."""
        self._waiting.get(turn, set()).discard(waiter)

    def _end(self, turn: int) -> None:
        for waiter in self._waiting.pop(turn):
            _finish(waiter)


@dataclass(eq=False, slots=True)
class Topic:
    """What the watches of one tenant on one collection wait for."""

    turns: TimerWheel
    """Shared by all topics of a process."""
    forget: Callable[[], object]
    """Called when the last watch has gone."""
    generation: int = field(default_factory=_generations.__next__)
    """Another one after each announcement, and in each topic: what was read before is told from what is read after."""
    watches: int = 0
    """How many there are."""
    waiting: set["asyncio.Future[None]"] = field(default_factory=set)
    """Those that wait for more."""

    def __enter__(self) -> Self:
        """Counts a watch for as long as the block runs."""
        self.watches += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.watches -= 1
        if not self.watches:
            self.forget()

    def announce(self) -> None:
        """Wakes the watches."""
        self.generation = next(_generations)
        for waiter in self.waiting:
            _finish(waiter)

    async def wait(self, seen: int, *, timeout_seconds: float) -> None:
        """Returns when something was announced after ``seen``, or when the time is over."""
        if self.generation != seen or timeout_seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        turn = self.turns.add(waiter, due=loop.time() + timeout_seconds)
        self.waiting.add(waiter)
        try:
            await waiter
        finally:
            self.turns.remove(waiter, turn)
            self.waiting.discard(waiter)


class ChangeNotifier:
    """The one that looks for changes in this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._timers = TimerWheel()
        self._topics: dict[tuple[str, str], Topic] = {}
        self._woken = asyncio.Event()
        self._committed = False
        self._listening: Connection | None = None
        self._snapshot = ""
        self._looks = 0
        self._done = 0
        self.is_stopping = False

    @property
    def watches(self) -> int:
        """How many watches there are."""
        return sum(topic.watches for topic in self._topics.values())

    @property
    def looks(self) -> int:
        """Counts the looks, also one that is under way."""
        return self._looks

    def quiet_since(self, look: int) -> str:
        """Returns the snapshot up to which nothing was announced, if it was taken after ``look``; else nothing."""
        return self._snapshot if self._done > look else ""

    def wake(self) -> None:
        """Says that this process has committed something."""
        self._committed = True
        self._woken.set()

    def stop(self) -> None:
        """Ends the watches."""
        self.is_stopping = True
        for topic in self._topics.values():
            topic.announce()

    def follow(self, tenant_id: str, collection: str) -> Topic:
        """Returns what has changes announced for as long as it is entered."""
        key = (tenant_id, collection)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(self._timers, partial(self._topics.pop, key))
        return topic

    async def run(self) -> None:
        """Looks again and again. Never returns."""
        listener = asyncio.create_task(self._listen())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)
                self._woken.clear()
                try:
                    await self._tell()
                    await self._look()
                except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed
                    _log.warning("changes are not looked for now", error=repr(error))
                    await asyncio.sleep(POLL_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            listener.cancel()

    async def _tell(self) -> None:
        """Wakes the other processes of the service, once for all that was committed here meanwhile."""
        if self._committed and self._listening is not None:
            self._committed = False
            with contextlib.suppress(*DRIVER_ERRORS):
                await self._listening.execute(f"NOTIFY {CHANNEL}")

    async def _look(self) -> None:
        if not self._topics:
            # Nobody asks: whoever does begins with a look of its own.
            self._snapshot = ""
            return
        self._looks += 1
        look = self._looks
        unit = UnitOfWork(
            self._database, "", task=FOLLOWER, constraints={}, read_only=True, timeout_seconds=_LOOK_SECONDS
        )
        async with unit as transaction:
            # Before the first look nothing is known, and everything is announced.
            seen = self._snapshot
            values = {"seen": seen or "1:1:", "xmin": xmin(seen) if seen else 2**62}
            rows = await transaction.fetch_all(_LOOK, values)
        new = {(row["tenant_id"], row["collection"]) for row in rows} if seen else set(self._topics)
        self._snapshot, self._done = rows[0]["snapshot"], look
        for key in new:
            if topic := self._topics.get(key):
                topic.announce()

    def _hear(self, connection: object, pid: int, *_: object) -> None:
        listening = self._listening
        # What this process said itself it knows already.
        if listening is None or pid != listening.get_server_pid():
            self._woken.set()

    async def _listen(self) -> None:
        """Keeps a connection on which other processes tell that they committed. Never returns."""
        while True:
            try:
                connection = await self._database.dedicated()
                try:
                    closed = asyncio.Event()
                    connection.add_termination_listener(lambda *_, closed=closed: closed.set())
                    await connection.add_listener(CHANNEL, self._hear)
                    self._listening = connection
                    await closed.wait()
                finally:
                    self._listening = None
                    connection.terminate()
            except DRIVER_ERRORS as error:
                _log.warning("other processes are not heard now", error=repr(error))
            await asyncio.sleep(POLL_SECONDS)


def _finish(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
