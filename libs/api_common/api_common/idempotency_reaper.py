"""Deletes idempotency keys when their time is up, of all tenants, in the background of every replica (ADR 0019)."""

import asyncio
import random
from typing import Final

import structlog
from sqlalchemy import MetaData, bindparam, delete, func, literal, select, tuple_

from api_common.database import Database, compile_statement
from api_common.idempotency import idempotency_table
from api_common.telemetry import Metrics
from api_common.unit_of_work import UnitOfWork

TASK: Final = "reap"
"""What the policy on the table calls the task."""

BATCH: Final = 500
"""The keys of one transaction: few enough that it takes milliseconds, whatever a night has left behind."""

_TIMEOUT_SECONDS: Final = 10

_log: Final = structlog.get_logger()

_keys: Final = idempotency_table(MetaData())
_identity: Final = tuple_(*_keys.primary_key)
# What somebody takes over at this moment is locked, and so passed by; a claim that is not committed yet is not visible.
_EXPIRED: Final = (
    select(*_keys.primary_key)
    .where(_keys.c.expire_time <= func.now())
    .order_by(_keys.c.expire_time)
    .limit(bindparam("batch"))
    .with_for_update(skip_locked=True)
    # By itself: a plan that asked for it more than once would delete more than a batch.
    .cte("expired")
)
_REAP: Final = compile_statement(delete(_keys).where(_identity.in_(select(_EXPIRED))).returning(literal(1)))


async def reap_forever(database: Database, metrics: Metrics, *, interval_seconds: float) -> None:
    """Reaps again and again. Replicas neither wait for each other nor do the same work twice. Never returns."""
    while True:
        # At random, so that replicas that began together do not stay together.
        await asyncio.sleep(random.uniform(0.5, 1.5) * interval_seconds)  # noqa: S311 - nothing secret
        try:
            await reap(database, metrics)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed
            _log.warning("expired idempotency keys stay for now", error=repr(error))


async def reap(database: Database, metrics: Metrics) -> int:
    """Deletes what has expired, one batch after the other; returns how many keys these were.

    Raises:
        DomainError: the database does not answer, or has no connection free.
    """
    total, deleted = 0, BATCH
    while deleted == BATCH:
        deleted = await _reap_batch(database)
        metrics.reaped.inc(deleted)
        total += deleted
    return total


async def _reap_batch(database: Database) -> int:
    unit = UnitOfWork(database, "", task=TASK, constraints={}, read_only=False, timeout_seconds=_TIMEOUT_SECONDS)
    async with unit as transaction:
        return len(await transaction.fetch_all(_REAP, {"batch": BATCH}))
