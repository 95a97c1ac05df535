"""Expired idempotency keys go, of every tenant; nothing else does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import asyncpg
import pytest
import uuid_utils
from api_common.db import Database, Statement, Transaction
from api_common.server import retention as reaper
from api_common.server.retention import BATCH, reap
from api_common.settings import DatabaseSettings
from api_common.telemetry import Metrics
from api_common.testing import Identity, TestDatabase, running_service, settings_for
from api_common.watch import REAPER
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from libs.api_common.tests.example.service import SERVICE
from libs.api_common.tests.postgres import Observer

SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)


@pytest.fixture
async def database(users_database: TestDatabase) -> AsyncIterator[Database]:
    database = await Database.connect(DatabaseSettings(url=SecretStr(users_database.url)), application_name="reaper")
    yield database
    await database.close()


@pytest.fixture
async def observer(users_database: TestDatabase) -> AsyncIterator[Observer]:
    async with Observer.connected(users_database.admin_url, application_name="reaper") as observer:
        # What other tests of this process left behind.
        await observer.connection.execute("DELETE FROM idempotency_keys WHERE expire_time <= now()")
        yield observer


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def tenants() -> list[str]:
    return [f"t-{uuid_utils.uuid7()}" for _ in range(2)]


async def keep(observer: Observer, tenant: str, key: str, *, expires_in: timedelta) -> None:
    await observer.connection.execute(
        "INSERT INTO idempotency_keys (tenant_id, principal, method, key, request_hash, response, expire_time)"
        " VALUES ($1, 'ada', '/m', $2, '', 'kept', now() + $3::interval)",
        *(tenant, key, expires_in),
    )


async def kept(observer: Observer, tenants: list[str]) -> set[str]:
    rows = await observer.connection.fetch("SELECT key FROM idempotency_keys WHERE tenant_id = ANY($1)", tenants)
    return {row["key"] for row in rows}


def reaped(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("idempotency_keys_reaped_total")


async def test_what_has_expired_goes_of_every_tenant_and_is_counted(
    database: Database, observer: Observer, metrics: Metrics, tenants: list[str]
) -> None:
    for tenant in tenants:
        await keep(observer, tenant, "old", expires_in=-SECOND)
        await keep(observer, tenant, "live", expires_in=HOUR)
    assert await reap(database, metrics) == 2
    assert await kept(observer, tenants) == {"live"}
    assert reaped(metrics) == 2
    assert await reap(database, metrics) == 0


async def test_more_than_a_batch_goes_in_bounded_transactions(
    database: Database, observer: Observer, metrics: Metrics, tenants: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "BATCH", 3)
    for number in range(7):
        await keep(observer, tenants[0], f"k{number}", expires_in=-SECOND)
    sizes: list[int] = []
    batch = reaper._reap_batch

    async def noted(*asked: Any) -> int:
        sizes.append(await batch(*asked))
        return sizes[-1]

    monkeypatch.setattr(reaper, "_reap_batch", noted)
    assert await reap(database, metrics) == 7
    assert sizes == [3, 3, 1]
    assert BATCH <= 1000, "a transaction that deletes more holds its locks for too long"


async def test_a_key_that_is_taken_over_at_this_moment_stays(
    database: Database, observer: Observer, metrics: Metrics, tenants: list[str], users_database: TestDatabase
) -> None:
    """An expired key is claimed again by a call that has not ended."""
    await keep(observer, tenants[0], "again", expires_in=-SECOND)
    await keep(observer, tenants[0], "old", expires_in=-SECOND)
    claiming = await asyncpg.connect(users_database.admin_url)
    async with claiming.transaction():
        await claiming.execute(
            "UPDATE idempotency_keys SET expire_time = now() + '1h', response = NULL WHERE tenant_id = $1 AND key = $2",
            *(tenants[0], "again"),
        )
        # Without waiting for the call, either.
        assert await asyncio.wait_for(reap(database, metrics), 20) == 1
    await claiming.close()
    assert await kept(observer, tenants) == {"again"}


async def test_replicas_may_reap_at_once(
    database: Database, observer: Observer, metrics: Metrics, tenants: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "BATCH", 5)
    for number in range(40):
        await keep(observer, tenants[0], f"k{number}", expires_in=-SECOND)
    totals = await asyncio.gather(*(reap(database, metrics) for _ in range(4)))
    # A replica whose batch the others hold goes home early; what is left is there at the next look.
    assert sum(totals) + await reap(database, metrics) == 40
    assert await kept(observer, tenants) == set()


async def test_the_expired_are_found_by_an_index(database: Database) -> None:
    unit = Transaction(database, "", task=REAPER, constraints={}, read_only=False, timeout_seconds=5)
    sql = reaper._REAP.sql.replace("$1", "500").replace("$2", "1")
    async with unit as transaction:
        # The table is empty, so that reading all of it looks cheap.
        await transaction.fetch_all(Statement("SET LOCAL enable_seqscan = off", (), {}), {})
        plan = await transaction.fetch_all(Statement(f"EXPLAIN {sql}", (), {}), {})
    assert "ix_idempotency_keys_expire_time" in "\n".join(row["QUERY PLAN"] for row in plan)


class TestWalls:
    async def test_the_task_sees_expired_keys_and_nothing_else(
        self, database: Database, observer: Observer, tenants: list[str]
    ) -> None:
        await keep(observer, tenants[0], "live", expires_in=HOUR)
        await keep(observer, tenants[0], "old", expires_in=-SECOND)
        assert await self._seen(database, "SELECT key FROM idempotency_keys") == ["old"]
        assert await self._seen(database, "SELECT id AS key FROM users") == []

    async def test_a_request_sees_nothing_more_than_before(
        self, database: Database, observer: Observer, tenants: list[str]
    ) -> None:
        await keep(observer, tenants[0], "old", expires_in=-SECOND)
        assert await self._seen(database, "SELECT key FROM idempotency_keys", tenant=tenants[1]) == []

    async def test_the_task_writes_nothing(self, database: Database, observer: Observer, tenants: list[str]) -> None:
        await keep(observer, tenants[0], "old", expires_in=-SECOND)
        statement = "UPDATE idempotency_keys SET expire_time = now() + '1h' RETURNING key"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await self._seen(database, statement)

    async def _seen(self, database: Database, sql: str, *, tenant: str = "") -> list[str]:
        task = "" if tenant else REAPER
        unit = Transaction(database, tenant, task=task, constraints={}, read_only=False, timeout_seconds=5)
        async with unit as transaction:
            return [row["key"] for row in await transaction.fetch_all(Statement(sql, (), {}), {})]


class TestTheServer:
    async def test_reaps_by_itself_and_goes_on_after_a_failure(
        self,
        users_database: TestDatabase,
        identity: Identity,
        observer: Observer,
        tenants: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        failed, batch = asyncio.Event(), reaper._reap_batch

        async def fail_once(*asked: Any) -> Any:
            if failed.is_set():
                return await batch(*asked)
            failed.set()
            raise OSError("gone")

        monkeypatch.setattr(reaper, "_reap_batch", fail_once)
        await keep(observer, tenants[0], "old", expires_in=-SECOND)
        settings = settings_for(users_database, identity)
        server = settings.server.model_copy(update={"reap_interval_seconds": 0.01})
        with capture_logs() as logs:
            async with running_service(SERVICE, replace(settings, server=server)), asyncio.timeout(10):
                while await kept(observer, tenants):
                    await asyncio.sleep(0.01)
        assert [entry["error"] for entry in logs if entry["event"].startswith("what has expired")] == [
            "OSError('gone')"
        ]
