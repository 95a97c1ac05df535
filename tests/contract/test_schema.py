"""The migrated schema is the declared one, and every table has the walls around a tenant."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from api_common.testing import TestDatabase
from sqlalchemy import ARRAY, BigInteger, Connection, DateTime, Integer, LargeBinary, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.contract import catalog
from tests.services import Built, built_services

OURS, THEIRS = "t-ours", "t-theirs"
REFUSED: Final = "refused"
SEEN_BY_TASK: Final = {
    "follow": {"changes"},
    "reap": {"changes", "change_horizons", "idempotency_keys", "quota_counts"},
    "work": {"sagas"},
    "another": set[str](),
}
"""What a background task sees of other tenants, by its name in `app.task`."""

Client: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_VALUES: Final[dict[type[object], Any]] = {
    Text: "text",
    Uuid: "01900000-0000-7000-8000-000000000001",
    # Beyond what a trigger has numbered.
    BigInteger: 1 << 40,
    Integer: 1,
    DateTime: datetime(2026, 1, 1, tzinfo=UTC),
    LargeBinary: b"bytes",
    ARRAY: ["text"],
    JSONB: "{}",
}


@pytest.fixture
async def application(database: TestDatabase) -> AsyncIterator[Client]:
    """A connection as the application role."""
    connection = await asyncpg.connect(database.url)
    yield connection
    await connection.close()


@pytest.fixture
async def superuser(database: TestDatabase) -> AsyncIterator[Client]:
    """A connection that sees everything."""
    connection = await asyncpg.connect(database.admin_url)
    yield connection
    await connection.close()


@pytest.fixture
async def filled(built: Built, superuser: Client) -> AsyncIterator[Built]:
    """The service, with one row of each of two tenants in every table."""
    tables = built.metadata.sorted_tables
    try:
        for table in tables:
            for tenant in (OURS, THEIRS):
                await superuser.execute(_insert(table), *_row(table, tenant))
        yield built
    finally:
        for table in reversed(tables):
            await superuser.execute(f"DELETE FROM {table.name} WHERE tenant_id IN ('{OURS}', '{THEIRS}')")


async def test_the_migrated_schema_is_the_declared_one(built: Built, database: TestDatabase) -> None:
    def difference(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, built.metadata))

    engine = create_async_engine(
        database.owner_url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool
    )
    async with engine.connect() as connection:
        found = await connection.run_sync(difference)
    await engine.dispose()
    assert not found, f"write a migration in {built.folder.name}/migrations/versions, or correct tables.py"


async def test_every_table_of_the_database_is_declared_and_protected(built: Built, superuser: Client) -> None:
    rows = await superuser.fetch(
        "SELECT relname, relrowsecurity AND relforcerowsecurity AS protected, relkind::text FROM pg_class"
        " WHERE relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
        " AND relkind IN ('r', 'p', 'v', 'm', 'f')"
    )
    kinds = {row["relname"]: row["relkind"] for row in rows}
    assert set(kinds) == {*built.metadata.tables, "alembic_version", "changes"}
    views = {name for name, kind in kinds.items() if kind != "r"}
    assert views == {"changes"}, "a view runs with its owner's eyes: make it WITH (security_invoker) and test it"
    unprotected = {row["relname"] for row in rows if not row["protected"]} - {"alembic_version", *views}
    assert not unprotected, (
        "let the migration that creates the table ENABLE and FORCE ROW LEVEL SECURITY, and create its policy"
    )


async def test_functions_triggers_policies_and_grants_are_the_committed_ones(built: Built, superuser: Client) -> None:
    found = catalog.text(await catalog.catalog(superuser))
    expected = catalog.FOLDER / f"{built}.sql"
    assert expected.exists(), f"commit what `{catalog.COMMAND}` writes"
    assert found == expected.read_text(), f"if you want the difference: {catalog.COMMAND}"


def test_what_services_have_in_common_is_the_same_in_all() -> None:
    found: dict[str, dict[str, list[str]]] = {}
    for built in built_services():
        application = f"{built.service.name}_app"
        for block in (catalog.FOLDER / f"{built}.sql").read_text().replace(application, "app").split("\n\n-- "):
            name, _, definition = block.removeprefix("-- ").partition("\n")
            found.setdefault(name, {}).setdefault(definition.strip(), []).append(str(built))
    assert {"function record_change", "policy changes_reap on recorded_changes"} <= set(found)
    different = {name: list(definitions.values()) for name, definitions in found.items() if len(definitions) > 1}
    assert not different, "write migrations that make these the same in all services"


async def test_the_application_role_has_no_way_around_the_policies(application: Client) -> None:
    role = await application.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user"
    )
    assert role is not None
    assert tuple(role) == (False, False, False)
    owned = await application.fetch("SELECT relname FROM pg_class WHERE pg_has_role(current_user, relowner, 'MEMBER')")
    assert not owned
    definers = await application.fetch(
        "SELECT proname FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace"
        " WHERE prosecdef AND nspname NOT IN ('pg_catalog', 'information_schema')"
    )
    assert not definers, "a SECURITY DEFINER function sees every tenant"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await application.execute("CREATE TABLE mine (id int)")


async def test_the_application_sees_which_revision_the_schema_has(application: Client) -> None:
    assert await application.fetchval("SELECT version_num FROM alembic_version")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await application.execute("DELETE FROM alembic_version")


async def test_without_a_tenant_there_are_no_rows_and_no_errors(filled: Built, application: Client) -> None:
    for table in _readable(filled):
        assert await application.fetch(f"SELECT tenant_id FROM {table}") == [], table
        assert await _attempt(application, f"DELETE FROM {table}") in ("DELETE 0", REFUSED), table


async def test_a_tenant_sees_its_own_rows_only(filled: Built, application: Client) -> None:
    for table in _readable(filled):
        async with application.transaction():
            await _bind(application, OURS)
            rows = await application.fetch(f"SELECT tenant_id FROM {table}")
        assert {row["tenant_id"] for row in rows} == {OURS}, table


async def test_a_tenant_changes_its_own_rows_only(filled: Built, application: Client) -> None:
    for table in filled.metadata.sorted_tables:
        async with application.transaction():
            await _bind(application, OURS)
            assert await _attempt(application, _insert(table), *_row(table, "t-third")) == REFUSED, table.name
            assert await _attempt(application, f"UPDATE {table.name} SET tenant_id = '{THEIRS}'") == REFUSED, table.name
            others = f"UPDATE {table.name} SET tenant_id = tenant_id WHERE tenant_id = '{THEIRS}'"
            assert await _attempt(application, others) in ("UPDATE 0", REFUSED), table.name


@pytest.mark.parametrize("task", SEEN_BY_TASK)
async def test_a_task_sees_of_all_tenants_what_it_needs(
    filled: Built, application: Client, superuser: Client, task: str
) -> None:
    if "sagas" in filled.metadata.tables:
        await superuser.execute("UPDATE sagas SET end_time = NULL")
    async with application.transaction():
        await application.execute("SELECT set_config('app.task', $1, true)", task)
        rows = {table: await application.fetch(f"SELECT * FROM {table}") for table in _readable(filled)}
        assert await _attempt(application, "SELECT * FROM recorded_changes") == REFUSED
        deleted = await _attempt(application, "DELETE FROM changes")
    seen = {table: {row["tenant_id"] for row in found} for table, found in rows.items() if found}
    assert set(seen) == SEEN_BY_TASK[task] & set(rows)
    assert all(tenants >= {OURS, THEIRS} for tenants in seen.values())
    # Where the changes are, and not what they hold.
    assert not [row for row in rows["changes"] if row["after"] or row["before"]]
    assert (deleted != "DELETE 0") == (task == "reap")


async def test_every_key_starts_with_the_tenant(built: Built) -> None:
    """A key without it would tell by its conflict that another tenant has the value, and foreign keys see every row."""
    for table in built.metadata.tables.values():
        keys = [list(table.primary_key.columns), *(list(index.columns) for index in table.indexes if index.unique)]
        keys += [list(constraint.columns) for constraint in table.foreign_key_constraints]
        assert all(columns[0].name == "tenant_id" for columns in keys), table.name


def _readable(built: Built) -> list[str]:
    """Returns what the application reads: of the changes their view."""
    return [name.replace("recorded_changes", "changes") for name in built.metadata.tables]


async def _attempt(connection: Client, statement: str, *arguments: Any) -> str:
    """Returns what the statement did; what is refused leaves the transaction as it was."""
    try:
        async with connection.transaction():
            return await connection.execute(statement, *arguments)
    except asyncpg.InsufficientPrivilegeError:
        return REFUSED


async def _bind(connection: Client, tenant: str) -> None:
    await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)


def _insert(table: Table) -> str:
    names = [column.name for column in table.columns if column.computed is None]
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(f'${n}' for n in range(1, len(names) + 1))})"
    )


def _row(table: Table, tenant: str) -> list[Any]:
    """Returns a value for each column that may be written; the same id everywhere, so that references hold."""
    return [
        tenant if column.name == "tenant_id" else _VALUES[type(column.type)]
        for column in table.columns
        if column.computed is None
    ]
