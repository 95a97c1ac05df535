"""A caller that is gone keeps no connection, also if Postgres never hears that its statement is to end."""

import asyncio
from typing import Any

import pytest
from api_common.db import database as module
from api_common.db.database import Database
from api_common.settings import DatabaseSettings
from api_common.testing import TestDatabase
from asyncpg import connect_utils
from pydantic import SecretStr

from libs.api_common.tests.units import SLEEP, unit


async def test_a_cancellation_that_is_lost_ends_the_connection(
    users_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(**_: Any) -> None:
        """The request came while the session was between two statements: Postgres does nothing, and says nothing."""

    settings = DatabaseSettings(url=SecretStr(users_database.url), pool_size=1)
    database = await Database.connect(settings, application_name="lost-cancellation")

    async def work() -> None:
        async with unit(database, "acme", read_only=True, timeout_seconds=20) as transaction:
            await transaction.fetch_one(SLEEP, {})

    monkeypatch.setattr(connect_utils, "_cancel", lose)
    monkeypatch.setattr(module, "_ROLLBACK_SECONDS", 0.05)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(), 0.2)
        assert (database.occupancy.open, database.occupancy.idle) == (0, 0)
        # There is room for the next one.
        assert await database.fetch_value("SELECT 1") == 1
    finally:
        await database.close()
