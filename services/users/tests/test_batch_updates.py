"""Updating many users in one call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import NEVER, Caller, Statements, TestDatabase, refused
from google.protobuf.field_mask_pb2 import FieldMask

from services.users.tests.factories import a_user, create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub
from services.users.tests.test_batches import a_change, blocking, create, stored

S = grpc.StatusCode


class TestBatchUpdateUsers:
    async def test_is_as_many_single_updates_each_with_a_mask_of_its_own(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        like: dict[str, Any] = {"labels": {"a": "1"}, "roles": ["viewer"], "display_name": "Old"}
        several = [await create_user(users, admin, **like) for _ in range(10)]
        masks = [[], ["roles"], ["labels", "display_name"], ["*"], ["etag", "state"]]
        change: dict[str, Any] = {"roles": ["editor"], "display_name": "New"}

        def changed(user: pb.User) -> pb.User:
            return pb.User(id=user.id, email=f"New.{user.email}", state=pb.User.SUSPENDED, **change)

        request = a_change(*map(changed, several[5:][::-1]), masks=masks)
        batch = list((await users.BatchUpdateUsers(request, metadata=admin.metadata)).users)
        singles = []
        for user, paths in zip(several[:5], masks, strict=True):
            single = pb.UpdateUserRequest(user=changed(user), update_mask=FieldMask(paths=paths))
            singles.append(await users.UpdateUser(single, metadata=admin.metadata))
        assert [user.id for user in batch] == [user.id for user in several[5:][::-1]]
        for one, other, before in zip(batch, singles, several[5:][::-1], strict=True):
            shown = [(u.display_name, dict(u.labels), list(u.roles), u.state, u.etag) for u in (one, other)]
            assert shown[0] == shown[1]
            assert (one.email != before.email) == (other.email.startswith("New"))
            # Nothing was written: the version stays.
            assert (one.update_time == before.update_time) == (one.etag == before.etag)
        assert {user.id: user for user in await stored(users, admin)} == {u.id: u for u in (*batch, *singles)}

    async def test_names_the_item_and_changes_nothing(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        first, second, other = [await create_user(users, admin) for _ in range(3)]
        good = pb.User(id=first.id, display_name="New")

        def bad(**fields: Any) -> pb.User:
            return pb.User(**{"id": second.id, "display_name": "New", **fields})

        cases = (
            (a_change(good, bad(etag='"9"')), S.ABORTED, "ETAG_MISMATCH", "requests[1]"),
            (a_change(good, bad(id=NEVER)), S.NOT_FOUND, "RESOURCE_NOT_FOUND", "requests[1]"),
            (a_change(good, bad(id=first.id.upper())), S.INVALID_ARGUMENT, "INVALID_REQUEST", "requests[1]"),
            (a_change(good, bad(email=other.email.upper())), S.ALREADY_EXISTS, "EMAIL_TAKEN", "requests[1]"),
            (a_change(good, bad(email=first.email)), S.ALREADY_EXISTS, "EMAIL_TAKEN", "requests[1]"),
            (a_change(good, bad(), masks=[[], ["password"]]), S.INVALID_ARGUMENT, "INVALID_UPDATE_MASK", "update_mask"),
            (a_change(good, bad(email="x")), S.INVALID_ARGUMENT, "INVALID_REQUEST", "user.email"),
            (a_change(good, bad(), masks=[[], ["email"]]), S.INVALID_ARGUMENT, "INVALID_REQUEST", "user.email"),
            (a_change(good, bad(id="")), S.INVALID_ARGUMENT, "INVALID_REQUEST", "user.id"),
        )
        before = await stored(users, admin)
        for request, code, reason, field in cases:
            with refused(code, reason) as refusal:
                await users.BatchUpdateUsers(request, metadata=admin.metadata)
            assert set(refusal.violations) == {field if field == "requests[1]" else f"requests[1].{field}"}, reason
        assert await stored(users, admin) == before

    async def test_names_the_second_of_two_that_take_one_email(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        first, second = await create_user(users, admin), await create_user(users, admin)
        both = [pb.User(id=first.id, email="x@example.com"), pb.User(id=second.id, email="X@example.com")]
        with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN") as refusal:
            await users.BatchUpdateUsers(a_change(*both), metadata=admin.metadata)
        assert set(refusal.violations) == {"requests[1]"}

    async def test_may_write_the_email_that_a_user_has(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        several = [await create_user(users, admin) for _ in range(2)]
        request = a_change(*(pb.User(id=one.id, email=one.email.upper(), etag=one.etag) for one in several))
        batch = (await users.BatchUpdateUsers(request, metadata=admin.metadata)).users
        assert [user.email for user in batch] == [user.email.upper() for user in several]

    async def test_finds_no_deleted_users(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await users.BatchUpdateUsers(a_change(pb.User(id=user.id, display_name="x")), metadata=admin.metadata)

    async def test_never_wait_for_each_other_in_a_circle(
        self,
        users: UserServiceAsyncStub,
        replica: UserServiceAsyncStub,
        users_database: TestDatabase,
        admin: Caller,
        statements: Statements,
    ) -> None:
        emails = [f"{name}@example.com" for name in ("first", "middle", "last")]
        several = await create(users, admin, *(a_user() for _ in range(6)))
        async with blocking(users_database, admin, emails[1]) as waiting:
            orders = zip((several[:3], several[3:]), (emails, emails[::-1]), strict=True)
            changes = [
                a_change(*(pb.User(id=user.id, email=email) for user, email in zip(*order, strict=True)))
                for order in orders
            ]
            # A replica works on one batch of a tenant at a time.
            calls = [
                asyncio.ensure_future(one.BatchUpdateUsers(change, metadata=admin.metadata))
                for one, change in zip((users, replica), changes, strict=True)
            ]
            await waiting(len(calls))
        results = await asyncio.gather(*calls, return_exceptions=True)
        codes = [result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert codes == [S.ALREADY_EXISTS]
        # Whatever way Postgres takes to the rows.
        assert sum(sql.endswith("ORDER BY users.id FOR UPDATE") for sql in statements) == 2

    async def test_that_loses_a_race_for_an_email_is_told_to_try_again(
        self, users: UserServiceAsyncStub, users_database: TestDatabase, admin: Caller
    ) -> None:
        user = await create_user(users, admin)
        change = a_change(pb.User(id=user.id, email="race@example.com"))
        async with blocking(users_database, admin, "race@example.com", ending="COMMIT") as waiting:
            call = asyncio.ensure_future(users.BatchUpdateUsers(change, metadata=admin.metadata))
            await waiting(1)
        with refused(S.ABORTED, "CONCURRENT_UPDATE"):
            await call
        with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN") as refusal:
            await users.BatchUpdateUsers(change, metadata=admin.metadata)
        assert set(refusal.violations) == {"requests[0]"}

    async def test_lets_one_of_twenty_with_the_same_etags_win(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        several = await create(users, admin, a_user(), a_user())
        changes = [
            a_change(
                *(pb.User(id=one.id, etag=one.etag, display_name=f"W{turn}") for one in several[:: 1 - turn % 2 * 2])
            )
            for turn in range(20)
        ]
        calls = [users.BatchUpdateUsers(change, metadata=admin.metadata) for change in changes]
        results = await asyncio.gather(*calls, return_exceptions=True)
        codes = [result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert codes == [S.ABORTED] * 19
        after = await stored(users, admin)
        assert len({user.display_name for user in after}) == 1
        assert {user.etag for user in after} == {'"2"'}
