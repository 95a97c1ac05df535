"""A pool of connections: opened when they are needed; the one used last is used next.

asyncpg's own pool makes a task, two timers and a proxy for every use, which is a tenth of the CPU of a read
(docs/performance.md). It needs them to reset sessions and to close idle connections; here no setting outlives its
transaction (ADR 0003).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Final, TypeAlias

import asyncpg

from api_common.telemetry import Occupancy, ShareUse

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
"""A connection out of the pool."""

MAX_IDLE_SECONDS: Final = 300
"""Connections that were idle for longer are not used again: the network may have dropped them silently."""


class ShareTimeoutError(TimeoutError):
    """The tenant held its share of the connections for too long."""


class _Line:
    """Those of one tenant that hold a semaphore or wait for it."""

    def __init__(self, limit: int) -> None:
        self.free = asyncio.Semaphore(limit)
        self.held = 0
        self.users = 0


class TenantSemaphore:
    """A semaphore for each tenant: ``limit`` of a tenant hold it at most, the others wait in line."""

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self._lines: dict[object, _Line] = {}

    def __len__(self) -> int:
        """Returns how many tenants hold it or wait."""
        return len(self._lines)

    @property
    def most(self) -> int:
        """How often the tenant that holds it most holds it; other threads may ask."""
        return max((line.held for line in self._lines.copy().values()), default=0)

    def users(self, holder: object) -> int:
        """Returns how many hold or await that of ``holder``."""
        line = self._lines.get(holder)
        return 0 if line is None else line.users

    def locked(self, holder: object) -> bool:
        """Tells whether `acquire` would wait."""
        line = self._lines.get(holder)
        return line is not None and line.free.locked()

    async def acquire(self, holder: object) -> None:
        """Waits until fewer than ``limit`` of the tenant hold it."""
        line = self._lines.get(holder) or self._lines.setdefault(holder, _Line(self.limit))
        line.users += 1
        try:
            await line.free.acquire()
        except BaseException:
            self._leave(holder)
            raise
        line.held += 1

    def release(self, holder: object) -> None:
        """Lets the next one of the tenant hold it."""
        line = self._lines[holder]
        line.held -= 1
        line.free.release()
        self._leave(holder)

    def _leave(self, holder: object) -> None:
        line = self._lines[holder]
        line.users -= 1
        if not line.users:
            del self._lines[holder]


class Turn:
    """A place among the calls of one tenant that are worked on."""

    def __init__(self, line: TenantSemaphore, tenant_id: str) -> None:
        self._line, self._tenant_id = line, tenant_id
        self._is_wanted = False
        self.held: Final = ExitStack()
        """What the call holds until its turn ends."""

    async def take(self) -> None:
        """Waits until fewer calls of the tenant are worked on than may be."""
        if not self._is_wanted:
            self._is_wanted = True
            try:
                await self._line.acquire(self._tenant_id)
            except BaseException:
                self._is_wanted = False
                raise
            self.held.callback(self._line.release, self._tenant_id)

    def end(self) -> None:
        """Lets the next call of the tenant be worked on."""
        self._is_wanted = False
        self.held.close()


class Pool:
    """At most ``size`` connections, handed out first come, first served among tenants that hold less than their share.

    Args:
        connect: opens a connection.
        share: the most connections of one tenant.
        timeout_seconds: how long `acquire` waits unless its caller says otherwise.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        size: int,
        share: int | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        self._connect = connect
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._free = asyncio.Semaphore(size)
        self._open: set[Connection] = set()
        self._outdated: set[Connection] = set()
        self._idle: list[tuple[Connection, float]] = []
        self._openings: set[asyncio.Task[Connection]] = set()
        self._waiting = 0
        self._timeouts = 0
        self._shares = TenantSemaphore(size if share is None else share)
        self._holders: dict[Connection, str] = {}
        self._refusals = 0

    async def acquire(self, tenant_id: str = "", *, timeout_seconds: float | None = None) -> Connection:
        """Takes a connection.

        Args:
            tenant_id: on whose share it counts; empty for a task of the process, which has none.

        Raises:
            ShareTimeoutError: the tenant held its share all the time.
            TimeoutError: none came free, or none could be opened, in time.
        """
        if not tenant_id:
            return await self._take(timeout_seconds)
        await self._take_share(tenant_id, timeout_seconds)
        try:
            connection = await self._take(timeout_seconds)
        except BaseException:
            self._shares.release(tenant_id)
            raise
        self._holders[connection] = tenant_id
        return connection

    async def _take_share(self, tenant_id: str, timeout_seconds: float | None) -> None:
        if not self._shares.locked(tenant_id):
            # Nothing to wait for, so no timer: the usual case.
            await self._shares.acquire(tenant_id)
            return
        try:
            async with asyncio.timeout(self._timeout_seconds if timeout_seconds is None else timeout_seconds):
                await self._shares.acquire(tenant_id)
        except TimeoutError:
            self._refusals += 1
            raise ShareTimeoutError from None

    async def _take(self, timeout_seconds: float | None) -> Connection:
        if self._idle and not self._free.locked():
            # Nothing to wait for, so no timer: the usual case.
            await self._free.acquire()
            if connection := self._pop():
                return connection
            self._free.release()
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._free.acquire()
                connection = self._pop() or await self._opened(seconds)
        except TimeoutError:
            self._timeouts += 1
            raise
        finally:
            self._waiting -= 1
        self._open.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Gives a connection back; a closed one makes room for another."""
        if tenant_id := self._holders.pop(connection, ""):
            self._shares.release(tenant_id)
        if connection.is_closed() or connection in self._outdated:
            self._end(connection)
        else:
            now = asyncio.get_running_loop().time()
            self._idle.append((connection, now))
            # The first ones are those that only a burst needed; each call that ends takes one of them back.
            oldest, since = self._idle[0]
            if now - since > MAX_IDLE_SECONDS:
                del self._idle[0]
                self._end(oldest)
        self._free.release()

    def discard(self, connection: Connection) -> None:
        """Ends a connection whose session is in an unknown state and makes room for another."""
        connection.terminate()
        self.release(connection)

    def renew(self, outdated: Connection) -> None:
        """Replaces all connections that are open now, because the session of ``outdated``, which is in use, is."""
        if outdated in self._outdated:
            # They were renewed before; the connections opened since are current.
            return
        while self._idle:
            self._end(self._idle.pop()[0])
        self._outdated = set(self._open)

    @property
    def occupancy(self) -> Occupancy:
        """How full the pool is; other threads may ask."""
        open_, idle = len(self._open), len(self._idle)
        return Occupancy(self._size, open_, idle, self._waiting, self._timeouts)

    @property
    def share(self) -> ShareUse:
        """How much the tenant with the most connections holds; other threads may ask."""
        return ShareUse("connections", "tenant", self._shares.most, self._shares.limit, self._refusals)

    async def close(self) -> None:
        """Waits for the connections in use, then closes all; if it is cancelled, all end at once."""
        try:
            for _ in range(self._size):
                await self._free.acquire()
            for connection, _ in self._idle:
                await connection.close()
        finally:
            for opening in self._openings:
                opening.cancel()
            for connection in self._open:
                connection.terminate()

    async def _opened(self, timeout_seconds: float | None) -> Connection:
        """Opens a connection for a caller that holds a place in the pool.

        Connecting goes on in the background if the caller is cancelled, and the next caller gets the connection.
        Otherwise callers with short deadlines would never have one and keep Postgres busy with connecting (ADR 15).
        """
        opening = asyncio.create_task(self._connect_within(timeout_seconds))
        self._openings.add(opening)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._adopt)
            raise
        except BaseException:
            self._free.release()
            raise
        finally:
            opening.add_done_callback(self._openings.discard)

    async def _connect_within(self, timeout_seconds: float | None) -> Connection:
        async with asyncio.timeout(timeout_seconds):
            return await self._connect()

    def _adopt(self, opening: "asyncio.Task[Connection]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._open.add(opening.result())
            self._idle.append((opening.result(), asyncio.get_running_loop().time()))
        self._free.release()

    def _pop(self) -> "Connection | None":
        while self._idle:
            connection, since = self._idle.pop()
            if not connection.is_closed() and asyncio.get_running_loop().time() - since < MAX_IDLE_SECONDS:
                return connection
            self._end(connection)
        return None

    def _end(self, connection: Connection) -> None:
        connection.terminate()
        self._open.discard(connection)
        self._outdated.discard(connection)
