"""Units of work, and all the ways in which they end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import uuid_utils
from api_common import errors
from api_common.db import Database, Statement, Transaction, compile_statement
from sqlalchemy import func, select

from libs.api_common.tests.example.service import SERVICE, EmailTakenError, users

NAME: Final = "unit-of-work"
"""How Postgres knows the connections of these tests."""

Opening = Callable[..., Awaitable[Database]]
"""Opens a pool with such settings; its test gets it closed."""

End = Callable[[Database, str], Awaitable[None]]
"""A unit of work, from its beginning to one of its ends."""

COUNT: Final = Statement("SELECT count(*) FROM users", (), {})
SLEEP: Final = Statement("SELECT pg_sleep(20)", (), {})
INSERT: Final = Statement(
    "INSERT INTO users (tenant_id, id, display_name, state, email, created_by)"
    " VALUES (current_setting('app.tenant_id'), $1, 'Ada', 'ACTIVE', $2, 'ada') RETURNING id",
    ("id", "email"),
    {},
)
READ_COUNT: Final = compile_statement(select(func.count().label("count")).select_from(users))
"""Runs as a transaction of its own where nothing may be written."""
READ_SLEEP: Final = compile_statement(select(func.pg_sleep(20)))


def unit(database: Database, tenant_id: str, *, read_only: bool = False, timeout_seconds: float = 10) -> Transaction:
    return Transaction(
        database,
        tenant_id,
        constraints=SERVICE.constraints,
        read_only=read_only,
        timeout_seconds=timeout_seconds,
    )


async def insert(transaction: Transaction, email: str = "ada@example.com") -> None:
    assert await transaction.fetch_one(INSERT, {"id": str(uuid_utils.uuid7()), "email": email})


async def insert_two(database: Database, tenant_id: str, *emails: str) -> None:
    async with unit(database, tenant_id) as transaction:
        for email in emails:
            await insert(transaction, email)


async def count(database: Database, tenant_id: str) -> int:
    async with unit(database, tenant_id) as transaction:
        row = await transaction.fetch_one(COUNT, {})
    assert row is not None
    found: int = row["count"]
    return found


async def read_count(database: Database, tenant_id: str) -> int:
    async with unit(database, tenant_id, read_only=True) as transaction:
        row = await transaction.fetch_one(READ_COUNT, {})
    assert row is not None
    found: int = row["count"]
    return found


async def reads(database: Database, tenant_id: str) -> None:
    assert await read_count(database, tenant_id) == 0


async def is_cancelled_within_a_read(database: Database, tenant_id: str) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05), unit(database, tenant_id, read_only=True) as transaction:
            await transaction.fetch_one(READ_SLEEP, {})


async def times_out_within_a_read(database: Database, tenant_id: str) -> None:
    with suppress(errors.DeadlineExceededError):
        async with unit(database, tenant_id, read_only=True, timeout_seconds=0.05) as transaction:
            await transaction.fetch_one(READ_SLEEP, {})


async def commits(database: Database, tenant_id: str) -> None:
    async with unit(database, tenant_id) as transaction:
        await insert(transaction)


async def fails(database: Database, tenant_id: str) -> None:
    with suppress(LookupError):
        async with unit(database, tenant_id) as transaction:
            await insert(transaction)
            raise LookupError


async def breaks_a_constraint(database: Database, tenant_id: str) -> None:
    with suppress(EmailTakenError):
        async with unit(database, tenant_id) as transaction:
            await insert(transaction)
            await insert(transaction)


async def is_cancelled_between_statements(database: Database, tenant_id: str) -> None:
    inserted = asyncio.Event()

    async def work() -> None:
        async with unit(database, tenant_id) as transaction:
            await insert(transaction)
            inserted.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inserted.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def is_cancelled_within_a_statement(database: Database, tenant_id: str) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05), unit(database, tenant_id) as transaction:
            await insert(transaction)
            await transaction.fetch_one(SLEEP, {})


async def times_out(database: Database, tenant_id: str) -> None:
    with suppress(errors.DeadlineExceededError):
        async with unit(database, tenant_id, timeout_seconds=0.05) as transaction:
            await insert(transaction)
            await transaction.fetch_one(SLEEP, {})
