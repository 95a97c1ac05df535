"""One effect per idempotency key, seen by clients of the example."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db.idempotency import RETENTION, read_key
from api_common.errors import ValidationError
from api_common.settings import SharesSettings
from api_common.testing import Caller, Identity, TestDatabase, TestService, refused, running_service, settings_for

from libs.api_common.tests.example.service import SERVICE, a_user, create_user
from libs.api_common.tests.postgres import Observer

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode
CREATE: Final = "/ameide.user.v1.UserService/CreateUser"


@pytest.fixture
async def observer(users_database: TestDatabase) -> AsyncIterator[Observer]:
    async with Observer.connected(users_database.admin_url, application_name=SERVICE.name) as observer:
        yield observer


@pytest.fixture
async def stalled(users_database: TestDatabase) -> AsyncIterator[asyncio.Event]:
    """Keeps inserts of users waiting, after they have claimed their key, until the event is set."""
    locked, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(users_database.admin_url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE users IN SHARE MODE")
            locked.set()
            await go_on.wait()
        await connection.close()

    task = asyncio.create_task(hold())
    await locked.wait()
    yield go_on
    go_on.set()
    await task


def with_key(caller: Caller, *keys: str) -> tuple[tuple[str, str], ...]:
    return (*caller.metadata, *(("idempotency-key", key) for key in keys))


async def create(
    users: UserServiceAsyncStub, caller: Caller, key: str, user: pb.User, *, timeout_seconds: float | None = None
) -> tuple[pb.User, bool]:
    """Creates ``user`` and tells whether the answer was stored by an earlier call."""
    call = users.CreateUser(pb.CreateUserRequest(user=user), metadata=with_key(caller, key), timeout=timeout_seconds)
    response = await call
    return response, ("idempotent-replayed", "true") in tuple(await call.initial_metadata())


async def emails(users: UserServiceAsyncStub, caller: Caller) -> list[str]:
    page = await users.ListUsers(pb.ListUsersRequest(order_by="create_time"), metadata=caller.metadata)
    return [user.email for user in page.users]


class TestReplay:
    async def test_answers_byte_for_byte_as_the_first_call(
        self, users: UserServiceAsyncStub, users_service: TestService, admin: Caller
    ) -> None:
        send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = users_service.channel.unary_unary(CREATE)
        labels = {f"k{number}": "x" for number in range(20)}
        request = pb.CreateUserRequest(user=a_user(labels=labels)).SerializeToString()
        first, second = [await send(request, metadata=with_key(admin, "once")) for _ in range(2)]
        assert first == second
        assert pb.User.FromString(first).email == (await emails(users, admin))[0]
        assert len(await emails(users, admin)) == 1

    async def test_says_that_it_is_one(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = a_user()
        answers = [await create(users, admin, "k", user) for _ in range(3)]
        assert [replayed for _, replayed in answers] == [False, True, True]
        assert answers[0][0] == answers[1][0] == answers[2][0]

    async def test_shows_what_was_true_then(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        """A stored answer is not computed anew: the etag in it is the one the first call returned."""
        user = a_user()
        created, _ = await create(users, admin, "k", user)
        await users.DeleteUser(pb.DeleteUserRequest(id=created.id), metadata=admin.metadata)
        assert await create(users, admin, "k", user) == (created, True)

    async def test_is_for_every_method_that_writes(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        metadata = with_key(admin, "same-key-for-each-method")
        for call in (
            lambda: users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=metadata),
            lambda: users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=metadata),
            lambda: users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=metadata),
            lambda: users.UndeleteUser(pb.UndeleteUserRequest(id=user.id), metadata=metadata),
        ):
            assert await call() == await call()

    async def test_is_not_for_reads(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        first, second = await create_user(users, admin), await create_user(users, admin)
        for user in (first, second):
            call = users.GetUser(pb.GetUserRequest(id=user.id), metadata=with_key(admin, "read"))
            assert await call == user


class TestReuse:
    async def test_for_another_request_is_refused_without_effect(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        created, _ = await create(users, admin, "k", a_user())
        with refused(S.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            await create(users, admin, "k", a_user())
        assert await emails(users, admin) == [created.email]

    async def test_by_another_tenant_is_none(
        self, users: UserServiceAsyncStub, admin: Caller, stranger: Caller
    ) -> None:
        user = a_user()
        ours, _ = await create(users, admin, "k", user)
        theirs, replayed = await create(users, stranger, "k", user)
        assert (replayed, ours.id == theirs.id) == (False, False)

    async def test_by_another_principal_is_none(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity
    ) -> None:
        colleague = identity.caller(admin.tenant_id, "admin", subject="grace")
        _, first = await create(users, admin, "k", a_user())
        _, second = await create(users, colleague, "k", a_user())
        assert (first, second) == (False, False)

    async def test_after_a_day_is_none(self, users: UserServiceAsyncStub, admin: Caller, observer: Observer) -> None:
        await create(users, admin, "k", a_user())
        kept = await observer.connection.fetchval(
            "SELECT expire_time FROM idempotency_keys WHERE tenant_id = $1", admin.tenant_id
        )
        assert abs(kept - datetime.now(UTC) - timedelta(hours=24)) < timedelta(minutes=1)
        await self._age(observer, admin, RETENTION - timedelta(seconds=20))
        with refused(S.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            await create(users, admin, "k", a_user())
        await self._age(observer, admin, timedelta(seconds=21))
        user = a_user()
        assert (await create(users, admin, "k", user))[1] is False
        assert (await create(users, admin, "k", user))[1] is True
        assert len(await emails(users, admin)) == 2

    async def _age(self, observer: Observer, caller: Caller, by: timedelta) -> None:
        await observer.connection.execute(
            "UPDATE idempotency_keys SET expire_time = expire_time - $2::interval WHERE tenant_id = $1",
            caller.tenant_id,
            by,
        )


class TestFailure:
    async def test_leaves_nothing_so_that_a_retry_executes(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        holder, user = await create_user(users, admin, email="taken@example.com"), a_user(email="taken@example.com")
        for _ in range(2):
            with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN"):
                await create(users, admin, "k", user)
        await users.DeleteUser(pb.DeleteUserRequest(id=holder.id), metadata=admin.metadata)
        assert (await create(users, admin, "k", user))[1] is False

    async def test_before_the_handler_leaves_nothing_either(
        self, users: UserServiceAsyncStub, admin: Caller, nobody: Caller, observer: Observer
    ) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await create(users, nobody, "k", a_user())
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST"):
            await create(users, admin, "k", a_user(email="nobody"))
        stored = "SELECT count(*) FROM idempotency_keys WHERE tenant_id = $1"
        assert await observer.connection.fetchval(stored, admin.tenant_id) == 0

    async def test_of_the_connection_lets_exactly_one_waiter_execute(
        self, users: UserServiceAsyncStub, admin: Caller, observer: Observer, stalled: asyncio.Event
    ) -> None:
        """The first call dies after it has claimed the key and before it commits."""
        user = a_user()
        first = asyncio.create_task(create(users, admin, "k", user))
        await observer.wait_until_blocked(connections=1, query="INSERT INTO users%")
        waiting = [asyncio.create_task(create(users, admin, "k", user)) for _ in range(3)]
        await observer.wait_until_blocked(connections=3, query="BEGIN;%INSERT INTO idempotency_keys%")
        assert await observer.terminate(query="INSERT INTO users%") == 1
        with refused(S.UNAVAILABLE, "UNAVAILABLE"):
            await first
        stalled.set()
        answers = await asyncio.gather(*waiting)
        assert sorted(replayed for _, replayed in answers) == [False, True, True]
        assert await emails(users, admin) == [user.email]


class TestParallelDuplicates:
    async def test_make_one_row_and_forty_equal_answers(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = a_user()
        answers = await asyncio.gather(*(create(users, admin, "k", user) for _ in range(40)))
        assert sorted(replayed for _, replayed in answers) == [False] + [True] * 39
        assert {created.SerializeToString(deterministic=True) for created, _ in answers} == {
            answers[0][0].SerializeToString(deterministic=True)
        }
        assert await emails(users, admin) == [user.email]

    async def test_make_one_row_when_the_first_dies_with_its_claim(
        self,
        users_database: TestDatabase,
        identity: Identity,
        admin: Caller,
        observer: Observer,
        stalled: asyncio.Event,
    ) -> None:
        """Forty duplicates over two replicas; the one that holds the key loses its connection before it commits."""
        settings = replace(settings_for(users_database, identity, pool_size=21), shares=SharesSettings(tenant_turns=20))
        async with running_service(SERVICE, settings) as one, running_service(SERVICE, settings) as other:
            stubs: list[UserServiceAsyncStub] = [UserServiceStub(replica.channel) for replica in (one, other)]
            user = a_user()
            calls = [asyncio.create_task(create(stubs[number % 2], admin, "k", user)) for number in range(40)]
            await observer.wait_until_blocked(connections=1, query="INSERT INTO users%")
            await observer.wait_until_blocked(connections=39, query="BEGIN;%INSERT INTO idempotency_keys%")
            assert await observer.terminate(query="INSERT INTO users%") == 1
            stalled.set()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert await emails(stubs[0], admin) == [user.email]
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        replayed = sorted(answer[1] for answer in answers if not isinstance(answer, BaseException))
        assert [error.code() for error in failed if isinstance(error, grpc.aio.AioRpcError)] == [S.UNAVAILABLE]
        assert replayed == [False] + [True] * 38

    async def test_wait_for_the_first_until_their_deadline(
        self, users: UserServiceAsyncStub, admin: Caller, observer: Observer, stalled: asyncio.Event
    ) -> None:
        user = a_user()
        first = asyncio.create_task(create(users, admin, "k", user))
        await observer.wait_until_blocked(connections=1, query="INSERT INTO users%")
        with refused(S.ABORTED, "IDEMPOTENCY_KEY_IN_USE"):
            await create(users, admin, "k", user, timeout_seconds=1)
        stalled.set()
        assert (await first)[1] is False
        assert (await create(users, admin, "k", user))[1] is True


class TestMalformedKeys:
    @pytest.mark.parametrize(
        "keys",
        [("",), ("a" * 256,), ("a b",), ("a", "b"), ("a", "a")],
        ids=["empty", "256 characters", "blank", "two", "twice the same"],
    )
    async def test_are_refused(self, users: UserServiceAsyncStub, admin: Caller, keys: Sequence[str]) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await users.CreateUser(pb.CreateUserRequest(user=a_user()), metadata=with_key(admin, *keys))
        assert set(refusal.violations) == {"idempotency-key"}
        assert await emails(users, admin) == []

    @pytest.mark.parametrize("key", ["ä", "\N{CJK UNIFIED IDEOGRAPH-4E00}", "a\x7f", "a\0", "a\tb", "a\r\n"])
    def test_never_hold_more_than_visible_ascii(self, key: str) -> None:
        """Most of these a gRPC client cannot even send."""
        with pytest.raises(ValidationError):
            read_key((key,))

    @pytest.mark.parametrize("key", ["a", "a" * 255, "'; DROP TABLE users; --", "~!@#$%^&*()"])
    async def test_are_not_those_of_visible_characters(
        self, users: UserServiceAsyncStub, admin: Caller, key: str
    ) -> None:
        call = users.CreateUser(pb.CreateUserRequest(user=a_user()), metadata=with_key(admin, key.replace(" ", "_")))
        assert (await call).id


async def test_duplicates_do_not_use_up_the_pool(
    users_database: TestDatabase, identity: Identity, admin: Caller
) -> None:
    """Even one connection is enough for many duplicates: whoever waits for the first holds no more than its own."""
    async with running_service(SERVICE, settings_for(users_database, identity, pool_size=1)) as service:
        stub: UserServiceAsyncStub = UserServiceStub(service.channel)
        user = a_user()
        answers = await asyncio.gather(*(create(stub, admin, "k", user) for _ in range(10)))
        assert sum(not replayed for _, replayed in answers) == 1
