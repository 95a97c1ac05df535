"""A transaction with an idempotency key: BEGIN carries the claim, and COMMIT the answer."""

import asyncio
from functools import partial

import asyncpg
import pytest
import uuid_utils
from api_common.authn import Principal
from api_common.db import idempotency as module
from api_common.db.database import Database
from api_common.db.driver import Statement
from api_common.db.idempotency import IdempotencyKey, IdempotencyKeyInUseError, ReplayedError
from api_common.db.transaction import Transaction, TransactionOutcome
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from libs.api_common.tests.conftest import Run
from libs.api_common.tests.postgres import Observer
from libs.api_common.tests.units import Opening, count, insert, unit

ANSWER = b"\x00'\\answer\xff"
VALUES = Statement("SELECT $1::text AS text, $2::bytea AS bytes, $1::text = 'x' AS again", ("text", "bytes"), {})

any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


def a_key(tenant_id: str, *, subject: str = "ada", key: str = "k") -> IdempotencyKey:
    principal = Principal(subject, tenant_id, frozenset(), "", 0.0)
    return IdempotencyKey((key,), principal=principal, method="/a.Service/Write", request=Struct())


async def begin(work: Transaction, key: IdempotencyKey) -> bytes | None:
    """Begins with the claim, now and whenever ``work`` begins again; returns the stored answer if there is one."""
    work.first, work.on_begin = key.claim, partial(key.check, work)
    try:
        await work.begin()
    except ReplayedError as replayed:
        return replayed.stored
    return None


async def write(database: Database, key: IdempotencyKey, tenant_id: str) -> bytes | None:
    """Writes one row under ``key``; returns the stored answer if there is one."""
    async with unit(database, tenant_id) as work:
        stored = await begin(work, key)
        if stored is None:
            await insert(work, f"{uuid_utils.uuid7()}@example.com")
            await key.store(work, ANSWER)
    return stored


class TestValuesInSql:
    @given(any_text, st.binary(max_size=40))
    def test_are_what_they_were(self, scratch_database: Run, text: str, data: bytes) -> None:
        rows = scratch_database(VALUES.inlined({"text": text, "bytes": data}))
        assert [tuple(row) for row in rows] == [(text, data, text == "x")]

    @pytest.mark.parametrize(
        "text",
        ["'", "''", "\\", "\\'", "';COMMIT;--", "$1", "$$", "/*", "%s", "ä", "\N{GRINNING FACE}", "\n", "E'\\x27'"],
    )
    def test_never_end_their_literal(self, scratch_database: Run, text: str) -> None:
        for setting in ("on", "off"):
            scratch_database(f"SELECT set_config('standard_conforming_strings', '{setting}', false)")
            rows = scratch_database(VALUES.inlined({"text": text, "bytes": text.encode()}))
            assert tuple(rows[0])[:2] == (text, text.encode())


class TestAnswers:
    @pytest.mark.parametrize("most_inlined", [0, 8192])
    async def test_are_kept_as_they_are(
        self, database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch, most_inlined: int
    ) -> None:
        """Small ones travel with COMMIT, large ones on their own."""
        monkeypatch.setattr(module, "_MAX_INLINED_BYTES", most_inlined)
        key = a_key(tenant_id, subject="o'hara\\ \N{GREEK SMALL LETTER OMEGA}", key="';--\\")
        assert [await write(database, key, tenant_id) for _ in range(3)] == [None, ANSWER, ANSWER]
        assert await count(database, tenant_id) == 1

    async def test_are_kept_after_a_call_to_a_sibling_that_ends_the_work(
        self, database: Database, tenant_id: str
    ) -> None:
        key = a_key(tenant_id)
        async with unit(database, tenant_id) as work:
            assert await begin(work, key) is None
            await work.let_go()
            await key.store(work, ANSWER)
        assert await write(database, key, tenant_id) == ANSWER

    async def test_that_cannot_be_kept_undo_the_write(self, database: Database, tenant_id: str) -> None:
        work = unit(database, tenant_id)
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with work:
                assert await begin(work, a_key(tenant_id)) is None
                await insert(work)
                work.last = "SELECT 1 / 0"
        assert work.outcome is TransactionOutcome.NOTHING
        assert await count(database, tenant_id) == 0
        assert await write(database, a_key(tenant_id), tenant_id) is None


class TestCallersThatWait:
    async def test_leave_nothing_behind_when_they_go(
        self, opening: Opening, tenant_id: str, observer: Observer
    ) -> None:
        database, key = await opening(pool_size=2), a_key(tenant_id)
        async with unit(database, tenant_id) as first:
            assert await begin(first, key) is None
            waiting = asyncio.create_task(write(database, key, tenant_id))
            await observer.wait_until_blocked(connections=1, query="BEGIN;%INSERT INTO idempotency_keys%")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await observer.wait_for("state <> 'idle'", connections=1)
            assert database.occupancy.open == 2
            await insert(first)
            await key.store(first, ANSWER)
        assert await write(database, key, tenant_id) == ANSWER
        assert await count(database, tenant_id) == 1

    async def test_hear_why_before_their_deadline(self, opening: Opening, tenant_id: str) -> None:
        database, key = await opening(pool_size=2), a_key(tenant_id)
        async with unit(database, tenant_id) as first:
            assert await begin(first, key) is None
            with pytest.raises(IdempotencyKeyInUseError):
                async with unit(database, tenant_id, timeout_seconds=0.2) as second:
                    await begin(second, key)
            await key.store(first, ANSWER)
        assert await write(database, key, tenant_id) == ANSWER
