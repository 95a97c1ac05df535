"""Stores sagas and leases them to workers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from api_common.db import Database, Row, Transaction, compile_statement
from api_common.sagas.plan import Saga

TASK: Final = "work"
"""The task that finds unfinished sagas of all tenants; a policy on the table names it."""

_TIMEOUT_SECONDS: Final = 10
_ENDS: Final = ("DONE", "FAILED", "CANCELLED")


def saga_table(metadata: sa.MetaData) -> sa.Table:
    """Declares the table of sagas."""
    table = sa.Table(
        "sagas",
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("steps", JSONB, nullable=False),
        sa.Column("data", JSONB, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        # When a worker may claim it: in the future while it is leased or pauses; NULL when no worker may.
        sa.Column("due_time", sa.DateTime(timezone=True)),
        # NULL in what the release before began.
        sa.Column("deadline_time", sa.DateTime(timezone=True)),
        # Like `due_time` while it waits after a failure, otherwise NULL.
        sa.Column("next_attempt_time", sa.DateTime(timezone=True)),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("end_time", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    sa.Index("ix_sagas_due_time", table.c.due_time, postgresql_where=table.c.end_time.is_(None))
    return table


_sagas: Final = saga_table(sa.MetaData())
_columns: Final = _sagas.c
_identity: Final = sa.and_(_columns.tenant_id == sa.bindparam("tenant_id"), _columns.id == sa.bindparam("id"))
_live: Final = _columns.end_time.is_(None)
_due: Final = sa.and_(_live, _columns.due_time <= sa.func.now())
_zero: Final[sa.ColumnElement[int]] = sa.literal_column("0")
_later: Final = sa.func.now() + sa.func.make_interval(*(_zero,) * 6, sa.bindparam("due_seconds", type_=sa.Double))
_stored: Final = ("tenant_id", "id", "kind", "subject", "state", "steps", "data", "deadline_time")
_written: Final = ("state", "steps", "data", "deadline_time")

_INSERT: Final = compile_statement(
    insert(_sagas)
    .values({**{name: sa.bindparam(name) for name in _stored}, "due_time": sa.func.now()})
    .returning(_columns.id)
)
_FIND_DUE: Final = compile_statement(
    sa.select(_columns.tenant_id, _columns.id)
    .where(_due, _columns.kind == sa.func.any(sa.bindparam("kinds", type_=sa.ARRAY(sa.Text))))
    # One of each tenant, then the next of each: what waits for many sagas of one tenant keeps no other waiting.
    .order_by(sa.func.row_number().over(partition_by=_columns.tenant_id, order_by=_columns.due_time), _columns.due_time)
    .limit(sa.bindparam("limit", type_=sa.BigInteger))
)
# Replicas that found the same saga do not wait for each other: one gets the row, the others none.
_FREE: Final = sa.select(_columns.id).where(_identity, _due).with_for_update(skip_locked=True).cte("free")
_CLAIM: Final = compile_statement(
    sa.update(_sagas)
    .where(_columns.tenant_id == sa.bindparam("tenant_id"), _columns.id.in_(sa.select(_FREE.c.id)))
    .values(fencing_token=sa.Sequence("saga_fencing_tokens").next_value(), due_time=_later)
    .returning(*_columns)
)
_LOCK: Final = compile_statement(sa.select(_sagas).where(_identity).with_for_update())
_own: Final = sa.and_(_identity, _live, _columns.fencing_token == sa.bindparam("token", type_=sa.BigInteger))
_SAVE: Final = compile_statement(
    sa.update(_sagas)
    .where(_own)
    .values(
        {name: sa.bindparam(f"new_{name}", type_=_columns[name].type) for name in _written}
        | {
            "due_time": _later,
            "next_attempt_time": sa.case((sa.bindparam("waits", type_=sa.Boolean), _later)),
            "update_time": sa.func.now(),
            "end_time": sa.case((sa.bindparam("ended", type_=sa.Boolean), sa.func.now())),
        }
    )
    .returning(_columns.next_attempt_time)
)
_EXTEND: Final = compile_statement(
    sa.update(_sagas).where(_own, _columns.due_time.is_not(None)).values(due_time=_later).returning(_columns.id)
)
_waits: Final = _columns.next_attempt_time.is_not(None)
_COUNT: Final = compile_statement(
    sa.select(
        _columns.state,
        sa.func.count().label("count"),
        sa.func.count().filter(_waits).label("waiting"),
        sa.extract("epoch", sa.func.max(sa.func.now() - _columns.due_time)).label("late_seconds"),
        sa.extract("epoch", sa.func.max(sa.func.now() - _columns.create_time).filter(_waits)).label("waiting_seconds"),
    )
    .where(_live)
    .group_by(_columns.state)
)


async def insert_new(transaction: Transaction, saga: Saga) -> None:
    """Stores a new saga that any worker may claim."""
    await transaction.fetch_one(_INSERT, {name: getattr(saga, name) for name in _stored})


async def lock(transaction: Transaction, id: str) -> Saga | None:
    """Locks a saga's row until the transaction ends, and returns the saga."""
    row = await transaction.fetch_one(_LOCK, {"tenant_id": transaction.tenant_id, "id": id})
    return Saga.of(row) if row else None


async def find_due(database: Database, kinds: Sequence[str], *, limit: int) -> Sequence[Row]:
    """Returns tenant and id of due sagas, of each tenant by turns, the longest due first."""
    async with Transaction(database, task=TASK, read_only=True, timeout_seconds=_TIMEOUT_SECONDS) as transaction:
        return await transaction.fetch_all(_FIND_DUE, {"kinds": kinds, "limit": limit})


async def count(database: Database) -> Sequence[Row]:
    """Counts unfinished sagas by state, and those that wait; with the greatest delay, and the age of who waits."""
    async with Transaction(database, task=TASK, read_only=True, timeout_seconds=_TIMEOUT_SECONDS) as transaction:
        return await transaction.fetch_all(_COUNT, {})


async def claim_saga(transaction: Transaction, id: str, *, lease_seconds: float) -> Saga | None:
    """Leases a saga for ``lease_seconds``; returns None if another worker owns it."""
    values = {"tenant_id": transaction.tenant_id, "id": id, "due_seconds": lease_seconds}
    row = await transaction.fetch_one(_CLAIM, values)
    return Saga.of(row) if row else None


async def save(transaction: Transaction, saga: Saga, *, due_seconds: float | None, waits: bool = False) -> bool:
    """Stores a saga's progress; returns whether its worker still owns it.

    Args:
        due_seconds: when another worker may claim it; None for never.
        waits: whether it waits until then for its next attempt.
    """
    written: dict[str, Any] = {f"new_{name}": getattr(saga, name) for name in _written}
    written |= {"ended": saga.state in _ENDS, "due_seconds": due_seconds, "waits": waits}
    row = await transaction.fetch_one(_SAVE, {**_mark(saga), **written})
    saga.next_attempt_time = row["next_attempt_time"] if row else None
    return row is not None


async def extend(transaction: Transaction, saga: Saga, *, due_seconds: float) -> bool:
    """Extends the lease, or releases it with 0; returns whether its worker still owns the saga."""
    return await transaction.fetch_one(_EXTEND, {**_mark(saga), "due_seconds": due_seconds}) is not None


def _mark(saga: Saga) -> Mapping[str, Any]:
    return {"tenant_id": saga.tenant_id, "id": saga.id, "token": saga.fencing_token}
