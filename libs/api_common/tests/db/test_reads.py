"""Reads against a real Postgres: a statement is a transaction of its own where nothing may be written (ADR 30)."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from api_common import errors
from api_common.db.database import Database
from api_common.db.driver import Statement, compile_statement
from api_common.settings import DatabaseSettings
from api_common.testing import TestDatabase, create_database
from pydantic import SecretStr
from sqlalchemy import Integer, bindparam, literal_column, select

from libs.api_common.tests.example.service import SERVICE
from libs.api_common.tests.postgres import Observer
from libs.api_common.tests.units import (
    NAME,
    READ_COUNT,
    READ_SLEEP,
    End,
    Opening,
    commits,
    insert_two,
    is_cancelled_within_a_read,
    read_count,
    reads,
    unit,
)


@pytest.fixture(scope="module")
def older_database(older_postgres_url: str) -> TestDatabase:
    """A service's database on the oldest server that is served."""
    return create_database(older_postgres_url, SERVICE.name, SERVICE.migrations)


class TestReads:
    """Where nothing may be written, a statement is a transaction of its own: nothing goes before it or after it."""

    async def test_see_the_tenant_s_rows_only(self, database: Database, tenant_id: str) -> None:
        await commits(database, tenant_id)
        assert await read_count(database, tenant_id) == 1
        assert await read_count(database, f"{tenant_id}-other") == 0

    @pytest.mark.usefixtures("reads_alone")
    async def test_see_what_was_committed_meanwhile(self, opening: Opening, tenant_id: str) -> None:
        database = await opening(pool_size=2)
        async with unit(database, tenant_id, read_only=True) as transaction:
            for expected in (0, 1):
                row = await transaction.fetch_one(READ_COUNT, {})
                assert row is not None
                assert row["count"] == expected
                assert database.occupancy.idle == database.occupancy.open
                await insert_two(database, tenant_id, f"{expected}@example.com")

    async def test_go_on_in_a_transaction_that_another_statement_needs(
        self, database: Database, tenant_id: str
    ) -> None:
        await commits(database, tenant_id)
        planned = replace(READ_COUNT, alone="", plan_for_values=True)
        mode = Statement("SELECT current_setting('plan_cache_mode') AS mode", (), {})
        async with unit(database, tenant_id, read_only=True) as transaction:
            for statement in (READ_COUNT, planned, READ_COUNT):
                row = await transaction.fetch_one(statement, {})
                assert row is not None
                assert row["count"] == 1
            row = await transaction.fetch_one(mode, {})
            assert row is not None
            assert row["mode"] == "force_custom_plan"
        assert await database.fetch_value("SHOW plan_cache_mode") == "auto"

    async def test_end_at_the_deadline_on_the_server(
        self, database: Database, tenant_id: str, observer: Observer
    ) -> None:
        started = asyncio.get_running_loop().time()
        with pytest.raises(errors.DeadlineExceededError):
            async with unit(database, tenant_id, read_only=True, timeout_seconds=0.2) as transaction:
                await transaction.fetch_one(READ_SLEEP, {})
        assert 0.15 < asyncio.get_running_loop().time() - started < 5
        await observer.wait_until_idle()
        assert await read_count(database, tenant_id) == 0

    @pytest.mark.parametrize("end", [reads, is_cancelled_within_a_read])
    async def test_keep_their_connection(self, database: Database, tenant_id: str, end: End) -> None:
        before = await database.fetch_value("SELECT pg_backend_pid()")
        await end(database, tenant_id)
        assert await database.fetch_value("SELECT pg_backend_pid()") == before

    async def test_keep_their_connection_when_they_are_refused(self, database: Database, tenant_id: str) -> None:
        """Otherwise a caller whose statements Postgres refuses keeps it busy with new connections."""
        before = await database.fetch_value("SELECT pg_backend_pid()")
        divided = compile_statement(select(literal_column("1") / bindparam("by", type_=Integer)))
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with unit(database, tenant_id, read_only=True) as transaction:
                await transaction.fetch_one(divided, {"by": 0})
        assert await database.fetch_value("SELECT pg_backend_pid()") == before

    async def test_are_transactions_before_postgres_17(self, older_database: TestDatabase, tenant_id: str) -> None:
        settings = DatabaseSettings(url=SecretStr(older_database.url), pool_size=1)
        database = await Database.connect(settings, application_name=NAME)
        try:
            assert not database.limits_transactions
            await commits(database, tenant_id)
            assert await read_count(database, tenant_id) == 1
            assert await read_count(database, f"{tenant_id}-other") == 0
            with pytest.raises(errors.DeadlineExceededError):
                async with unit(database, tenant_id, read_only=True, timeout_seconds=0.2) as transaction:
                    await transaction.fetch_one(READ_SLEEP, {})
        finally:
            await database.close()

    @pytest.mark.usefixtures("reads_alone")
    async def test_begin_anew_on_another_connection(
        self, opening: Opening, users_database: TestDatabase, tenant_id: str, observer: Observer
    ) -> None:
        """Nothing was written, so it does not matter how far the first one came."""
        locked = await asyncpg.connect(users_database.owner_url)
        await locked.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        database = await opening(pool_size=1)
        reading = asyncio.create_task(read_count(database, tenant_id))
        await observer.wait_until_blocked(connections=1)
        assert await observer.terminate() == 1
        await locked.close()
        assert await reading == 0
