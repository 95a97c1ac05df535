"""What a superuser sees and does in a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from ameide.user.v1 import user_pb2 as pb

if TYPE_CHECKING:
    import asyncpg

    Operator: TypeAlias = asyncpg.Connection[asyncpg.Record]


@asynccontextmanager
async def locked(operator: Operator, *users: pb.User) -> AsyncIterator[None]:
    """Keeps everybody else from writing ``users`` until the block ends."""
    async with operator.transaction():
        await operator.execute("SELECT 1 FROM users WHERE id = ANY($1) FOR UPDATE", [user.id for user in users])
        yield


async def until_sessions(operator: Operator, condition: str, *, at_least: int = 0, at_most: int = 1000) -> None:
    """Returns once so many other sessions of the database fulfil ``condition``."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        f" AND backend_type = 'client backend' AND {condition}"
    )
    async with asyncio.timeout(10):
        while not at_least <= await operator.fetchval(query) <= at_most:
            # Within one transaction the view stands still unless it is told not to.
            await operator.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0.01)
