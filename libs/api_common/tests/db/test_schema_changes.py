"""Migrations run while the service serves: clients do not notice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db.database import Database
from api_common.db.driver import Statement
from api_common.db.transaction import Transaction
from api_common.errors import ExternalServiceError
from api_common.settings import DatabaseSettings
from api_common.testing import Caller, Identity, TestDatabase, running_service, settings_for
from pydantic import SecretStr

from libs.api_common.tests.example.service import SERVICE, a_user, create_user
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub


# The type of a result changes, so every prepared statement that returns it is stale.
ANOTHER_TYPE: Final = ("ALTER display_name TYPE varchar(400)", "ALTER display_name TYPE text")
NAMES: Final = Statement("SELECT display_name FROM users", (), {})


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
        ANOTHER_TYPE,
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
    async with users_database.altered("users", forth, back):
        await work(users, admin)
    await work(users, admin)
    going = False
    assert all(await asyncio.gather(*clients))


async def test_a_write_whose_statement_was_stale_happens_once(
    users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller
) -> None:
    await asyncio.gather(*(create_user(users, admin) for _ in range(10)))
    users_before = await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)
    async with users_database.altered("users", *ANOTHER_TYPE):
        keyed = (*admin.metadata, ("idempotency-key", "stale"))
        request = pb.CreateUserRequest(user=a_user())
        first = await users.CreateUser(request, metadata=keyed)
        assert await users.CreateUser(request, metadata=keyed) == first
    found = await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)
    assert len(found.users) == len(users_before.users) + 1


async def test_a_watch_whose_statement_was_stale_goes_on(
    users_database: TestDatabase, identity: Identity, admin: Caller
) -> None:
    # One connection, so that the second watch meets what the first has prepared.
    async with running_service(SERVICE, settings_for(users_database, identity, pool_size=1)) as service:
        users: UserServiceAsyncStub = UserServiceStub(service.channel)
        user = await create_user(users, admin)
        everything = pb.WatchUsersRequest(initial_state=True)
        async with watching(users.WatchUsers, everything, admin) as watch:
            assert await watch.change() == ("created", user)
        async with (
            users_database.altered("users", *ANOTHER_TYPE),
            watching(users.WatchUsers, everything, admin) as watch,
        ):
            assert await watch.change() == ("created", user)


async def test_what_meets_a_stale_statement_first_has_all_connections_renewed(
    users_database: TestDatabase, tenant_id: str
) -> None:
    settings = DatabaseSettings(url=SecretStr(users_database.url), pool_size=3)
    database = await Database.connect(settings, application_name="schema changes")

    async def read_on(connections: int) -> None:
        """Reads on so many connections, in transactions that run at the same time."""
        async with AsyncExitStack() as stack:
            for _ in range(connections):
                unit = Transaction(database, tenant_id, constraints={}, read_only=True, timeout_seconds=5)
                transaction = await stack.enter_async_context(unit)
                await transaction.fetch_all(NAMES, {})

    await read_on(3)
    async with users_database.altered("users", *ANOTHER_TYPE):
        with pytest.raises(ExternalServiceError):
            await read_on(1)
        await read_on(3)
    await database.close()
