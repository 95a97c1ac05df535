"""Migrations run while the service serves: clients do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.testing.database import TestDatabase
from api_common.testing.identity import Caller

from services.users.tests.factories import a_user, create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub


@asynccontextmanager
async def migration(database: TestDatabase, forth: str, back: str) -> AsyncIterator[None]:
    """Changes the table of users as its owner, and changes it back."""
    owner = await asyncpg.connect(database.owner_url)
    await owner.execute(f"ALTER TABLE users {forth}")
    try:
        yield
    finally:
        await owner.execute(f"ALTER TABLE users {back}")
        await owner.close()


async def work(users: UserServiceAsyncStub, caller: Caller) -> pb.User:
    """Writes, reads, and lists: every kind of prepared statement."""
    user = await create_user(users, caller)
    renamed = pb.User(id=user.id, display_name="Renamed")
    await users.UpdateUser(pb.UpdateUserRequest(user=renamed), metadata=caller.metadata)
    await users.ListUsers(pb.ListUsersRequest(page_size=2), metadata=caller.metadata)
    return await users.GetUser(pb.GetUserRequest(id=user.id), metadata=caller.metadata)


@pytest.mark.parametrize(
    ("forth", "back"),
    [
        ("ADD COLUMN extra text NOT NULL DEFAULT 'x'", "DROP COLUMN extra"),
        # The type of a result changes, so every prepared statement that returns it is stale.
        ("ALTER COLUMN display_name TYPE varchar(400)", "ALTER COLUMN display_name TYPE text"),
    ],
    ids=["a new column", "another type"],
)
async def test_prepared_statements_survive(
    users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller, forth: str, back: str
) -> None:
    going = True

    async def load() -> int:
        done = 0
        while going:
            assert (await work(users, admin)).display_name == "Renamed"
            done += 1
        return done

    clients = [asyncio.create_task(load()) for _ in range(6)]
    await work(users, admin)
    async with migration(users_database, forth, back):
        await work(users, admin)
    await work(users, admin)
    going = False
    assert all(await asyncio.gather(*clients))


async def test_a_write_whose_statement_was_stale_happens_once(
    users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller
) -> None:
    await asyncio.gather(*(create_user(users, admin) for _ in range(10)))
    users_before = await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)
    async with migration(users_database, "ALTER display_name TYPE varchar(400)", "ALTER display_name TYPE text"):
        keyed = (*admin.metadata, ("idempotency-key", "stale"))
        request = pb.CreateUserRequest(user=a_user())
        first = await users.CreateUser(request, metadata=keyed)
        assert await users.CreateUser(request, metadata=keyed) == first
    found = await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)
    assert len(found.users) == len(users_before.users) + 1
