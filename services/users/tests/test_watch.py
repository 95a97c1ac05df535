"""Watching users, and with them what all watches share: from wherever a client was, each change and in order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db import Database
from api_common.server import reap_changes
from api_common.settings import DatabaseSettings
from api_common.telemetry import Metrics
from api_common.testing import refused, running_service, settings_for
from api_common.watch import PAGE_SIZE, change_notifier
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from users_service.service import SERVICE

from libs.api_common.tests.proxy import Proxy
from services.users.tests.factories import a_user, create_user
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub
    from api_common.testing import Caller, Identity, TestDatabase

S = grpc.StatusCode


class TestWatchUsers:
    async def test_needs_the_permission(self, users: UserServiceAsyncStub, nobody: Caller) -> None:
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), nobody) as watch:
            with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
                await watch.next()

    async def test_tells_everything_that_happens_to_a_user(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            await watch.until("bookmark")
            user = await create_user(users, admin)
            renamed = pb.UpdateUserRequest(user=pb.User(id=user.id, display_name="Other"))
            told = [("created", user), ("updated", await users.UpdateUser(renamed, metadata=admin.metadata))]
            suspend, delete = pb.SuspendUserRequest(id=user.id), pb.DeleteUserRequest(id=user.id)
            told.append(("updated", await users.SuspendUser(suspend, metadata=admin.metadata)))
            told.append(("deleted", await users.DeleteUser(delete, metadata=admin.metadata)))
            undelete = pb.UndeleteUserRequest(id=user.id)
            told.append(("created", await users.UndeleteUser(undelete, metadata=admin.metadata)))
            batch = pb.BatchCreateUsersRequest(requests=[pb.CreateUserRequest(user=a_user()) for _ in range(2)])
            created = await users.BatchCreateUsers(batch, metadata=admin.metadata)
            told += [("created", one) for one in created.users]
            assert [await watch.change() for _ in told] == told

    async def test_that_is_refused_happens_to_nobody(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        taken = await create_user(users, admin)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            await watch.until("bookmark")
            batch = [pb.CreateUserRequest(user=a_user()), pb.CreateUserRequest(user=a_user(email=taken.email))]
            with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN"):
                await users.BatchCreateUsers(pb.BatchCreateUsersRequest(requests=batch), metadata=admin.metadata)
            last = await create_user(users, admin)
            assert await watch.change() == ("created", last)

    async def test_goes_on_when_the_database_leaves_without_a_word(
        self,
        users: UserServiceAsyncStub,
        users_database: TestDatabase,
        identity: Identity,
        admin: Caller,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(change_notifier, "_POLL_TIMEOUT_SECONDS", 0.5)
        async with Proxy.before(users_database.url) as proxy:
            settings = settings_for(replace(users_database, url=proxy.url), identity, pool_size=1)
            async with running_service(SERVICE, settings) as service:
                watched = UserServiceStub(service.channel).WatchUsers
                async with watching(watched, pb.WatchUsersRequest(), admin) as watch:
                    await watch.until("bookmark")
                    # The first poll makes every watch read once more. Such a page waits 30 s, and then so do the polls.
                    created = await create_user(users, admin)
                    assert await watch.change() == ("created", created)
                    proxy.strand()
                    created = await create_user(users, admin)
                    assert await watch.change() == ("created", created)

    async def test_looks_through_its_filter_before_and_after(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        async def rename(user: pb.User, name: str) -> pb.User:
            request = pb.UpdateUserRequest(user=pb.User(id=user.id, display_name=name))
            return await users.UpdateUser(request, metadata=admin.metadata)

        request = pb.WatchUsersRequest(filter='display_name = "in*" AND state = "ACTIVE"')
        async with watching(users.WatchUsers, request, admin) as watch:
            await watch.until("bookmark")
            await create_user(users, admin, display_name="out")
            user = await create_user(users, admin, display_name="out")
            told = [("created", await rename(user, "in 1")), ("updated", await rename(user, "in 2"))]
            told.append(("deleted", await rename(user, "out")))
            await rename(user, "out again")
            told.append(("created", await rename(user, "in 3")))
            delete = pb.DeleteUserRequest(id=user.id)
            told.append(("deleted", await users.DeleteUser(delete, metadata=admin.metadata)))
            assert [await watch.change() for _ in told] == told

    async def test_refuses_a_malformed_filter(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        async with watching(users.WatchUsers, pb.WatchUsersRequest(filter="shoe_size = 42"), admin) as watch:
            with refused(S.INVALID_ARGUMENT, "INVALID_FILTER"):
                await watch.next()

    async def test_begins_with_what_there_is(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        there = [await create_user(users, admin) for _ in range(3)]
        gone = await create_user(users, admin)
        await users.DeleteUser(pb.DeleteUserRequest(id=gone.id), metadata=admin.metadata)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(initial_state=True), admin) as watch:
            *state, _ = await watch.until("bookmark")
        assert [one.created for one in state] == there


class TestResuming:
    @pytest.fixture
    async def crowd(self, users: UserServiceAsyncStub, admin: Caller) -> list[str]:
        """The ids of more users than a page holds."""
        found: list[str] = []
        for _ in range(2):
            requests = [pb.CreateUserRequest(user=a_user()) for _ in range(PAGE_SIZE * 3 // 4)]
            created = await users.BatchCreateUsers(
                pb.BatchCreateUsersRequest(requests=requests), metadata=admin.metadata
            )
            found += [user.id for user in created.users]
        return found

    async def test_goes_on_within_the_state(self, users: UserServiceAsyncStub, admin: Caller, crowd: list[str]) -> None:
        token, seen = "", []
        # Cut off after every 40 messages, with a change before each return.
        while True:
            request = pb.WatchUsersRequest(initial_state=True, resume_token=token)
            async with watching(users.WatchUsers, request, admin) as watch:
                messages = [await watch.next() for _ in range(40)]
            token = messages[-1].resume_token
            seen += [one.created for one in messages if one.WhichOneof("event") == "created"]
            if any(one.WhichOneof("event") == "bookmark" for one in messages) or len(seen) > len(crowd):
                break
            renamed = pb.User(id=crowd[0], display_name=f"After {len(seen)}")
            newest = await users.UpdateUser(pb.UpdateUserRequest(user=renamed), metadata=admin.metadata)
            if len(seen) >= 120:
                break
        async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=token), admin) as watch:
            seen += [one.created for one in (await watch.until("bookmark"))[:-1]]
        assert {one.id for one in seen} == set(crowd)
        # Once in its turn, and once as it has become; nothing in between, which would be older than what was sent.
        assert [one.display_name for one in seen if one.id == crowd[0]][1:] == [newest.display_name]
        assert len(seen) == len(crowd) + 1

    async def test_goes_on_after_any_message(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            token = (await watch.next()).resume_token
        requests = [pb.CreateUserRequest(user=a_user()) for _ in range(100)]
        batch = await users.BatchCreateUsers(pb.BatchCreateUsersRequest(requests=requests), metadata=admin.metadata)
        more = [await create_user(users, admin) for _ in range(10)]
        expected = [*batch.users, *more]
        seen: list[pb.User] = []
        while len(seen) < len(expected):
            async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=token), admin) as watch:
                for _ in range(7):
                    if len(seen) == len(expected):
                        break
                    message = await watch.next()
                    seen += [message.created] if message.WhichOneof("event") == "created" else []
                    token = message.resume_token
        assert seen == expected

    @pytest.mark.parametrize("token", ["x", "gAAAAA", "A" * 200], ids=["short", "prefix", "long"])
    async def test_refuses_what_is_no_token(self, users: UserServiceAsyncStub, admin: Caller, token: str) -> None:
        async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=token), admin) as watch:
            with refused(S.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN"):
                await watch.next()

    async def test_refuses_the_token_of_another_filter(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        async with watching(users.WatchUsers, pb.WatchUsersRequest(filter='state = "ACTIVE"'), admin) as watch:
            token = (await watch.next()).resume_token
        for other in ("", 'state = "SUSPENDED"'):
            request = pb.WatchUsersRequest(filter=other, resume_token=token)
            async with watching(users.WatchUsers, request, admin) as watch:
                with refused(S.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN"):
                    await watch.next()

    async def test_asks_for_a_resync_where_changes_are_gone(
        self, users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller
    ) -> None:
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            old = (await watch.next()).resume_token
            await create_user(users, admin)
            message = await watch.next()
        settings = DatabaseSettings(url=SecretStr(users_database.url))
        database = await Database.connect(settings, application_name="reaper")
        assert await reap_changes(database, Metrics(CollectorRegistry()), retention_seconds=0) > 0
        await database.close()
        async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=old), admin) as watch:
            with refused(S.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED") as refusal:
                await watch.next()
        assert "resync" in refusal.message
        # Who has seen what is gone now misses nothing.
        last = await create_user(users, admin)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=message.resume_token), admin) as watch:
            assert await watch.change() == ("created", last)


class TestManyWatches:
    async def test_cost_one_read_per_change_whatever_their_filters_are(
        self, users: UserServiceAsyncStub, admin: Caller, statements: list[str]
    ) -> None:
        async with AsyncExitStack() as stack:
            everybody = []
            for number in range(40):
                request = pb.WatchUsersRequest(filter=f'display_name = "seen*" AND NOT display_name:"{number}."')
                watch = await stack.enter_async_context(watching(users.WatchUsers, request, admin))
                await watch.until("bookmark")
                everybody.append(watch)
            for number in range(6):
                if number == 1:
                    # The first change found them at places of their own.
                    statements.clear()
                created = await create_user(users, admin, display_name=f"seen by most {number}.")
                told = everybody[:number] + everybody[number + 1 :]
                assert [await watch.change() for watch in told] == [("created", created)] * 39
            reads = [sql for sql in statements if "pg_visible_in_snapshot" in sql]
            assert len(reads) == 5

    async def test_cost_no_more_reads_when_changes_come_all_at_once(
        self, users: UserServiceAsyncStub, admin: Caller, statements: list[str]
    ) -> None:
        async with AsyncExitStack() as stack:
            everybody = []
            for number in range(40):
                request = pb.WatchUsersRequest(filter=f'NOT display_name = "{number}"')
                watch = await stack.enter_async_context(watching(users.WatchUsers, request, admin))
                await watch.until("bookmark")
                everybody.append(watch)
            created = [await create_user(users, admin)]
            assert [await watch.change() for watch in everybody] == [("created", created[0])] * 40
            statements.clear()
            created = await asyncio.gather(*(create_user(users, admin) for _ in range(5)))
            for watch in everybody:
                told = [await watch.change() for _ in created]
                assert {user.id for _, user in told} == {user.id for user in created}
            reads = [sql for sql in statements if "pg_visible_in_snapshot" in sql]
            assert len(reads) <= 3 * 5
