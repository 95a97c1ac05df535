"""Alembic, run by the owner role: upgrades a service's schema, and tells a server whether its schema is current."""

import asyncio
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command, context, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from api_common.db.unit_of_work import TASK_SETTING, TENANT_SETTING

_LOCK: Final = 0x616D65696465
"""Advisory lock: two jobs that migrate the same database run one after the other."""


def upgrade_schema(folder: Path, owner_url: str) -> None:
    """Brings the schema to the newest revision in ``folder``; does nothing if it is there already."""
    asyncio.run(_upgrade(folder, owner_url))


async def _upgrade(folder: Path, owner_url: str) -> None:
    engine = create_async_engine(owner_url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run, _config(folder))
    finally:
        await engine.dispose()


def _run(connection: Connection, config: Config) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    # A migration that cannot get its lock at once must not queue up every request behind it.
    connection.execute(text("SET LOCAL lock_timeout = '5s'"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def schema_head(folder: Path) -> str | None:
    """Returns the newest revision in ``folder``."""
    return ScriptDirectory.from_config(_config(folder)).get_current_head()


def _config(folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def run_environment(metadata: MetaData) -> None:
    """Runs the migrations on the connection that `upgrade` opened; the whole of a service's `migrations/env.py`."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    context.run_migrations()


def protect_table(table: str, *, application_role: str, rights: str = "SELECT, INSERT, UPDATE, DELETE") -> None:
    """Puts the tenant walls around a new table: forced row-level security and the application role's rights.

    Without a tenant bound to the transaction the policy hides every row. The role may not own the table, or it could
    lift the policy.

    Args:
        rights: what the application role may do; without UPDATE and DELETE the rows never change.
    """
    bound = f"tenant_id = current_setting('{TENANT_SETTING}', true)"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY {table}_tenant ON {table} USING ({bound}) WITH CHECK ({bound})")
    op.execute(f"GRANT {rights} ON {table} TO {application_role}")
    op.execute(f"GRANT SELECT ON alembic_version TO {application_role}")


def open_to_task(table: str, *, task: str, rows: str) -> None:
    """Lets a background task see and delete some rows of every tenant, in transactions that name it (ADR 0019).

    Args:
        task: the `task` of its units of work.
        rows: the condition in SQL for what it may see; nothing else is there for it.
    """
    bound = f"current_setting('{TASK_SETTING}', true) = '{task}' AND {rows}"
    op.execute(f"CREATE POLICY {table}_{task} ON {table} USING ({bound}) WITH CHECK (false)")


def create_idempotency_keys(*, application_role: str) -> None:
    """Creates the table of `idempotency.idempotency_table`, which every service has."""
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "principal", "method", "key"),
    )
    op.create_index(None, "idempotency_keys", ["expire_time"])
    protect_table("idempotency_keys", application_role=application_role)


def create_reservations(*, application_role: str) -> None:
    """Creates the tables of `reservations.reservation_tables`, of a service whose resources may be reserved."""
    op.create_table(
        "reservation_holders",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("release_time", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    op.create_table(
        "reservations",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("holder_id", sa.Uuid, nullable=False),
        sa.Column("resource_id", sa.Uuid, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "holder_id", "resource_id"),
    )
    op.create_index(None, "reservations", ["tenant_id", "resource_id"])
    protect_table("reservation_holders", application_role=application_role)
    protect_table("reservations", application_role=application_role)


def create_sagas(*, application_role: str) -> None:
    """Creates the table of `saga_store.saga_table`, of a service that has sagas."""
    op.execute("CREATE SEQUENCE saga_fencing_tokens")
    op.execute(f"GRANT USAGE ON SEQUENCE saga_fencing_tokens TO {application_role}")
    op.create_table(
        "sagas",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("steps", JSONB, nullable=False),
        sa.Column("data", JSONB, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("due_time", sa.DateTime(timezone=True)),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("end_time", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    live = sa.text("end_time IS NULL")
    op.create_index("ix_sagas_due_time", "sagas", ["due_time"], postgresql_where=live)
    protect_table("sagas", application_role=application_role, rights="SELECT, INSERT, UPDATE")
    open_to_task("sagas", task="work", rows="end_time IS NULL")
