"""Upgrades a service's schema with Alembic, as the owner role, and tells which revision a release needs.

A revision is a four-digit number, so revisions compare as texts. A version is SQL in a file and never changes once it
is released; versions only add, so a release also runs on schemas newer than its own.
"""

import asyncio
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection, NullPool, text

_LOCK: Final = 0x616D65696465
"""Advisory lock: two jobs that migrate the same database run one after the other."""

_log: Final = structlog.get_logger()


class SchemaTooOldError(Exception):
    """The database is older than the first released schema; no version leads on from it."""


def upgrade_schema(folder: Path, owner_url: str) -> None:
    """Brings the schema to the newest revision in ``folder``; leaves one alone that is as new or newer.

    Raises:
        SchemaTooOldError: the database was made before the first release.
    """
    asyncio.run(_upgrade(folder, owner_url))


async def _upgrade(folder: Path, owner_url: str) -> None:
    # With Alembic it takes 13 MiB, which a process that serves does not need.
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(owner_url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run, folder)
    finally:
        await engine.dispose()


def _run(connection: Connection, folder: Path) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(folder))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    # A migration that cannot get its lock at once must not queue up every request behind it.
    connection.execute(text("SET LOCAL lock_timeout = '5s'"))
    found, head = MigrationContext.configure(connection).get_current_revision(), schema_head(folder)
    if found is not None and found > head:
        _log.info("nothing to migrate: the schema is newer than this release", schema=found, release=head)
        return
    if found is not None and found < (first := str(scripts.get_base())):
        raise SchemaTooOldError(
            f"the schema is at revision {found}, and the first released one is {first} (ADR 38). Nothing leads from a"
            " schema before the first release to a later one: make the database anew, locally with `make reset`."
        )
    # As Alembic's documentation of EnvironmentContext has it.
    with EnvironmentContext(Config(), scripts, fn=lambda now, _: scripts._upgrade_revs("head", now)) as environment:  # noqa: SLF001
        environment.configure(connection=connection)
        environment.run_migrations()


def schema_head(folder: Path) -> str:
    """Returns the newest revision in ``folder``: each file of a version begins with its number."""
    return max(path.name[:4] for path in (folder / "versions").glob("[0-9]*.py"))
