"""The promises of UserService's batches: all or nothing, in order, and the failing item by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import NEVER, Caller, Identity, Statements, TestDatabase, refused
from google.protobuf.field_mask_pb2 import FieldMask

from services.users.tests.factories import a_user, create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def a_creation(*users: pb.User) -> pb.BatchCreateUsersRequest:
    return pb.BatchCreateUsersRequest(requests=[pb.CreateUserRequest(user=user) for user in users])


def a_change(*users: pb.User, masks: Sequence[Sequence[str]] = ()) -> pb.BatchUpdateUsersRequest:
    """Returns the changes of ``users``; ``masks`` go with them from the first one on."""
    wholes = [pb.UpdateUserRequest(user=user) for user in users]
    for request, paths in zip(wholes, masks, strict=False):
        request.update_mask.CopyFrom(FieldMask(paths=paths))
    return pb.BatchUpdateUsersRequest(requests=wholes)


def a_deletion(*users: pb.User) -> pb.BatchDeleteUsersRequest:
    return pb.BatchDeleteUsersRequest(requests=[pb.DeleteUserRequest(id=user.id) for user in users])


async def create(users: UserServiceAsyncStub, caller: Caller, *wanted: pb.User) -> list[pb.User]:
    return list((await users.BatchCreateUsers(a_creation(*wanted), metadata=caller.metadata)).users)


async def stored(users: UserServiceAsyncStub, caller: Caller) -> list[pb.User]:
    """Returns all users of the tenant, oldest first."""
    request = pb.ListUsersRequest(page_size=1000, show_deleted=True)
    return list((await users.ListUsers(request, metadata=caller.metadata)).users)[::-1]


@asynccontextmanager
async def blocking(
    database: TestDatabase, caller: Caller, email: str, *, ending: str = "ROLLBACK"
) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Holds an e-mail of the caller's tenant until the block ends; yields what waits until so many others wait."""
    connection = await asyncpg.connect(database.admin_url)
    try:
        await connection.execute("BEGIN")
        await connection.execute(
            "INSERT INTO users (tenant_id, id, display_name, state, email, created_by) VALUES ($1, $2, '', '', $3, '')",
            caller.tenant_id,
            str(uuid_utils.uuid7()),
            email,
        )

        async def waiting(count: int) -> None:
            async with asyncio.timeout(10):
                while await connection.fetchval(_WAITING) < count:
                    await asyncio.sleep(0.01)
                    # Within a transaction the server answers what it answered before.
                    await connection.execute("SELECT pg_stat_clear_snapshot()")

        yield waiting
        await connection.execute(ending)
    finally:
        await connection.close()


class TestBatchGetUsers:
    async def test_answers_in_the_order_of_the_ids_as_get_does(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        first, second, third = [await create_user(users, admin) for _ in range(3)]
        await users.DeleteUser(pb.DeleteUserRequest(id=second.id), metadata=admin.metadata)
        ids = [third.id.upper(), first.id, second.id]
        answer = await users.BatchGetUsers(pb.BatchGetUsersRequest(ids=ids), metadata=admin.metadata)
        singles = [await users.GetUser(pb.GetUserRequest(id=id), metadata=admin.metadata) for id in ids]
        assert list(answer.users) == singles
        assert answer.users[2].HasField("delete_time")

    async def test_names_every_id_that_is_missing(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        ids = [NEVER, user.id, NEVER.replace("7000", "7001")]
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND") as refusal:
            await users.BatchGetUsers(pb.BatchGetUsersRequest(ids=ids), metadata=admin.metadata)
        assert refusal.reasons == {"ids[0]": "NOT_FOUND", "ids[2]": "NOT_FOUND"}
        assert refusal.metadata == {"item": "ids[0]"}

    async def test_refuses_the_same_id_twice_none_and_too_many(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        many = [NEVER[:-3] + f"{number:03}" for number in range(101)]
        for ids, violations in (
            ([], {"ids": "REQUIRED"}),
            (many, {"ids": "TOO_LONG"}),
            (["x", NEVER], {"ids[0]": "INVALID_FORMAT"}),
            ([many[1], "0190000a" + NEVER[8:], many[2], "0190000A" + NEVER[8:]], {"ids[3]": "DUPLICATE"}),
        ):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await users.BatchGetUsers(pb.BatchGetUsersRequest(ids=ids), metadata=admin.metadata)
            assert refusal.reasons == violations


class TestBatchCreateUsers:
    async def test_is_as_many_single_creations(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        wanted = [
            a_user(display_name="Gräfin 😀", email="Ada@Example.com", roles=["editor", "viewer"]),
            a_user(labels={"team": 'a "b" \\', "x": ""}),
            a_user(id=NEVER, tenant_id="other", state=pb.User.SUSPENDED, created_by="eve", etag='"7"'),
        ]
        batch = await create(users, admin, *wanted)
        assert batch == await stored(users, admin)
        for user, like in zip(batch, wanted, strict=True):
            assert (user.display_name, user.email, list(user.roles)) == (
                like.display_name,
                like.email,
                list(like.roles),
            )
            assert dict(user.labels) == dict(like.labels)
            assert (user.tenant_id, user.created_by, user.state) == (admin.tenant_id, admin.subject, pb.User.ACTIVE)
            assert (user.etag, user.update_time, user.HasField("delete_time")) == ('"1"', user.create_time, False)
        assert len({user.id for user in batch} - {NEVER}) == 3

    async def test_names_every_malformed_field(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        items = (a_user(), a_user(email="nobody", display_name=""), pb.User(email="a@example.com", roles=["root"]))
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create(users, admin, *items)
        assert set(refusal.violations) == {
            "requests[1].user.email",
            "requests[1].user.display_name",
            "requests[2].user.display_name",
            "requests[2].user.roles[0]",
        }
        assert await stored(users, admin) == []

    async def test_names_the_item_whose_email_is_taken(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        taken = await create_user(users, admin, email="ada@example.com")
        for items in (
            (a_user(), a_user(email="ADA@example.com"), a_user(email="ada@example.com")),
            (a_user(email="bob@example.com"), a_user(email="BOB@example.com")),
        ):
            with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN") as refusal:
                await create(users, admin, *items)
            assert set(refusal.violations) == {"requests[1]"}
            assert refusal.metadata == {"item": "requests[1]"}
        assert await stored(users, admin) == [taken]

    async def test_takes_1_to_100(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        for count in (0, 101):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await create(users, admin, *(a_user() for _ in range(count)))
            assert set(refusal.violations) == {"requests"}
        assert len(await create(users, admin, *(a_user() for _ in range(100)))) == 100

    async def test_is_one_effect_for_one_key(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        request = a_creation(a_user(), a_user())
        metadata = (*admin.metadata, ("idempotency-key", "once"))
        answers = [await users.BatchCreateUsers(request, metadata=metadata) for _ in range(2)]
        assert answers[0] == answers[1]
        assert await stored(users, admin) == list(answers[0].users)
        with refused(S.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            await users.BatchCreateUsers(a_creation(a_user()), metadata=metadata)

    async def test_never_wait_for_each_other_in_a_circle(
        self,
        users: UserServiceAsyncStub,
        replica: UserServiceAsyncStub,
        users_database: TestDatabase,
        admin: Caller,
    ) -> None:
        """Somebody else holds the e-mail in the middle until both are under way, from either end."""
        emails = [f"{name}@example.com" for name in ("first", "middle", "last")]
        async with blocking(users_database, admin, emails[1]) as waiting:
            batches = [[a_user(email=email) for email in order] for order in (emails, emails[::-1])]
            # A replica works on one batch of a tenant at a time.
            calls = [
                asyncio.ensure_future(create(one, admin, *batch))
                for one, batch in zip((users, replica), batches, strict=True)
            ]
            await waiting(len(calls))
        results = await asyncio.gather(*calls, return_exceptions=True)
        # Not ABORTED, which is how a deadlock ends.
        codes = [result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert codes == [S.ALREADY_EXISTS]
        assert {user.email for user in await stored(users, admin)} == set(emails)


class TestBatchDeleteUsers:
    async def test_is_as_many_single_deletions(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        first, second, third = [await create_user(users, admin) for _ in range(3)]
        single = await users.DeleteUser(pb.DeleteUserRequest(id=third.id), metadata=admin.metadata)
        answer = await users.BatchDeleteUsers(a_deletion(second, first), metadata=admin.metadata)
        assert [(user.id, user.etag) for user in answer.users] == [(second.id, single.etag), (first.id, single.etag)]
        assert all(user.delete_time == user.update_time for user in answer.users)
        assert await stored(users, admin) == [*list(answer.users)[::-1], single]

    async def test_names_the_item_and_deletes_nothing(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        first, second, gone = [await create_user(users, admin) for _ in range(3)]
        await users.DeleteUser(pb.DeleteUserRequest(id=gone.id), metadata=admin.metadata)
        stale = a_deletion(first, second)
        stale.requests[1].etag = '"9"'
        before = await stored(users, admin)
        for request, code, reason in (
            (stale, S.ABORTED, "ETAG_MISMATCH"),
            (a_deletion(first, gone), S.NOT_FOUND, "RESOURCE_NOT_FOUND"),
            (a_deletion(first, first), S.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ):
            with refused(code, reason) as refusal:
                await users.BatchDeleteUsers(request, metadata=admin.metadata)
            assert set(refusal.violations) == {"requests[1]"}
        assert await stored(users, admin) == before


class TestRoundTrips:
    @pytest.mark.parametrize("name", ["BatchGetUsers", "BatchCreateUsers", "BatchUpdateUsers", "BatchDeleteUsers"])
    async def test_are_as_many_for_100_users_as_for_2(
        self, users: UserServiceAsyncStub, admin: Caller, statements: Statements, name: str
    ) -> None:
        counts = []
        for count in (2, 100):
            several = await create(users, admin, *(a_user() for _ in range(count)))
            changed = (pb.User(id=one.id, email=f"x{one.email}", roles=["viewer"]) for one in several)
            requests = {
                "BatchGetUsers": pb.BatchGetUsersRequest(ids=[user.id for user in several]),
                "BatchCreateUsers": a_creation(*(a_user() for _ in range(count))),
                "BatchUpdateUsers": a_change(*changed, masks=[["email"]]),
                "BatchDeleteUsers": a_deletion(*several),
            }
            statements.clear()
            await getattr(users, name)(requests[name], metadata=admin.metadata)
            counts.append(len(statements))
        assert counts[0] == counts[1] <= 4


class TestPermission:
    async def test_is_that_of_the_single_method(
        self, users: UserServiceAsyncStub, identity: Identity, tenant_id: str
    ) -> None:
        viewer = identity.caller(tenant_id, "viewer")
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await users.BatchGetUsers(pb.BatchGetUsersRequest(ids=[NEVER]), metadata=viewer.metadata)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED") as refusal:
            await create(users, viewer, a_user())
        assert refusal.metadata == {"permission": "users.write"}
