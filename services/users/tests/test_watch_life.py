"""The life of a watch: what wakes it, what it hears of other processes, and everything that ends it."""

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
from api_common.rpc import adapter as rpc
from api_common.settings import WatchSettings
from api_common.testing import refused, running_service, settings_for
from api_common.watch import ChangeNotifier
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from users_service.service import SERVICE

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


class TestALife:
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

    async def test_says_that_it_lives(self, users_database: TestDatabase, identity: Identity, admin: Caller) -> None:
        async with (
            another(users_database, identity, watch=WatchSettings(heartbeat_seconds=0.05)) as users,
            watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch,
        ):
            _, *beats = [await watch.next() for _ in range(4)]
        assert {one.WhichOneof("event") for one in beats} == {"heartbeat"}

    async def test_ends_well_when_its_time_is_over_and_can_be_resumed(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        settings = settings_for(users_database, identity)
        hasty = replace(settings, watch=WatchSettings(max_age_seconds=0.5))
        async with running_service(SERVICE, settings) as stays, running_service(SERVICE, hasty) as ends:
            users = UserServiceStub(stays.channel)
            async with watching(UserServiceStub(ends.channel).WatchUsers, pb.WatchUsersRequest(), admin) as watch:
                first, last = await watch.until("completed")
                assert await watch.next() is grpc.aio.EOF
                assert await watch.end() is S.OK
            missed = await create_user(users, admin)
            for token in (first.resume_token, last.resume_token):
                async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=token), admin) as watch:
                    assert await watch.change() == ("created", missed)

    async def test_ends_with_the_longest_that_any_stream_lives(
        self, users: UserServiceAsyncStub, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rpc, "MAX_STREAM_SECONDS", 0.2)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            *_, last = await watch.until("error")
            assert (reason_of(last), bool(last.resume_token)) == ("DEADLINE_EXCEEDED", True)
            with refused(S.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
                await watch.next()

    async def test_ends_with_its_own_status_if_the_client_is_slow_to_take_the_last_message(
        self,
        users: UserServiceAsyncStub,
        admin: Caller,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(rpc, "LAST_WORDS_SECONDS", 0)
        monkeypatch.setattr(rpc, "MAX_STREAM_SECONDS", 0.2)
        async with watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            await watch.until("error")
            with refused(S.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
                await watch.next()
        assert caplog.text == ""

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
