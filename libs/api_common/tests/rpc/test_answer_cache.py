"""What callers who accept an age get: never older than they said, never what they may not see, and no statement for it.

The clock of the caches stands still until a test moves it, so what a test says of an age is exact.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.call import MAX_AGE_SECONDS, RequestContext
from api_common.rpc import NOT_MODIFIED, AnswerCache
from api_common.server import dependencies, main
from api_common.settings import CacheSettings
from api_common.testing import Caller, Identity, Statements, TestDatabase, refused, running_service, settings_for
from api_common.watch import ChangeNotifier

from libs.api_common.tests.example.service import CONTRACT, SERVICE, Users, create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode


@dataclass
class Clock:
    """What the caches take for the time."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Replica:
    """A process of the service."""

    users: UserServiceAsyncStub
    channel: grpc.aio.Channel

    async def get(self, caller: Caller, id: str, said: str = "max-age=30") -> tuple[pb.User, str | None]:
        """Returns a user, and how old the answer says that it is."""
        call = self.users.GetUser(pb.GetUserRequest(id=id), metadata=accepting(caller, said))
        return await call, await age_of(call)

    async def batch_get(self, caller: Caller, *ids: str) -> tuple[list[pb.User], str | None]:
        call = self.users.BatchGetUsers(pb.BatchGetUsersRequest(ids=ids), metadata=accepting(caller, "max-age=30"))
        return list((await call).users), await age_of(call)


def accepting(caller: Caller, *said: str) -> tuple[tuple[str, str], ...]:
    return (*caller.metadata, *(("cache-control", value) for value in said))


async def age_of(call: Any) -> str | None:
    return cast("str | None", dict(await call.trailing_metadata()).get("age"))


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    made = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "AnswerCache", partial(AnswerCache, now=made))
        yield made


@asynccontextmanager
async def replica(database: TestDatabase, identity: Identity, **changed: Any) -> AsyncIterator[Replica]:
    async with running_service(SERVICE, replace(settings_for(database, identity), **changed)) as service:
        yield Replica(UserServiceStub(service.channel), service.channel)


class Deaf(ChangeNotifier):
    """Hears of no change."""

    async def _poll(self) -> None:
        pass


@pytest.fixture(scope="module")
async def pair(
    users_database: TestDatabase, identity: Identity, clock: Clock
) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two processes that hear nothing of each other's changes."""
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dependencies, "ChangeNotifier", Deaf)
            made = [await stack.enter_async_context(replica(users_database, identity)) for _ in range(2)]
        yield made[0], made[1]


@pytest.fixture
def one(pair: tuple[Replica, Replica]) -> Replica:
    return pair[0]


@pytest.fixture
def other(pair: tuple[Replica, Replica]) -> Replica:
    return pair[1]


@pytest.fixture
async def user(one: Replica, admin: Caller) -> pb.User:
    """A user whose answer is kept."""
    made = await create_user(one.users, admin)
    await one.get(admin, made.id)
    await one.batch_get(admin, made.id)
    return made


async def rename(users: UserServiceAsyncStub, caller: Caller, user: pb.User) -> object:
    user.display_name += "!"
    user.ClearField("etag")
    return await users.UpdateUser(pb.UpdateUserRequest(user=user), metadata=caller.metadata)


async def rename_all(users: UserServiceAsyncStub, caller: Caller, user: pb.User) -> object:
    change = pb.UpdateUserRequest(user=pb.User(id=user.id, email=user.email, display_name="New"))
    return await users.BatchUpdateUsers(pb.BatchUpdateUsersRequest(requests=[change]), metadata=caller.metadata)


async def suspend(users: UserServiceAsyncStub, caller: Caller, user: pb.User) -> object:
    return await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=caller.metadata)


async def delete(users: UserServiceAsyncStub, caller: Caller, user: pb.User) -> object:
    return await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=caller.metadata)


class TestAKeptAnswer:
    async def test_takes_no_statement(self, one: Replica, admin: Caller, user: pb.User, statements: Statements) -> None:
        assert await one.get(admin, user.id) == (user, "0")
        assert await one.batch_get(admin, user.id) == ([user], "0")
        assert statements == []

    async def test_says_its_age_rounded_up(self, one: Replica, admin: Caller, user: pb.User, clock: Clock) -> None:
        clock.seconds += 3.2
        assert await one.get(admin, user.id, "max-age=4") == (user, "4")
        assert (await one.get(admin, user.id, "max-age=3"))[1] is None

    async def test_is_never_older_than_half_a_minute(
        self, one: Replica, admin: Caller, user: pb.User, clock: Clock
    ) -> None:
        clock.seconds += MAX_AGE_SECONDS
        assert (await one.get(admin, user.id, "max-age=999999999"))[1] == "30"
        clock.seconds += 0.001
        assert (await one.get(admin, user.id, "max-age=999999999"))[1] is None

    @pytest.mark.parametrize(
        "said",
        [
            *((), ("max-age=0",), ("no-cache",), ("max-age",), ("max-age=",), ("max-age=-1",), ("max-age=x",), ("",)),
            *(("max-age=30, no-cache",), ("max-age=1e1",), (" max-age=30",), ("max-age=30", "max-age=30")),
            *(("max-age=1234567890",), ("MAX-AGE=30",), ("max-age=30;",)),
        ],
    )
    async def test_is_for_those_who_ask_for_one_clearly(
        self, one: Replica, admin: Caller, user: pb.User, statements: Statements, said: tuple[str, ...]
    ) -> None:
        call = one.users.GetUser(pb.GetUserRequest(id=user.id), metadata=accepting(admin, *said))
        assert (await call, await age_of(call), len(statements)) == (user, None, 1)

    async def test_has_its_etag_and_its_age_before_the_body_over_rest(
        self, one: Replica, admin: Caller, user: pb.User
    ) -> None:
        rest = (*accepting(admin, "max-age=5"), ("x-envoy-original-path", "/v1/users/x"))
        call = one.users.GetUser(pb.GetUserRequest(id=user.id), metadata=rest)
        headers = dict(cast(Any, await call.initial_metadata()))
        assert (headers["etag"], headers["age"]) == (user.etag, "0")
        same = one.users.GetUser(pb.GetUserRequest(id=user.id), metadata=(*rest, ("if-none-match", user.etag)))
        headers = dict(cast(Any, await same.initial_metadata()))
        assert (headers[NOT_MODIFIED], headers["age"], await same) == ("true", "0", pb.User())

    async def test_of_a_missing_user_there_is_none(self, one: Replica, admin: Caller, user: pb.User) -> None:
        missing = user.id[:-4] + "ffff"
        for _ in range(2):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await one.get(admin, missing)

    async def test_is_not_given_for_a_request_that_admission_has_let_go_of(self, one: Replica, admin: Caller) -> None:
        """Two requests so large that their bytes are gone must not be taken for one."""
        batch: Any = one.channel.unary_unary(f"/{CONTRACT.full_name}/BatchGetUsers")
        unknown = b"\xfa\x7f" + bytes([0x80, 0x80, 0x08]) + b"x" * 2**17
        for _ in range(2):
            made = await create_user(one.users, admin)
            request = pb.BatchGetUsersRequest(ids=[made.id]).SerializeToString() + unknown
            answer = await batch(request, metadata=accepting(admin, "max-age=30"))
            assert [found.id for found in pb.BatchGetUsersResponse.FromString(answer).users] == [made.id]

    async def test_does_not_hide_a_condition_that_the_method_does_not_take(
        self, one: Replica, admin: Caller, user: pb.User
    ) -> None:
        metadata = (*accepting(admin, "max-age=30"), ("if-match", user.etag))
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST"):
            await one.users.GetUser(pb.GetUserRequest(id=user.id), metadata=metadata)

    async def test_is_only_of_methods_that_say_so(self, one: Replica, admin: Caller, statements: Statements) -> None:
        me = await create_user(one.users, admin)
        caller = replace(admin, subject=me.id)
        for _ in range(2):
            call = one.users.ListUsers(pb.ListUsersRequest(), metadata=accepting(caller, "max-age=30"))
            assert (len((await call).users), await age_of(call)) == (1, None)

    async def test_is_not_kept_where_there_is_no_room(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        async with replica(users_database, identity, cache=CacheSettings(bytes=0)) as process:
            made = await create_user(process.users, admin)
            for _ in range(2):
                assert await process.get(admin, made.id) == (made, None)


class TestTheWalls:
    async def test_another_tenant_finds_nothing(
        self, one: Replica, admin: Caller, stranger: Caller, user: pb.User
    ) -> None:
        assert (await one.get(admin, user.id))[1] is not None
        for _ in range(2):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await one.get(stranger, user.id)
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await one.batch_get(stranger, user.id)
        await delete(one.users, admin, user)
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await one.get(stranger, user.id)
        assert (await one.get(admin, user.id))[0].HasField("delete_time")

    async def test_a_caller_without_the_role_is_refused(
        self, one: Replica, admin: Caller, nobody: Caller, user: pb.User
    ) -> None:
        assert (await one.get(admin, user.id))[1] is not None
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await one.get(nobody, user.id)
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await one.get(replace(admin, token=admin.token[:-8] + "AAAAAAAA"), user.id)


class TestAChange:
    @pytest.mark.parametrize("change", [rename, rename_all, suspend, delete])
    async def test_of_this_process_counts_at_once(
        self, one: Replica, admin: Caller, user: pb.User, change: Callable[..., Any]
    ) -> None:
        assert (await one.get(admin, user.id))[1] is not None
        await change(one.users, admin, user)
        after, age = await one.get(admin, user.id)
        assert (after.etag, age) == ('"2"', None)
        assert [found.etag for found in (await one.batch_get(admin, user.id))[0]] == ['"2"']

    async def test_of_another_process_is_seen_when_the_age_is_over(
        self, one: Replica, other: Replica, admin: Caller, user: pb.User, clock: Clock
    ) -> None:
        await delete(other.users, admin, user)
        clock.seconds += 5
        assert await one.get(admin, user.id, "max-age=5") == (user, "5")
        after, age = await one.get(admin, user.id, "max-age=4")
        assert (after.HasField("delete_time"), age) == (True, None)

    async def test_of_another_process_is_told_by_the_feed(
        self, users_database: TestDatabase, identity: Identity, clock: Clock, admin: Caller
    ) -> None:
        """The clock stands still, so nothing else ends the answer."""
        async with replica(users_database, identity) as one:
            made = await create_user(one.users, admin)
            await one.get(admin, made.id)
            elsewhere = await asyncpg.connect(users_database.admin_url)
            try:
                async with asyncio.timeout(60):
                    while (await one.get(admin, made.id))[0].display_name == made.display_name:
                        # Again, because the feed tells nothing of what was before it began.
                        await elsewhere.execute("UPDATE users SET display_name = 'Other' WHERE id = $1", made.id)
                        await asyncio.sleep(0.01)
            finally:
                await elsewhere.close()

    async def test_during_a_read_keeps_the_answer_out(
        self, users_database: TestDatabase, identity: Identity, clock: Clock, admin: Caller
    ) -> None:
        has_read, may_go_on = asyncio.Event(), asyncio.Event()

        class Slow(Users):
            async def GetUser(self, request: pb.GetUserRequest, ctx: RequestContext) -> pb.User:
                found = await super().GetUser(request, ctx)
                has_read.set()
                await may_go_on.wait()
                return found

        slow = replace(SERVICE, servicers={CONTRACT: Slow.build})
        async with running_service(slow, settings_for(users_database, identity)) as service:
            process = Replica(UserServiceStub(service.channel), service.channel)
            made = await create_user(process.users, admin)
            read = asyncio.create_task(process.get(admin, made.id))
            await has_read.wait()
            await rename(process.users, admin, made)
            may_go_on.set()
            assert (await read)[0].etag == '"1"'
            after, age = await process.get(admin, made.id)
            assert (after.etag, age) == ('"2"', None)


@pytest.mark.parametrize("seed", range(4))
async def test_no_answer_is_older_than_asked(
    one: Replica, other: Replica, admin: Caller, clock: Clock, seed: int
) -> None:
    """Two replicas that hear nothing of each other: whatever is written and read, only the clock guards the bound."""
    chance = random.Random(seed)
    made = [await create_user(one.users, admin) for _ in range(2)]
    written = {user.id: [clock.seconds] for user in made}
    """When each version was written; the first one is the user's creation."""
    kept = behind = 0
    for _ in range(250):
        clock.seconds += chance.choice([0, 0, 0.25, 0.5, 1, 3, 8])
        process, user = chance.choice([one, other]), chance.choice(made)
        if chance.random() < 0.2:
            await rename(process.users, admin, pb.User.FromString(user.SerializeToString()))
            written[user.id].append(clock.seconds)
            continue
        limit = chance.choice([0, 1, 2, 5, 10, 30, 60])
        asked = [user.id] if chance.random() < 0.5 else [one.id for one in made]
        if len(asked) == 1:
            found, age = await process.get(admin, user.id, f"max-age={limit}")
            answer = [found]
        else:
            answer, age = await process.batch_get(admin, *asked)
            limit = 30
        kept += age is not None
        for one_found in answer:
            times, version = written[one_found.id], int(one_found.etag.strip('"'))
            # Of all versions that were there `limit` seconds ago, the newest is the oldest that may be told.
            oldest = sum(time < clock.seconds - min(limit, 30) for time in times)
            assert version >= max(1, oldest), f"{clock.seconds}: max-age={limit} got version {version} of {times}"
            assert age is not None or version == len(times)
            assert age is None or float(age) <= min(limit, 30)
            behind += version < len(times)
    assert kept > 20 and behind > 5, "the run never came near the bound"
