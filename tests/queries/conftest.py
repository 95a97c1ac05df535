"""Tables with enough rows for Postgres to prefer an index, read as the application's role with row-level security."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import pytest
from api_common.db import Database, Transaction
from api_common.settings import DatabaseSettings
from api_common.testing import TestDatabase, create_database
from pydantic import SecretStr

from tests.queries.lists import LISTS, TENANT, Explain, Explaining, fill_statement
from tests.services import built_services


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Mapping[str, TestDatabase]:
    """The database of each service."""
    services = [built.service for built in built_services()]
    return {one.name: create_database(postgres_url, one.name, one.migrations) for one in services}


@pytest.fixture(scope="module")
async def explain(databases: Mapping[str, TestDatabase]) -> AsyncIterator[Explain]:
    """Opens a transaction of `TENANT` in the filled database of a service."""
    for one in LISTS:
        connection = await asyncpg.connect(databases[one.service].admin_url)
        await connection.execute(fill_statement(one.table, one.fields))
        await connection.execute(f"ANALYZE {one.table.name}")
        await connection.close()
    opened = {
        name: await Database.connect(DatabaseSettings(url=SecretStr(one.url), pool_size=1), application_name="plans")
        for name, one in databases.items()
    }

    @asynccontextmanager
    async def explaining(service: str) -> AsyncIterator[Explaining]:
        unit = Transaction(opened[service], TENANT, constraints={}, read_only=True, timeout_seconds=30)
        async with unit as transaction:
            yield Explaining(transaction)

    yield explaining
    for database in opened.values():
        await database.close()
