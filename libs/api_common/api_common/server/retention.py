"""Deletes expired idempotency keys and old changes of all tenants, and measures how full their quotas are.

It runs in the background of every replica.

A policy on the tables lets only this task see rows of all tenants (ADR 0019, ADR 0024).
"""

import asyncio
import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import structlog
from prometheus_client import Counter
from sqlalchemy import Float, Numeric, bindparam, cast, delete, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB

from api_common.db import Database, Statement, Transaction, compile_statement, metadata
from api_common.settings import QuotaSettings, Settings
from api_common.telemetry import Metrics
from api_common.watch import REAP_CHANGES, REAPER

BATCH: Final = 500
"""The most rows of one transaction, so that it takes milliseconds."""

_TIMEOUT_SECONDS: Final = 10

_log: Final = structlog.get_logger()

_keys: Final = metadata().tables["idempotency_keys"]
_identity: Final = tuple_(*_keys.primary_key)
# A key that a call takes over now is locked, so it is skipped; a claim that is not committed yet is not visible.
_EXPIRED: Final = (
    select(*_keys.primary_key)
    .where(_keys.c.expire_time <= func.now())
    .order_by(_keys.c.expire_time)
    .limit(bindparam("batch"))
    .with_for_update(skip_locked=True)
    # As a CTE: a plan that evaluated it twice would delete more than a batch.
    .cte("expired")
)
_reaped: Final = delete(_keys).where(_identity.in_(select(_EXPIRED))).returning(literal(1)).cte("reaped")
_REAP: Final = compile_statement(select(func.count().label("deleted")).select_from(_reaped))

_counts: Final = metadata().tables["quota_counts"]
_stored: Final = (
    select(_counts.c.tenant_id, _counts.c.collection, func.sum(_counts.c.live).label("live"))
    .group_by(_counts.c.tenant_id, _counts.c.collection)
    .subquery("stored")
)
_limits: Final = bindparam("limits", type_=JSONB)
_names: Final = (_stored.c.tenant_id + literal("/") + _stored.c.collection, _stored.c.collection, literal("*"))
_limit: Final = func.coalesce(*(func.jsonb_extract_path_text(_limits, name) for name in _names))
_FULLEST: Final = compile_statement(
    select(
        _stored.c.collection,
        cast(func.max(_stored.c.live / func.greatest(cast(_limit, Numeric), literal(1))), Float).label("ratio"),
    ).group_by(_stored.c.collection)
)


async def reap_forever(database: Database, metrics: Metrics, settings: Settings) -> None:
    """Reaps regularly. Replicas neither wait for each other nor delete the same rows. Never returns."""
    interval_seconds = settings.server.reap_interval_seconds
    while True:
        # With jitter, so that replicas that started together spread.
        await asyncio.sleep(random.uniform(0.5, 1.5) * interval_seconds)  # noqa: S311 - nothing secret
        try:
            await reap(database, metrics)
            await reap_changes(database, metrics, retention_seconds=settings.watch.retention_seconds)
            await measure_quotas(database, metrics, settings.quota)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
            _log.warning("what has expired stays for now", error=repr(error))


async def reap(database: Database, metrics: Metrics) -> int:
    """Deletes expired idempotency keys in batches, and returns their number.

    Raises:
        DomainError: the database does not answer, or has no connection free.
    """
    return await _reap_all(database, _REAP, {"batch": BATCH}, counting=metrics.reaped)


async def reap_changes(database: Database, metrics: Metrics, *, retention_seconds: float) -> int:
    """Deletes changes older than ``retention_seconds`` in batches, and returns their number.

    Raises:
        DomainError: the database does not answer, or has no connection free.
    """
    values = {"batch": BATCH, "retention": timedelta(seconds=retention_seconds)}
    return await _reap_all(database, REAP_CHANGES, values, counting=metrics.changes_reaped)


async def measure_quotas(database: Database, metrics: Metrics, quota: QuotaSettings) -> None:
    """Shows for each collection how full the quota of the fullest tenant is.

    Raises:
        DomainError: the database does not answer, or has no connection free.
    """
    async with Transaction(database, task=REAPER, read_only=True, timeout_seconds=_TIMEOUT_SECONDS) as transaction:
        for row in await transaction.fetch_all(_FULLEST, {"limits": quota.by_name}):
            metrics.quota_fullest.labels(row["collection"]).set(row["ratio"])


async def _reap_all(database: Database, statement: Statement, values: Mapping[str, Any], *, counting: Counter) -> int:
    total, deleted = 0, BATCH
    while deleted == BATCH:
        deleted = await _reap_batch(database, statement, values)
        counting.inc(deleted)
        total += deleted
    return total


async def _reap_batch(database: Database, statement: Statement, values: Mapping[str, Any]) -> int:
    async with Transaction(database, task=REAPER, read_only=False, timeout_seconds=_TIMEOUT_SECONDS) as transaction:
        row = await transaction.fetch_one(statement, values)
        return row["deleted"] if row else 0
