"""The pool against a real Postgres: how many connections there are, who gets one, and what becomes of broken ones."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from api_common.db import pool as module
from api_common.db.pool import Connection, Pool
from api_common.telemetry import Occupancy
from api_common.testing import TestDatabase


class Server:
    """Opens real connections, or fails and blocks as a test tells it to."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.asked = 0
        self.opened: list[Connection] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_down = False

    async def connect(self) -> Connection:
        self.asked += 1
        await self.gate.wait()
        if self.is_down:
            raise ConnectionRefusedError
        connection = await asyncpg.connect(self._url)
        self.opened.append(connection)
        return connection


@pytest.fixture
async def server(users_database: TestDatabase) -> AsyncIterator[Server]:
    server = Server(users_database.url)
    yield server
    assert all(connection.is_closed() for connection in server.opened)


@pytest.fixture
async def pool(server: Server) -> AsyncIterator[Pool]:
    """Two connections."""
    pool = Pool(server.connect, size=2)
    yield pool
    async with asyncio.timeout(20):
        await pool.close()


def take(pool: Pool) -> Coroutine[Any, Any, Connection]:
    return pool.acquire(timeout_seconds=5)


async def is_full(pool: Pool) -> bool:
    """Takes what there is and says whether it was both."""
    taken = [await take(pool), await take(pool)]
    with pytest.raises(TimeoutError):
        await pool.acquire(timeout_seconds=0.01)
    for connection in taken:
        pool.release(connection)
    return len(set(taken)) == 2


async def start_waiting(call: Coroutine[Any, Any, Connection]) -> asyncio.Task[Connection]:
    """Runs ``call`` until it waits for something."""
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    assert not task.done()
    return task


class TestPool:
    async def test_opens_nothing_before_it_is_needed(self, pool: Pool, server: Server) -> None:
        assert pool.occupancy[1:3] == (0, 0)
        pool.release(await take(pool))
        pool.release(await take(pool))
        assert pool.occupancy[1:3] == (1, 1)
        assert len(server.opened) == 1

    async def test_uses_the_last_one_first(self, pool: Pool) -> None:
        first, second = await take(pool), await take(pool)
        pool.release(first)
        pool.release(second)
        assert await take(pool) is second
        assert await take(pool) is first
        pool.release(first)
        pool.release(second)

    async def test_serves_who_waits_in_the_order_of_arrival(self, pool: Pool) -> None:
        first, second = await take(pool), await take(pool)
        early, late = await start_waiting(take(pool)), await start_waiting(take(pool))
        pool.release(first)
        # It arrives while a connection is idle, which is meant for `early`.
        last = await start_waiting(take(pool))
        assert await early is first
        pool.release(second)
        assert await late is second
        pool.release(first)
        assert await last is first
        pool.release(first)
        pool.release(second)

    async def test_gives_up_when_none_comes_free(self, pool: Pool) -> None:
        assert await is_full(pool)
        assert await is_full(pool)
        assert pool.occupancy == Occupancy(size=2, open=2, idle=2, waiting=0, timeouts=2)

    async def test_counts_who_waits(self, pool: Pool) -> None:
        first, second = await take(pool), await take(pool)
        waiting = await start_waiting(take(pool))
        assert pool.occupancy == Occupancy(size=2, open=2, idle=0, waiting=1, timeouts=0)
        pool.release(first)
        pool.release(await waiting)
        pool.release(second)
        assert pool.occupancy.waiting == 0


class TestPlaces:
    """A place is free again, whatever happens to who holds it or waits for it."""

    async def test_when_a_connection_cannot_be_opened(self, pool: Pool, server: Server) -> None:
        server.is_down = True
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await take(pool)
        server.is_down = False
        assert await is_full(pool)

    async def test_when_opening_takes_too_long(self, pool: Pool, server: Server) -> None:
        server.gate.clear()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout_seconds=0.01)
        server.gate.set()
        assert await is_full(pool)

    async def test_when_who_opens_a_connection_leaves(self, pool: Pool, server: Server) -> None:
        """The next one has the connection; meanwhile no more are opened than there is room for."""
        server.gate.clear()
        gone = [await start_waiting(take(pool)) for _ in range(2)]
        for one in gone:
            one.cancel()
        await asyncio.wait(gone)
        late = await start_waiting(take(pool))
        server.gate.set()
        pool.release(await late)
        assert await is_full(pool)
        assert server.asked == 2

    async def test_when_nobody_hears_that_a_connection_cannot_be_opened(self, pool: Pool, server: Server) -> None:
        server.gate.clear()
        server.is_down = True
        gone = await start_waiting(take(pool))
        gone.cancel()
        await asyncio.wait([gone])
        server.gate.set()
        server.is_down = False
        assert await is_full(pool)

    @pytest.mark.parametrize("granted", [False, True])
    async def test_when_who_waits_is_cancelled(self, pool: Pool, granted: bool) -> None:
        first, second = await take(pool), await take(pool)
        waiting = await start_waiting(take(pool))
        if granted:
            pool.release(first)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            pool.release(await waiting)
        if not granted:
            pool.release(first)
        pool.release(second)
        assert await is_full(pool)

    async def test_when_a_connection_breaks_in_use(self, pool: Pool) -> None:
        broken = await take(pool)
        broken.terminate()
        pool.release(broken)
        assert pool.occupancy[1:3] == (0, 0)
        assert await is_full(pool)

    async def test_when_idle_connections_break(self, pool: Pool, server: Server) -> None:
        assert await is_full(pool)
        for connection in server.opened:
            connection.terminate()
        assert not (await take_and_release(pool)).is_closed()
        assert await is_full(pool)

    async def test_when_connections_are_idle_for_too_long(
        self, pool: Pool, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert await is_full(pool)
        monkeypatch.setattr(module, "MAX_IDLE_SECONDS", 0)
        assert await take_and_release(pool) not in server.opened[:2]
        assert all(connection.is_closed() for connection in server.opened[:2])

    async def test_after_a_burst(self, pool: Pool, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = await take(pool), await take(pool)
        pool.release(first)
        monkeypatch.setattr(module, "MAX_IDLE_SECONDS", -1)
        pool.release(second)
        assert first.is_closed()
        assert pool.occupancy[1:3] == (1, 1)
        assert await is_full(pool)


class TestRenew:
    async def test_replaces_connections_that_are_idle_and_those_in_use(self, pool: Pool, server: Server) -> None:
        used, idle = await take(pool), await take(pool)
        pool.release(idle)
        pool.renew(used)
        assert idle.is_closed()
        assert await used.fetchval("SELECT 1") == 1
        new = await take(pool)
        assert new not in (used, idle)
        pool.release(used)
        assert used.is_closed()
        pool.release(new)
        assert await is_full(pool)
        assert len(server.opened) == 4

    async def test_happens_once_whoever_else_finds_it_out(self, pool: Pool, server: Server) -> None:
        first, second = await take(pool), await take(pool)
        pool.renew(first)
        pool.release(first)
        new = await take_and_release(pool)
        pool.renew(second)
        pool.release(second)
        assert await take_and_release(pool) is new
        assert len(server.opened) == 3


async def take_and_release(pool: Pool) -> Connection:
    connection = await take(pool)
    pool.release(connection)
    return connection


class TestClose:
    async def test_waits_for_the_connections_in_use(self, server: Server) -> None:
        pool = Pool(server.connect, size=2)
        used = await take(pool)
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0)
        assert await used.fetchval("SELECT 1") == 1
        assert not closing.done()
        pool.release(used)
        await closing
        assert used.is_closed()

    async def test_ends_them_when_it_is_cancelled(self, server: Server) -> None:
        pool = Pool(server.connect, size=2)
        used, idle = await take(pool), await take(pool)
        pool.release(idle)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.close()
        assert used.is_closed()
        assert idle.is_closed()

    async def test_gives_up_what_is_being_opened(self, server: Server) -> None:
        pool = Pool(server.connect, size=2)
        server.gate.clear()
        opening = await start_waiting(take(pool))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.close()
        with pytest.raises(asyncio.CancelledError):
            await opening
