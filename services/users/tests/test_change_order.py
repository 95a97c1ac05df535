"""What is committed late is sent late, and never left out: the order of changes under writers that overlap (DL-6)."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from api_common.watch import change_notifier as hub

from services.users.tests.factories import create_user
from tests.watching import watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub
    from api_common.testing import Caller, TestDatabase

WRITERS = 40
MAX_DELAY_SECONDS = 0.2


class Writer:
    """A transaction of a tenant that lasts as long as the test wants."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], tenant_id: str) -> None:
        self._connection = connection
        self._tenant_id = tenant_id

    async def create(self) -> str:
        id_ = str(uuid_utils.uuid7())
        await self._connection.execute(
            "INSERT INTO users (tenant_id, id, display_name, state, email, created_by)"
            " VALUES ($1, $2, 'Ada', 'ACTIVE', $3, 'ada')",
            *(self._tenant_id, id_, f"{id_}@example.com"),
        )
        return id_

    async def rename(self, id_: str, name: str) -> None:
        await self._connection.execute("UPDATE users SET display_name = $2 WHERE id = $1", id_, name)

    async def become_old(self) -> None:
        """Gets a number now, as a transaction does that claims an idempotency key long before it has its row."""
        await self._connection.execute("SELECT pg_current_xact_id()")


@asynccontextmanager
async def writing(database: TestDatabase, tenant_id: str) -> AsyncIterator[Writer]:
    connection = await asyncpg.connect(database.url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant_id)
            yield Writer(connection, tenant_id)
    finally:
        await connection.close()


async def test_forty_overlapping_writers_are_all_heard(
    users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A reader that reads seldom reads nothing too early.
    monkeypatch.setattr(hub, "POLL_SECONDS", 0.01)
    delays, together = random.Random(8), asyncio.Barrier(WRITERS)

    async def write() -> str:
        async with writing(users_database, admin.tenant_id) as writer:
            await together.wait()
            await asyncio.sleep(delays.uniform(0, MAX_DELAY_SECONDS))
            id_ = await writer.create()
            await asyncio.sleep(delays.uniform(0, MAX_DELAY_SECONDS))
            return id_

    async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
        await watch.until("bookmark")
        written = asyncio.gather(*(write() for _ in range(WRITERS)))
        heard = [(await watch.change())[1].id for _ in range(WRITERS)]
        assert sorted(heard) == sorted(await written)


async def test_a_transaction_that_stays_open_holds_nobody_up_and_is_not_forgotten(
    users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller
) -> None:
    async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
        token = (await watch.until("bookmark"))[-1].resume_token
        async with writing(users_database, admin.tenant_id) as writer:
            late = await writer.create()
            for _ in range(3):
                early = await create_user(users, admin)
                assert await watch.change() == ("created", early)
        assert (await watch.change())[1].id == late
    # From the beginning again, in the order of their numbers: the window was one.
    async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=token), admin) as watch:
        assert (await watch.change())[1].id == late


async def test_of_one_user_the_later_change_comes_later_whoever_began_first(
    users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller
) -> None:
    user = await create_user(users, admin)
    async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
        token = (await watch.until("bookmark"))[-1].resume_token
        async with writing(users_database, admin.tenant_id) as old:
            await old.become_old()
            async with writing(users_database, admin.tenant_id) as young:
                await young.rename(user.id, "first")
            await old.rename(user.id, "second")
        assert [(await watch.change())[1].display_name for _ in range(2)] == ["first", "second"]
    async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=token), admin) as watch:
        assert [(await watch.change())[1].display_name for _ in range(2)] == ["first", "second"]


class TestWhatIsRecorded:
    @pytest.fixture
    async def recorded(self, users_database: TestDatabase) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(users_database.admin_url)
        yield connection
        await connection.close()

    async def test_is_the_row_and_what_was_different_before(
        self, users: UserServiceAsyncStub, admin: Caller, recorded: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        user = await create_user(users, admin, display_name="Old", labels={"team": "a"})
        renamed = pb.UpdateUserRequest(user=pb.User(id=user.id, display_name="New"))
        await users.UpdateUser(renamed, metadata=admin.metadata)
        created, updated = await recorded.fetch("SELECT * FROM recorded_changes WHERE id = $1 ORDER BY seq", user.id)
        assert (created["kind"], created["before"]) == ("created", None)
        assert (updated["kind"], updated["collection"]) == ("updated", "users")
        after, before = json.loads(updated["after"]), json.loads(updated["before"])
        assert set(before) == {"display_name", "version", "update_time"}
        assert {**after, **before} == json.loads(created["after"])

    async def test_is_also_what_no_service_did(
        self, users: UserServiceAsyncStub, admin: Caller, recorded: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        user = await create_user(users, admin)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            await watch.until("bookmark")
            await recorded.execute("DELETE FROM users WHERE id = $1", user.id)
            assert await watch.change() == ("deleted", user)

    async def test_cannot_be_changed_by_the_service(self, users_database: TestDatabase, tenant_id: str) -> None:
        async with writing(users_database, tenant_id) as writer:
            await writer.create()
            for table in ("changes", "recorded_changes"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with writer._connection.transaction():
                        await writer._connection.execute(f"UPDATE {table} SET kind = 'updated'")
