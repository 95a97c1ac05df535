"""Looks at the connections of a service from outside, as an operator does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

import asyncpg

PATIENCE_SECONDS: Final = 5


class Observer:
    """A superuser's connection to the database that a service works on."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", application_name: str) -> None:
        self.connection = connection
        self._name = application_name

    @classmethod
    @asynccontextmanager
    async def connected(cls, admin_url: str, *, application_name: str) -> AsyncIterator[Self]:
        """Connects; ``application_name`` is what the observed connections call themselves."""
        connection = await asyncpg.connect(admin_url)
        try:
            yield cls(connection, application_name)
        finally:
            await connection.close()

    async def terminate(self, *, query: str = "%") -> int:
        """Ends the observed connections whose last statement is like ``query``; returns how many these were."""
        rows = await self.connection.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = $1 AND query ILIKE $2",
            self._name,
            query,
        )
        return len(rows)

    async def wait_until_idle(self) -> None:
        """Returns once no observed connection is within a transaction or at work.

        Raises:
            TimeoutError: one still is after 5 s.
        """
        await self.wait_for("state <> 'idle'", connections=0)

    async def wait_until_blocked(self, *, connections: int, query: str = "%") -> None:
        """Returns once so many observed connections wait for a lock, in a statement that is like ``query``."""
        await self.wait_for(f"wait_event_type = 'Lock' AND query ILIKE '{query}'", connections=connections)

    async def wait_for(self, condition: str, *, connections: int) -> None:
        """Returns once exactly so many observed connections fulfil ``condition`` over `pg_stat_activity`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self._count(condition) != connections:
                await asyncio.sleep(0.01)

    async def _count(self, condition: str) -> int:
        found: int = await self.connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = current_database() AND application_name = $1 AND {condition}",
            self._name,
        )
        return found


async def is_older_than_17(url: str) -> bool:
    """Tells whether the server lacks `transaction_timeout` and builtin locales."""
    connection = await asyncpg.connect(url)
    try:
        return connection.get_server_version().major < 17
    finally:
        await connection.close()
