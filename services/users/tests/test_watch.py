"""Watching users, and with them what all watches share: from wherever a client was, each change and in order."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db import Database
from api_common.rpc import adapter as rpc
from api_common.server import reap_changes
from api_common.settings import DatabaseSettings, WatchSettings
from api_common.telemetry import Metrics
from api_common.testing import refused, running_service, settings_for
from api_common.watch import PAGE_SIZE, ChangeNotifier, change_notifier
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from users_service.service import SERVICE

from libs.api_common.tests.proxy import Proxy
from services.users.tests.factories import a_user, create_user
from tests.watching import watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub
    from api_common.testing import Caller, Identity, TestDatabase

S = grpc.StatusCode

_SMALL_WINDOW = (("grpc.http2.bdp_probe", 0),)


@asynccontextmanager
async def another(
    database: TestDatabase, identity: Identity, *, watch: WatchSettings | None = None
) -> AsyncIterator[UserServiceAsyncStub]:
    """Another process of the service, as it were."""
    settings = replace(settings_for(database, identity), watch=watch or WatchSettings())
    async with running_service(SERVICE, settings) as service:
        yield UserServiceStub(service.channel)


def reason_of(message: Any) -> str:
    """Returns why a watch ended, from its last message."""
    info = error_details_pb2.ErrorInfo()
    assert message.WhichOneof("event") == "error", message
    assert message.error.details[0].Unpack(info)
    return info.reason


async def open_streams(port: int) -> float:
    """Returns how many streams a service has open, as Prometheus would hear."""
    text = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
    (found,) = re.findall(r"^rpc_server_open_streams (\S+)$", text, re.MULTILINE)
    return float(found)


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

    async def test_is_woken_by_calls_that_wrote_something_and_by_no_other(
        self, users_database: TestDatabase, identity: Identity, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[ChangeNotifier] = []

        def wake(notifier: ChangeNotifier) -> None:
            woken.append(notifier)

        monkeypatch.setattr(ChangeNotifier, "wake", wake)
        keyed = (*admin.metadata, ("idempotency-key", "once"))
        async with another(users_database, identity) as users:
            request = pb.CreateUserRequest(user=a_user())
            user = await users.CreateUser(request, metadata=keyed)
            assert len(woken) == 1
            assert await users.CreateUser(request, metadata=keyed) == user
            with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN"):
                await users.CreateUser(request, metadata=admin.metadata)
            unchanged = pb.UpdateUserRequest(user=pb.User(id=user.id))
            assert await users.UpdateUser(unchanged, metadata=admin.metadata) == user
            assert await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata) == user
            assert len(woken) == 1

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


class TestALife:
    async def test_says_that_it_lives_and_for_how_long_it_did(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        watch = WatchSettings(heartbeat_seconds=0.05, max_age_seconds=2)
        async with another(users_database, identity, watch=watch) as users:
            async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watching_:
                first, *beats, last = await watching_.until("completed")
                assert await watching_.next() is grpc.aio.EOF
                assert await watching_.end() is S.OK
            assert len(beats) > 3
            assert {one.WhichOneof("event") for one in beats} == {"heartbeat"}
            missed = await create_user(users, admin)
            for token in (first.resume_token, last.resume_token):
                request = pb.WatchUsersRequest(resume_token=token)
                async with watching(users.WatchUsers, request, admin) as watching_:
                    assert await watching_.change() == ("created", missed)

    async def test_ends_with_the_longest_that_any_stream_lives(
        self, users: UserServiceAsyncStub, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rpc, "MAX_STREAM_SECONDS", 0.2)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            *_, last = await watch.until("error")
            assert (reason_of(last), bool(last.resume_token)) == ("DEADLINE_EXCEEDED", True)
            with refused(S.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
                await watch.next()

    async def test_ends_with_the_credential(
        self, users: UserServiceAsyncStub, identity: Identity, tenant_id: str
    ) -> None:
        # Believed for as long as clocks may differ: a second more.
        caller = identity.caller(tenant_id, "admin", exp=int(time.time()) - 4, iat=int(time.time()) - 100)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), caller) as watch:
            await watch.until("bookmark")
            *_, last = await watch.until("error")
            assert (reason_of(last), bool(last.resume_token)) == ("UNAUTHENTICATED", True)
            with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
                await watch.next()

    @pytest.mark.parametrize(
        ("loss", "code", "reason"),
        [
            (pb.UpdateUserRequest(update_mask=FieldMask(paths=["roles"])), S.PERMISSION_DENIED, "PERMISSION_DENIED"),
            (pb.SuspendUserRequest(), S.UNAUTHENTICATED, "UNAUTHENTICATED"),
        ],
        ids=["roles", "suspended"],
    )
    async def test_ends_when_the_caller_may_not_any_longer(
        self,
        users: UserServiceAsyncStub,
        admin: Caller,
        identity: Identity,
        monkeypatch: pytest.MonkeyPatch,
        loss: Any,
        code: grpc.StatusCode,
        reason: str,
    ) -> None:
        monkeypatch.setattr("api_common.rpc.layers.streaming.CHECK_SECONDS", 0.05)
        user = await create_user(users, admin, roles=["viewer"])
        caller = identity.caller(admin.tenant_id, subject=user.id)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(filter='state = "SUSPENDED"'), caller) as watch:
            await watch.until("bookmark")
            if isinstance(loss, pb.UpdateUserRequest):
                loss.user.id = user.id
                await users.UpdateUser(loss, metadata=admin.metadata)
            else:
                await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
            *_, last = await watch.until("error")
            assert reason_of(last) == reason
            with refused(code, reason):
                await watch.next()

    async def test_ends_before_its_process_and_goes_on_in_another(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        settings = settings_for(users_database, identity)
        async with running_service(SERVICE, settings) as stays, running_service(SERVICE, settings) as leaves:
            staying, leaving = UserServiceStub(stays.channel), UserServiceStub(leaves.channel)
            watch_all = pb.WatchUsersRequest()
            calls: list[Any] = [leaving.WatchUsers(watch_all, metadata=admin.metadata) for _ in range(50)]
            firsts = [await call.read() for call in calls]
            assert {one.WhichOneof("event") for one in firsts} == {"bookmark"}
            begun = asyncio.get_running_loop().time()
            drain = asyncio.create_task(leaves.server.drain())
            lasts = [await call.read() for call in calls]
            assert {reason_of(last) for last in lasts} == {"UNAVAILABLE"}
            assert {await call.code() for call in calls} == {S.UNAVAILABLE}
            await drain
            # Without an end of their own they would use up the time that calls are given.
            assert asyncio.get_running_loop().time() - begun < settings.server.drain_seconds
            missed = await create_user(staying, admin)
            request = pb.WatchUsersRequest(resume_token=lasts[0].resume_token)
            async with watching(staying.WatchUsers, request, admin) as watch:
                assert await watch.change() == ("created", missed)

    async def test_hears_at_once_of_what_another_process_commits(
        self, users: UserServiceAsyncStub, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        watch_all = watching(users.WatchUsers, pb.WatchUsersRequest(), admin)
        async with another(users_database, identity) as others, watch_all as watch:
            await watch.until("bookmark")
            for _ in range(3):
                created = await create_user(others, admin)
                assert await watch.change() == ("created", created)

    async def test_ends_when_nobody_reads(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        settings = replace(settings_for(users_database, identity), watch=WatchSettings(stall_seconds=0.3))
        labels = {f"k{number}": "v" * 255 for number in range(64)}
        async with running_service(SERVICE, settings) as service, AsyncExitStack() as stack:
            users = UserServiceStub(service.channel)
            for _ in range(4):
                requests = [pb.CreateUserRequest(user=a_user(labels=labels)) for _ in range(50)]
                batch = pb.BatchCreateUsersRequest(requests=requests)
                await users.BatchCreateUsers(batch, metadata=admin.metadata)
            # A channel that takes no more than it was asked to: by default gRPC's windows grow to 8 MB.
            address = f"127.0.0.1:{service.server.grpc_port}"
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_SMALL_WINDOW))
            slow = UserServiceStub(channel)
            call = slow.WatchUsers(pb.WatchUsersRequest(initial_state=True), metadata=admin.metadata)
            await call.read()
            # It reads again only when the service has given up.
            async with asyncio.timeout(10):
                while await open_streams(service.server.operations_port):
                    await asyncio.sleep(0.05)
            with refused(S.RESOURCE_EXHAUSTED, "SLOW_READER"):
                while await call.read() is not grpc.aio.EOF:
                    pass
