"""The transaction against a real Postgres: what it keeps, what it leaves behind, and what its errors mean."""

import asyncio
import re
import threading
from contextlib import suppress
from typing import Final

import asyncpg
import pytest
import uuid_utils
from api_common import errors
from api_common.authn import TENANT_PATTERN
from api_common.db import database as module
from api_common.db.database import Database
from api_common.db.driver import Statement
from api_common.db.transaction import TransactionOutcome
from api_common.testing import TestDatabase
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from libs.api_common.tests.example.service import EmailTakenError
from libs.api_common.tests.postgres import Observer
from libs.api_common.tests.proxy import Proxy
from libs.api_common.tests.units import (
    COUNT,
    INSERT,
    NAME,
    READ_COUNT,
    SLEEP,
    End,
    Opening,
    breaks_a_constraint,
    commits,
    count,
    fails,
    insert,
    insert_two,
    is_cancelled_between_statements,
    is_cancelled_within_a_read,
    is_cancelled_within_a_statement,
    reads,
    times_out,
    times_out_within_a_read,
    unit,
)

FAILURES: Final[list[End]] = [
    fails,
    breaks_a_constraint,
    is_cancelled_between_statements,
    is_cancelled_within_a_statement,
    times_out,
]
every_failure = pytest.mark.parametrize("end", FAILURES, ids=lambda end: end.__name__)
READS: Final[list[End]] = [reads, is_cancelled_within_a_read, times_out_within_a_read]
every_end = pytest.mark.parametrize("end", [commits, *FAILURES, *READS], ids=lambda end: end.__name__)


class TestWhatIsKept:
    async def test_everything_when_the_block_ends(self, database: Database, tenant_id: str) -> None:
        await commits(database, tenant_id)
        assert await count(database, tenant_id) == 1

    @every_failure
    async def test_nothing_when_it_does_not(self, database: Database, tenant_id: str, end: End) -> None:
        await end(database, tenant_id)
        assert await count(database, tenant_id) == 0

    async def test_nothing_when_a_handler_goes_on_after_a_refusal(self, database: Database, tenant_id: str) -> None:
        """Postgres answers such a COMMIT with ROLLBACK; the caller must not hear that it went well."""

        async def go_on() -> None:
            async with unit(database, tenant_id) as transaction:
                await insert(transaction)
                with suppress(EmailTakenError):
                    await insert(transaction)

        with pytest.raises(RuntimeError, match="not committed"):
            await go_on()
        assert await count(database, tenant_id) == 0


class TestConnections:
    async def test_are_taken_with_the_first_statement(self, database: Database, tenant_id: str) -> None:
        """A handler that waits for another service leaves the one connection to others."""
        async with unit(database, tenant_id) as waiting:
            await commits(database, tenant_id)
            row = await waiting.fetch_one(COUNT, {})
        assert row is not None
        assert row["count"] == 1

    async def test_are_taken_once_by_statements_that_run_at_once(self, database: Database, tenant_id: str) -> None:
        """Also the one that began does not keep the one connection."""
        with pytest.raises(RuntimeError, match="one after the other"):
            async with unit(database, tenant_id) as transaction:
                await asyncio.gather(insert(transaction, "a@example.com"), insert(transaction, "b@example.com"))
        assert await count(database, tenant_id) == 0

    async def test_are_given_back_by_a_unit_that_did_nothing(self, database: Database, tenant_id: str) -> None:
        for _ in range(3):
            async with unit(database, tenant_id):
                pass
        assert database.occupancy[1:3] == (1, 1)

    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("verb", ["BEGIN", "COMMIT"])
    async def test_outlive_a_caller_that_leaves(
        self, opening: Opening, users_database: TestDatabase, monkeypatch: pytest.MonkeyPatch, verb: str, times: int
    ) -> None:
        """Or callers that leave by the hundred leave Postgres with little to do but new connections."""
        monkeypatch.setattr(module, "_ROLLBACK_SECONDS", 20)
        frozen = asyncio.Event()

        async def work() -> None:
            async with unit(database, "acme") as transaction:
                if verb == "COMMIT":
                    await transaction.fetch_one(COUNT, {})
                proxy.freeze()
                frozen.set()
                if verb == "BEGIN":
                    await transaction.fetch_one(COUNT, {})

        async with Proxy.before(users_database.url) as proxy:
            database = await opening(url=SecretStr(proxy.url), pool_size=1, acquire_timeout_seconds=20)
            before = await database.fetch_value("SELECT pg_backend_pid()")
            working = asyncio.create_task(work())
            await frozen.wait()
            for _ in range(times):
                # By gRPC, and by the call's own deadline.
                working.cancel()
                await asyncio.sleep(0)
            proxy.thaw()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert await database.fetch_value("SELECT pg_backend_pid()") == before
            assert not await database.fetch_value("SELECT current_setting('app.tenant_id', true)")


class TestFate:
    """What an auditor is told of a transaction."""

    async def test_is_committed_when_the_block_ends(self, database: Database, tenant_id: str) -> None:
        work = unit(database, tenant_id)
        async with work as transaction:
            await insert(transaction)
        assert work.outcome is TransactionOutcome.COMMITTED

    @pytest.mark.usefixtures("reads_alone")
    async def test_is_nothing_after_a_read(self, database: Database, tenant_id: str) -> None:
        work = unit(database, tenant_id, read_only=True)
        async with work as transaction:
            await transaction.fetch_one(READ_COUNT, {})
        assert work.outcome is TransactionOutcome.NOTHING

    async def test_is_nothing_without_a_statement(self, database: Database, tenant_id: str) -> None:
        work = unit(database, tenant_id)
        async with work:
            pass
        assert work.outcome is TransactionOutcome.NOTHING

    async def test_is_nothing_when_it_was_rolled_back(self, database: Database, tenant_id: str) -> None:
        work = unit(database, tenant_id)
        with suppress(LookupError):
            async with work as transaction:
                await insert(transaction)
                raise LookupError
        assert work.outcome is TransactionOutcome.NOTHING

    async def test_is_unknown_when_the_connection_is_lost_at_commit(
        self, database: Database, tenant_id: str, observer: Observer
    ) -> None:
        work = unit(database, tenant_id)
        with pytest.raises(errors.ExternalServiceError):
            async with work as transaction:
                await insert(transaction)
                assert await observer.terminate() == 1
        assert work.outcome is TransactionOutcome.UNKNOWN

    async def test_is_unknown_when_the_end_of_the_connection_was_announced(
        self, opening: Opening, users_database: TestDatabase, tenant_id: str
    ) -> None:
        """Then the driver says that another operation is in progress."""
        async with Proxy.before(users_database.url) as proxy:
            database = await opening(url=SecretStr(proxy.url), pool_size=1)
            work = unit(database, tenant_id)
            with pytest.raises(errors.ExternalServiceError):
                async with work as transaction:
                    await insert(transaction)
                    await proxy.announce_the_end()
                    # Until the driver has heard it; had it not, COMMIT would succeed.
                    await asyncio.sleep(0.05)
            assert work.outcome is TransactionOutcome.UNKNOWN
            assert await count(database, tenant_id) == 0


class TestWhatIsLeftBehind:
    @every_end
    async def test_no_tenant_on_the_connection(self, database: Database, tenant_id: str, end: End) -> None:
        await end(database, tenant_id)
        connection = await database.acquire()
        try:
            assert not await connection.fetchval("SELECT current_setting('app.tenant_id', true)")
            assert await connection.fetchval("SELECT count(*) FROM users") == 0
            assert await connection.fetchval("SHOW statement_timeout") == "1min"
        finally:
            database.release(connection)

    @every_end
    async def test_no_transaction_no_lock_no_query(
        self, database: Database, tenant_id: str, end: End, observer: Observer
    ) -> None:
        await end(database, tenant_id)
        await observer.wait_until_idle()
        assert database.occupancy.open <= 1

    async def test_no_query_after_many_cancellations(
        self, opening: Opening, tenant_id: str, observer: Observer
    ) -> None:
        database = await opening(pool_size=4)
        for _ in range(10):
            await asyncio.gather(*(is_cancelled_within_a_statement(database, tenant_id) for _ in range(4)))
        await observer.wait_until_idle()
        assert await count(database, tenant_id) == 0


class TestTenants:
    async def test_see_their_own_rows_only(self, database: Database, tenant_id: str) -> None:
        await commits(database, tenant_id)
        assert await count(database, f"{tenant_id}-other") == 0

    @pytest.mark.parametrize(
        "tenant_id",
        ["", "-", "a b", "a'", "a',true);DROP TABLE users;--", "a\0", "a\n", "ä", "٣", "a" * 64, "a\\", '"', "$1"],
    )
    def test_refuse_what_is_no_tenant(self, database: Database, tenant_id: str) -> None:
        with pytest.raises(errors.UnauthenticatedError):
            unit(database, tenant_id)

    @given(st.text(max_size=70))
    def test_never_reach_sql_with_anything_but_plain_characters(self, text: str) -> None:
        plain = bool(text) and len(text) <= 63 and re.fullmatch(r"[A-Za-z0-9_.-]+", text) and text[0] not in "_.-"
        assert bool(TENANT_PATTERN.fullmatch(text)) == bool(plain)


class TestErrors:
    async def test_name_the_broken_constraint(self, database: Database, tenant_id: str) -> None:
        with pytest.raises(EmailTakenError):
            await insert_two(database, tenant_id, "Ada@example.com", "ada@EXAMPLE.com")

    async def test_are_a_conflict_for_a_constraint_without_a_name_of_its_own(
        self, database: Database, tenant_id: str
    ) -> None:
        values = {"id": str(uuid_utils.uuid7()), "email": "one@example.com"}
        async with unit(database, tenant_id) as transaction:
            await transaction.fetch_one(INSERT, values)
        with pytest.raises(errors.ConflictError) as caught:
            async with unit(database, tenant_id) as transaction:
                await transaction.fetch_one(INSERT, {**values, "email": "two@example.com"})
        assert "users" not in caught.value.message

    async def test_refuse_a_character_that_cannot_be_stored(self, database: Database, tenant_id: str) -> None:
        with pytest.raises(errors.ValidationError):
            async with unit(database, tenant_id) as transaction:
                await insert(transaction, "nul\0@example.com")

    async def test_abort_one_of_two_that_wait_for_each_other(self, opening: Opening, tenant_id: str) -> None:
        database = await opening(pool_size=2)
        lock = [Statement(f"SELECT pg_advisory_xact_lock({key})", (), {}) for key in (71, 72)]
        both = asyncio.Barrier(2)

        async def take(first: Statement, second: Statement) -> None:
            async with unit(database, tenant_id) as transaction:
                await transaction.fetch_one(first, {})
                await both.wait()
                await transaction.fetch_one(second, {})

        results = await asyncio.gather(take(*lock), take(*lock[::-1]), return_exceptions=True)
        assert [type(result) for result in results if result] == [errors.AbortedError]

    async def test_stop_writes_in_a_read_only_unit(self, database: Database, tenant_id: str) -> None:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with unit(database, tenant_id, read_only=True) as transaction:
                await insert(transaction)

    async def test_end_at_the_deadline_on_the_server(
        self, database: Database, tenant_id: str, observer: Observer
    ) -> None:
        started = asyncio.get_running_loop().time()
        with pytest.raises(errors.DeadlineExceededError):
            async with unit(database, tenant_id, timeout_seconds=0.2) as transaction:
                await transaction.fetch_one(SLEEP, {})
        assert 0.15 < asyncio.get_running_loop().time() - started < 2
        await observer.wait_until_idle()

    async def test_say_that_the_pool_is_busy(self, opening: Opening, tenant_id: str) -> None:
        database = await opening(pool_size=1, acquire_timeout_seconds=0.05)
        async with unit(database, tenant_id) as transaction:
            await transaction.fetch_one(COUNT, {})
            with pytest.raises(errors.ExternalServiceError) as caught:
                await count(database, tenant_id)
        assert caught.value.retry_after_seconds == 1
        assert await count(database, tenant_id) == 0


class TestLostConnections:
    async def test_are_replaced_when_they_were_idle(
        self, opening: Opening, users_database: TestDatabase, tenant_id: str
    ) -> None:
        database = await opening(pool_size=5)

        async def all_at_once() -> list[int]:
            return await asyncio.gather(*(count(database, tenant_id) for _ in range(5)))

        await all_at_once()
        # In another thread while this one waits, so that the event loop cannot notice before the pool is used.
        killer = threading.Thread(target=_terminate_all, args=(users_database.admin_url,))
        killer.start()
        killer.join()
        assert await all_at_once() == [0] * 5

    async def test_end_a_transaction_and_free_its_place(
        self, database: Database, tenant_id: str, observer: Observer
    ) -> None:
        with pytest.raises(errors.ExternalServiceError):
            await lose(database, tenant_id, observer, then="second@example.com")
        assert await count(database, tenant_id) == 0

    async def test_are_noticed_at_commit(self, database: Database, tenant_id: str, observer: Observer) -> None:
        with pytest.raises(errors.ExternalServiceError):
            await lose(database, tenant_id, observer)
        assert await count(database, tenant_id) == 0


async def lose(database: Database, tenant_id: str, observer: Observer, *, then: str = "") -> None:
    """Loses the connection within a unit, which goes on to insert ``then``."""
    async with unit(database, tenant_id) as transaction:
        await insert(transaction)
        assert await observer.terminate() == 1
        if then:
            await insert(transaction, then)


def _terminate_all(admin_url: str) -> None:
    async def terminate() -> None:
        async with Observer.connected(admin_url, application_name=NAME) as observer:
            await observer.terminate()

    asyncio.run(terminate())
