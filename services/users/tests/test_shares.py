"""What one tenant holds of a process at the same time, and that the others do not notice."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import asyncpg
import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.authn import Principal
from api_common.errors import DomainError, TooManyCallsError, TooManyWatchesError
from api_common.rpc import Shares
from api_common.settings import SharesSettings
from api_common.testing import refused, running_service, settings_for
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.settings import SettingCodes, Settings
from users_service.service import SERVICE

from services.users.tests.factories import a_user, create_user
from tests.watching import watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub
    from api_common.testing import Caller, Identity, TestDatabase

S = grpc.StatusCode

ADA, BOB, EVE = (Principal(name, tenant, frozenset()) for name, tenant in (("ada", "a"), ("bob", "a"), ("eve", "e")))
LITTLE = SharesSettings(tenant_calls=4, principal_calls=3, tenant_watches=4, principal_watches=3)


@asynccontextmanager
async def sharing(
    database: TestDatabase, identity: Identity, shares: SharesSettings
) -> AsyncIterator[tuple[UserServiceAsyncStub, int]]:
    """A process of the service with these shares, and its operations port."""
    settings = replace(settings_for(database, identity), shares=shares)
    async with running_service(SERVICE, settings) as service:
        yield UserServiceStub(service.channel), service.server.operations_port


@asynccontextmanager
async def locked(database: TestDatabase, user: pb.User) -> AsyncIterator[None]:
    """Makes every write of ``user`` wait for as long as the block runs."""
    connection = await asyncpg.connect(database.admin_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", user.id)
            yield
    finally:
        await connection.close()


async def shown(port: int, metric: str) -> dict[tuple[str, str], float]:
    """Returns what Prometheus would hear of ``metric``, by resource and holder."""
    text = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
    found = re.findall(rf'^{metric}{{holder="(\w+)",resource="([\w ]+)"}} (\S+)$', text, re.MULTILINE)
    return {(resource, holder): float(value) for holder, resource, value in found}


async def until_shown(port: int, metric: str, key: tuple[str, str], value: float) -> None:
    async with asyncio.timeout(10):
        while (await shown(port, metric))[key] != value:
            await asyncio.sleep(0.01)


async def test_a_tenant_has_a_share_of_the_watches(
    users_database: TestDatabase, identity: Identity, admin: Caller, stranger: Caller
) -> None:
    other = identity.caller(admin.tenant_id, "admin", subject="other")
    async with sharing(users_database, identity, LITTLE) as (users, port), AsyncExitStack() as open_watches:

        async def watch(caller: Caller) -> Any:
            begun = await open_watches.enter_async_context(watching(users.WatchUsers, pb.WatchUsersRequest(), caller))
            await begun.until("bookmark")
            return begun

        first, *_ = [await watch(admin) for _ in range(3)]
        with refused(S.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES") as refusal:
            await watch(admin)
        assert refusal.metadata == {"holder": "principal", "resource": "watches", "limit": "3"}
        await watch(other)
        with refused(S.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES") as refusal:
            await watch(other)
        assert refusal.metadata["holder"] == "tenant"
        theirs = await watch(stranger)
        created = await create_user(users, stranger)
        assert await theirs.change() == ("created", created)
        # Its calls do not count as watches.
        await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)
        assert (await shown(port, "share_used_ratio"))["watches", "tenant"] == 1
        assert (await shown(port, "share_refusals_total"))["watches", "tenant"] == 1
        first.call.cancel()
        await until_shown(port, "share_used_ratio", ("watches", "tenant"), 0.75)
        await watch(admin)


async def test_a_tenant_has_a_share_of_the_calls(
    users_database: TestDatabase, identity: Identity, admin: Caller, stranger: Caller
) -> None:
    other = identity.caller(admin.tenant_id, "admin", subject="other")
    async with sharing(users_database, identity, LITTLE) as (users, port):
        user = await create_user(users, admin)
        suspend = pb.SuspendUserRequest(id=user.id)
        async with locked(users_database, user):
            slow = [users.SuspendUser(suspend, metadata=one.metadata) for one in (admin, admin, admin, other)]
            await until_shown(port, "share_used_ratio", ("calls", "tenant"), 1)
            for caller, holder in ((admin, "tenant"), (other, "tenant")):
                with refused(S.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS") as refusal:
                    await users.GetUser(pb.GetUserRequest(id=user.id), metadata=caller.metadata)
                assert refusal.metadata == {"holder": holder, "resource": "calls", "limit": "4"}
            await create_user(users, stranger)
            slow.pop().cancel()
            await until_shown(port, "share_used_ratio", ("calls", "tenant"), 0.75)
            with refused(S.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS") as refusal:
                await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata)
            assert refusal.metadata["holder"] == "principal"
        await asyncio.gather(*slow, return_exceptions=True)
        await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata)
        assert set((await shown(port, "share_used_ratio")).values()) == {0}


async def test_a_tenant_has_a_share_of_the_connections(
    users_database: TestDatabase, identity: Identity, admin: Caller, stranger: Caller
) -> None:
    async with sharing(users_database, identity, SharesSettings()) as (users, port):
        user = await create_user(users, admin)
        suspend = pb.SuspendUserRequest(id=user.id)
        async with locked(users_database, user):
            slow = [users.SuspendUser(suspend, metadata=admin.metadata) for _ in range(20)]
            await until_shown(port, "share_used_ratio", ("connections", "tenant"), 1)
            # While calls wait for their tenant's share, and after some were refused.
            for _ in range(2):
                for _ in range(20):
                    await users.ListUsers(pb.ListUsersRequest(), metadata=stranger.metadata)
                await until_shown(port, "share_refusals_total", ("connections", "tenant"), 16)
        answers = await asyncio.gather(*slow, return_exceptions=True)
        failed = [call for call, answer in zip(slow, answers, strict=True) if isinstance(answer, BaseException)]
        exhausted = [call for call in failed if await call.code() is S.RESOURCE_EXHAUSTED]
        assert len(exhausted) == 16
        with refused(S.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"):
            await exhausted[0]
        assert (await shown(port, "share_used_ratio"))["connections", "tenant"] == 0


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ({"calls": 1}, TooManyCallsError),
        ({"watches": 1}, TooManyWatchesError),
        ({"calls": 0, "bytes": 2**24}, TooManyCallsError),
    ],
)
@pytest.mark.parametrize("holder", ["tenant", "principal"])
def test_a_share_is_free_when_one_of_its_calls_has_ended(
    wanted: dict[str, int], kind: type[DomainError], holder: str
) -> None:
    """No time frees it, so a refusal names the shortest: a second."""
    least = {"calls": 1, "watches": 1, "bytes": 2**24}
    shares = Shares(SharesSettings.model_validate({f"{holder}_{name}": value for name, value in least.items()}))
    ada, other = Principal("ada", "a", frozenset()), Principal("other", "a", frozenset())
    release = shares.hold(ada, wanted)
    asking = ada if holder == "principal" else other
    for _ in range(2):
        with pytest.raises(kind) as refusal:
            shares.hold(asking, wanted)
        assert (refusal.value.metadata["holder"], refusal.value.retry_after_seconds) == (holder, 1)
    release()
    shares.hold(asking, wanted)()


def test_a_principal_has_a_share_of_the_bytes() -> None:
    mega = 1024 * 1024
    shares = Shares(SharesSettings(tenant_bytes=32 * mega, principal_bytes=16 * mega))
    ada, bob, eve = (Principal(name, tenant, frozenset()) for name, tenant in ("aa", "ba", "ab"))

    @contextmanager
    def call(principal: Principal, size: int) -> Iterator[None]:
        release = shares.hold(principal, {"calls": 1, "bytes": size} if size else {"calls": 1})
        yield
        release()

    with call(ada, 10 * mega), call(ada, 6 * mega):
        with pytest.raises(TooManyCallsError) as refusal, call(ada, 1):
            pass
        assert (refusal.value.metadata["holder"], refusal.value.retry_after_seconds) == ("principal", 1)
        with call(ada, 0), call(bob, 10 * mega), call(bob, 6 * mega), call(eve, 10 * mega):
            assert max(one.used for one in shares.use) == 32 * mega
            carl = Principal("c", "a", frozenset())
            with pytest.raises(TooManyCallsError), call(carl, mega):
                pass
    assert {one.used for one in shares.use} == {0}


async def test_answers_that_nobody_reads_count_until_they_have_left(
    users_database: TestDatabase, identity: Identity, admin: Caller, stranger: Caller
) -> None:
    labels = {f"label-{number}": "x" * 63 for number in range(60)}
    shares = SharesSettings(principal_bytes=2**24, tenant_answers=2**40, principal_answers=2**40)
    settings = replace(settings_for(users_database, identity), shares=shares)
    async with running_service(SERVICE, settings) as service:
        users, port = UserServiceStub(service.channel), service.server.operations_port
        for _ in range(4):
            large = [pb.CreateUserRequest(user=a_user(labels=labels)) for _ in range(25)]
            await users.BatchCreateUsers(pb.BatchCreateUsersRequest(requests=large), metadata=admin.metadata)
        request = pb.ListUsersRequest(page_size=100).SerializeToString()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.grpc_port)
        client = H2Connection(H2Configuration(header_encoding=None))
        client.local_settings = Settings(initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 0})
        client.initiate_connection()
        for stream in range(1, 100, 2):
            path = (":path", "/ameide.user.v1.UserService/ListUsers")
            head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), path, ("te", "trailers")]
            client.send_headers(stream, [*head, ("content-type", "application/grpc"), *admin.metadata])
            client.send_data(stream, b"\0" + len(request).to_bytes(4) + request, end_stream=True)
        refusals = 0
        async with asyncio.timeout(30):
            while refusals < 10:
                writer.write(client.data_to_send())
                for event in client.receive_data(await reader.read(65536)):
                    found = isinstance(event, ResponseReceived) and dict(event.headers or ()).get(b"error-type")
                    refusals += found == b"TOO_MANY_CALLS"
        assert 0.9 < (await shown(port, "share_used_ratio"))["bytes", "principal"] <= 1
        await users.ListUsers(pb.ListUsersRequest(), metadata=stranger.metadata)
        writer.transport.abort()
        await until_shown(port, "share_used_ratio", ("bytes", "principal"), 0)
        await users.ListUsers(pb.ListUsersRequest(page_size=100), metadata=admin.metadata)


async def test_watches_that_are_opened_and_dropped_leave_nothing(
    users_database: TestDatabase, identity: Identity, admin: Caller
) -> None:
    async with sharing(users_database, identity, SharesSettings()) as (users, port):

        async def drop(number: int) -> None:
            request = pb.WatchUsersRequest(filter=f'display_name = "{number}"')
            async with watching(users.WatchUsers, request, admin) as watch:
                if number % 2:
                    await watch.next()

        for hundred in range(3):
            await asyncio.gather(*(drop(hundred * 100 + number) for number in range(100)))
        await until_shown(port, "share_used_ratio", ("watches", "principal"), 0)
        assert set((await shown(port, "share_used_ratio")).values()) == {0}
        assert set((await shown(port, "share_refusals_total")).values()) == {0}


class TestTurns:
    async def test_of_a_tenant_are_taken_one_after_the_other_and_hold_nobody_else_up(self) -> None:
        shares, order = Shares(SharesSettings(tenant_turns=2)), list[str]()
        ends = {name: asyncio.Event() for name in ("a1", "a2", "a3", "a4", "b1")}

        async def call(name: str) -> None:
            async with shares.turn(Principal(name, name[0], frozenset())):
                order.append(name)
                await ends[name].wait()

        calls = {name: asyncio.create_task(call(name)) for name in ends}
        await asyncio.sleep(0)
        assert order == ["a1", "a2", "b1"]
        # One that waits leaves the line, and one that works leaves its turn to the next.
        calls["a3"].cancel()
        ends["a1"].set()
        await calls["a1"]
        await asyncio.sleep(0)
        assert order == ["a1", "a2", "b1", "a4"]
        for end in ends.values():
            end.set()
        await asyncio.gather(*calls.values(), return_exceptions=True)
        assert not shares._lines

    async def test_end_before_the_call_does_and_only_once(self) -> None:
        shares = Shares(SharesSettings(tenant_turns=1))
        async with shares.turn(ADA) as turn:
            turn.end()
            turn.end()
            async with asyncio.timeout(1), shares.turn(ADA):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01), shares.turn(ADA):
                        pass

    async def test_are_taken_again_after_a_call_to_another_service(self) -> None:
        shares = Shares(SharesSettings(tenant_turns=1))
        async with shares.turn(ADA) as turn:
            turn.end()
            async with shares.turn(BOB):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await turn.take()
            async with asyncio.timeout(1):
                await turn.take()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), shares.turn(BOB):
                    pass
        assert not shares._lines

    async def test_of_expensive_calls_are_one_and_leave_the_others_alone(self) -> None:
        shares = Shares(SharesSettings(tenant_turns=1))
        async with asyncio.timeout(1), shares.turn(ADA, expensive=True), shares.turn(ADA), shares.turn(EVE):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), shares.turn(BOB, expensive=True):
                    pass
            async with shares.turn(EVE, expensive=True):
                pass

    async def test_end_when_a_watch_is_open(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        async with (
            sharing(users_database, identity, SharesSettings(tenant_turns=1)) as (users, _),
            watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as first,
            watching(users.WatchUsers, pb.WatchUsersRequest(), admin) as second,
        ):
            await first.until("bookmark")
            await second.until("bookmark")
            created = await create_user(users, admin)
            assert await first.change() == await second.change() == ("created", created)
