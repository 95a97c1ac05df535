"""The pool under every order of callers, connections, cancellations and failures that hypothesis finds."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import hypothesis.strategies as st
from api_common.db.pool import MAX_IDLE_SECONDS, Connection, Pool
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from libs.api_common.tests.virtual_time import VirtualTimeLoop

LONG: Final = 10_000.0
"""More seconds than a run has: the caller waits until the test cancels it."""


@dataclass(eq=False)
class Session:
    """Stands for a connection to Postgres."""

    broken: bool = False
    """Nobody has told the pool yet."""
    ended: bool = False
    outdated: bool = False
    idle_since: float = 0.0

    def is_closed(self) -> bool:
        return self.broken or self.ended

    def terminate(self) -> None:
        self.ended = True

    async def close(self) -> None:
        self.ended = True


@dataclass(eq=False)
class Server:
    """Accepts or refuses each connection when the test says so."""

    attempts: list["asyncio.Future[Session]"] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)

    async def connect(self) -> Connection:
        attempt: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self.attempts.append(attempt)
        try:
            session = await attempt
        finally:
            self.attempts.remove(attempt)
        self.sessions.append(session)
        return cast(Connection, session)

    @property
    def live(self) -> list[Session]:
        return [one for one in self.sessions if not one.ended]


class PoolStates(RuleBasedStateMachine):
    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.server = Server()
        self.tasks: list[asyncio.Task[Connection]] = []
        self.held: list[Session] = []
        self.timeouts = 0

    @initialize(size=st.integers(1, 3))
    def begin(self, size: int) -> None:
        self.size = size
        self.pool = Pool(self.server.connect, size=size)

    @rule(target=callers, seconds=st.sampled_from([1.0, 5.0, LONG]))
    def acquire(self, seconds: float) -> Any:
        task = self.loop.create_task(self.pool.acquire(timeout_seconds=seconds))
        self.tasks.append(task)
        self.loop.settle()
        self._collect()
        return multiple(task)

    @rule()
    def take(self) -> None:
        """Acquires from a server that accepts at once: most callers find it so."""
        self.acquire(LONG)
        if self.server.attempts:
            self.answer(accepts=True, which=len(self.server.attempts) - 1)

    @rule(task=consumes(callers))
    def cancel(self, task: "asyncio.Task[Connection]") -> None:
        attempts = list(self.server.attempts)
        task.cancel()
        self.loop.settle()
        assert self.server.attempts == attempts, "connecting ended with the caller"
        self._collect()

    @rule(accepts=st.booleans(), which=st.integers(0, 2))
    def answer(self, accepts: bool, which: int) -> None:
        if self.server.attempts:
            attempt = self.server.attempts[which % len(self.server.attempts)]
            if accepts:
                attempt.set_result(Session(idle_since=self.loop.time()))
            else:
                attempt.set_exception(ConnectionRefusedError())
            self.loop.settle()
            self._collect()

    @rule(which=st.integers(0, 2))
    def release(self, which: int) -> None:
        if self.held:
            session = self.held.pop(which % len(self.held))
            session.idle_since = self.loop.time()
            self.loop.within(lambda: self.pool.release(cast(Connection, session)))
            self._collect()

    @rule(which=st.integers(0, 5))
    def sever(self, which: int) -> None:
        """Ends a connection at the server's side, in use or idle."""
        if self.server.live:
            self.server.live[which % len(self.server.live)].broken = True

    @rule(which=st.integers(0, 2))
    def renew(self, which: int) -> None:
        if self.held:
            session = self.held[which % len(self.held)]
            if not session.outdated:
                for one in self.server.live:
                    one.outdated = True
            self.pool.renew(cast(Connection, session))

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0, MAX_IDLE_SECONDS + 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self._collect()

    @invariant()
    def connections_are_never_more_than_allowed(self) -> None:
        assert len(self.server.live) + len(self.server.attempts) <= self.size

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        # Others wait for the server, not for room; an attempt that its caller left keeps its place, too.
        if len(self.tasks) > len(self.server.attempts):
            assert len(self.held) + len(self.server.attempts) == self.size

    @invariant()
    def what_is_counted_is_true(self) -> None:
        occupancy = self.pool.occupancy
        assert occupancy.open == len(self.server.live)
        assert occupancy.idle == len(self.server.live) - len(self.held)
        assert occupancy.waiting == len(self.tasks)
        assert occupancy.timeouts == self.timeouts

    def teardown(self) -> None:
        try:
            self._check_that_no_place_is_lost()
        finally:
            self.loop.close()

    def _check_that_no_place_is_lost(self) -> None:
        """As many callers as the pool has places are served, whatever happened before."""
        for task in self.tasks:
            task.cancel()
        self.loop.settle()
        while self.server.attempts:
            self.answer(accepts=False, which=0)
        while self.held:
            self.release(0)
        for _ in range(self.size):
            self.acquire(LONG)
            while self.server.attempts:
                self.answer(accepts=True, which=0)
        assert len(self.held) == self.size
        while self.held:
            self.release(0)
        self.loop.run_until_complete(self.pool.close())
        assert not self.server.live

    def _collect(self) -> None:
        """Takes note of the callers that were served or refused."""
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            with suppress(ConnectionRefusedError, asyncio.CancelledError):
                try:
                    session = cast(Session, task.result())
                except TimeoutError:
                    self.timeouts += 1
                    continue
                assert session not in self.held, "a connection is in use twice"
                assert not session.is_closed(), "a closed connection was handed out"
                assert not session.outdated, "a connection was handed out after it was renewed"
                assert self.loop.time() - session.idle_since < MAX_IDLE_SECONDS, "it was idle for too long"
                self.held.append(session)


TestPoolStates = PoolStates.TestCase
TestPoolStates.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
