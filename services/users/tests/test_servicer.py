"""The promises of UserService, one class per RPC."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import NEVER, Caller, Identity, refused
from google.protobuf.field_mask_pb2 import FieldMask

from services.users.tests.factories import create_user
from tests.paging import all_pages

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode


class TestCreateUser:
    async def test_an_email_is_taken_within_its_tenant_only(
        self, users: UserServiceAsyncStub, admin: Caller, stranger: Caller
    ) -> None:
        for caller in (admin, stranger):
            user = await create_user(users, caller, email="same@example.com")
            assert user.tenant_id == caller.tenant_id

    async def test_needs_the_permission(self, users: UserServiceAsyncStub, identity: Identity, tenant_id: str) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED") as refusal:
            await create_user(users, identity.caller(tenant_id, "viewer", "editor", "operator"))
        assert refusal.metadata == {"permission": "users.write"}

    async def test_returns_what_was_stored(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        created = await create_user(
            users, admin, email="Grace@Example.com", display_name="Grace", roles=["editor"], labels={"team": "navy"}
        )
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", created.id)
        assert (created.tenant_id, created.created_by) == (admin.tenant_id, admin.subject)
        assert (created.email, created.display_name, list(created.roles)) == ("Grace@Example.com", "Grace", ["editor"])
        assert dict(created.labels) == {"team": "navy"}
        assert created.state == pb.User.ACTIVE
        assert created.create_time == created.update_time
        assert not created.HasField("delete_time")
        assert re.fullmatch(r'"[^"]+"', created.etag)
        assert await users.GetUser(pb.GetUserRequest(id=created.id), metadata=admin.metadata) == created

    async def test_refuses_an_email_that_differs_in_case_only(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        await create_user(users, admin, email="ada@example.com")
        with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN"):
            await create_user(users, admin, email="ADA@Example.COM")

    async def test_lets_one_of_many_parallel_creations_have_the_email(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        attempts = [create_user(users, admin, email="race@example.com") for _ in range(20)]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(result, pb.User) for result in results) == 1

    async def test_frees_the_email_of_a_deleted_user(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        first = await create_user(users, admin, email="free@example.com")
        await users.DeleteUser(pb.DeleteUserRequest(id=first.id), metadata=admin.metadata)
        assert (await create_user(users, admin, email="free@example.com")).id != first.id

    async def test_names_every_malformed_field(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_user(users, admin, email="nobody", display_name="", roles=["root"], labels={"BAD KEY": "x"})
        assert refusal.reasons == {
            "user.email": "INVALID_FORMAT",
            "user.display_name": "REQUIRED",
            "user.roles[0]": "INVALID_VALUE",
            "user.labels[BAD KEY]": "INVALID_FORMAT",
        }

    async def test_names_fields_as_its_caller_knows_them(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = pb.User(email="ada@example.com", display_name="x" * 201, labels={"a_B": "x"})
        from_rest = (("x-envoy-original-path", "/v1/users"),)
        for metadata, field in (((), "user.display_name"), (from_rest, "user.displayName")):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await users.CreateUser(pb.CreateUserRequest(user=user), metadata=(*admin.metadata, *metadata))
            assert refusal.reasons == {field: "TOO_LONG", "user.labels[a_B]": "INVALID_FORMAT"}

    async def test_ignores_output_only_fields(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(
            users, admin, id=NEVER, tenant_id="other", state=pb.User.SUSPENDED, created_by="eve", etag='"7"'
        )
        assert user.id != NEVER
        assert (user.tenant_id, user.state, user.created_by) == (admin.tenant_id, pb.User.ACTIVE, admin.subject)

    @pytest.mark.parametrize("field", ["display_name", "email"])
    async def test_refuses_nul_characters(self, users: UserServiceAsyncStub, admin: Caller, field: str) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_user(users, admin, **{field: "a\0b@example.com"})
        assert f"user.{field}" in refusal.violations


class TestGetUser:
    async def test_needs_a_role(self, users: UserServiceAsyncStub, nobody: Caller) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.GetUser(pb.GetUserRequest(id=NEVER), metadata=nobody.metadata)

    async def test_refuses_a_malformed_id(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        for bad in ("", "1", "../x", NEVER + "x", "a\0"):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await users.GetUser(pb.GetUserRequest(id=bad), metadata=admin.metadata)
            assert set(refusal.violations) == {"id"}

    async def test_returns_a_deleted_user_with_its_delete_time(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        user = await create_user(users, admin)
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        found = await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata)
        assert found.HasField("delete_time")


class TestGetMe:
    async def test_finds_the_caller_by_id_or_by_email(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity, tenant_id: str
    ) -> None:
        by_email = await create_user(users, admin, email="me@example.com")
        by_id = await create_user(users, admin, roles=["viewer"])
        for subject, expected in (("ada", by_email), (by_id.id, by_id), (by_id.id.upper(), by_id)):
            caller = identity.caller(tenant_id, "viewer", subject=subject, email="ME@example.com")
            assert await users.GetMe(pb.GetMeRequest(), metadata=caller.metadata) == expected


class TestListUsers:
    async def test_walks_every_user_once_newest_first(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        created = [(await create_user(users, admin)).id for _ in range(7)]
        pages = await all_pages(
            lambda token: users.ListUsers(pb.ListUsersRequest(page_size=3, page_token=token), metadata=admin.metadata)
        )
        seen = [user.id for page in pages for user in page.users]
        assert seen == created[::-1]

    async def test_filters_and_orders(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        await create_user(users, admin, display_name="Zoe", labels={"team": "a"}, roles=["editor"])
        await create_user(users, admin, display_name="Amy", labels={"team": "a"})
        await create_user(users, admin, display_name="Bob", labels={"team": "b"})
        for text, names in {
            'labels.team = "a"': ["Amy", "Zoe"],
            "roles:editor": ["Zoe"],
            'state = ACTIVE AND NOT display_name = "Bob"': ["Amy", "Zoe"],
            'display_name:"o"': ["Bob", "Zoe"],
        }.items():
            request = pb.ListUsersRequest(filter=text, order_by="display_name")
            page = await users.ListUsers(request, metadata=admin.metadata)
            assert [user.display_name for user in page.users] == names, text

    async def test_shows_deleted_users_on_demand(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        assert not (await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)).users
        page = await users.ListUsers(pb.ListUsersRequest(show_deleted=True), metadata=admin.metadata)
        assert [found.id for found in page.users] == [user.id]

    async def test_refuses_the_token_of_another_call(
        self, users: UserServiceAsyncStub, admin: Caller, stranger: Caller
    ) -> None:
        for _ in range(2):
            await create_user(users, admin)
        first = await users.ListUsers(pb.ListUsersRequest(page_size=1), metadata=admin.metadata)
        token = first.next_page_token
        for caller, request in (
            (stranger, pb.ListUsersRequest(page_size=1, page_token=token)),
            (admin, pb.ListUsersRequest(page_size=1, page_token=token, show_deleted=True)),
            (admin, pb.ListUsersRequest(page_size=1, page_token=token, order_by="display_name")),
            (admin, pb.ListUsersRequest(page_size=1, page_token=token, filter="state = ACTIVE")),
            (admin, pb.ListUsersRequest(page_size=1, page_token="x" + token)),
        ):
            with refused(S.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
                await users.ListUsers(request, metadata=caller.metadata)

    async def test_refuses_malformed_parameters(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        for request, reason in (
            (pb.ListUsersRequest(page_size=-1), "INVALID_REQUEST"),
            (pb.ListUsersRequest(filter="password = 1"), "INVALID_FILTER"),
            (pb.ListUsersRequest(order_by="password"), "INVALID_ORDER_BY"),
        ):
            with refused(S.INVALID_ARGUMENT, reason):
                await users.ListUsers(request, metadata=admin.metadata)


class TestUpdateUser:
    async def test_writes_the_populated_fields_without_a_mask(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin, labels={"a": "1"})
        change = pb.UpdateUserRequest(user=pb.User(id=user.id, display_name="New"))
        updated = await users.UpdateUser(change, metadata=admin.metadata)
        assert (updated.display_name, updated.email, dict(updated.labels)) == ("New", user.email, {"a": "1"})
        assert updated.etag != user.etag
        assert updated.update_time.ToNanoseconds() > user.update_time.ToNanoseconds()

    async def test_clears_a_field_that_is_named_and_absent(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin, labels={"a": "1"}, roles=["editor"])
        change = pb.UpdateUserRequest(user=pb.User(id=user.id), update_mask=FieldMask(paths=["labels"]))
        updated = await users.UpdateUser(change, metadata=admin.metadata)
        assert (dict(updated.labels), list(updated.roles)) == ({}, ["editor"])

    async def test_replaces_everything_with_a_star(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin, labels={"a": "1"}, roles=["editor"])
        change = pb.User(id=user.id, display_name="Only", email=user.email)
        request = pb.UpdateUserRequest(user=change, update_mask=FieldMask(paths=["*"]))
        updated = await users.UpdateUser(request, metadata=admin.metadata)
        assert (updated.display_name, dict(updated.labels), list(updated.roles)) == ("Only", {}, [])

    async def test_never_writes_output_only_fields(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        forged = pb.User(id=user.id, display_name="New", tenant_id="other", created_by="eve", state=pb.User.SUSPENDED)
        for mask in (None, FieldMask(paths=["tenant_id", "state", "created_by", "display_name"])):
            updated = await users.UpdateUser(
                pb.UpdateUserRequest(user=forged, update_mask=mask), metadata=admin.metadata
            )
            assert (updated.tenant_id, updated.created_by, updated.state) == (
                user.tenant_id,
                user.created_by,
                pb.User.ACTIVE,
            )

    async def test_refuses_masks_that_name_nothing(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        for path in ("password", "labels.a", "user.email", ""):
            request = pb.UpdateUserRequest(user=pb.User(id=user.id), update_mask=FieldMask(paths=[path]))
            with refused(S.INVALID_ARGUMENT, "INVALID_UPDATE_MASK"):
                await users.UpdateUser(request, metadata=admin.metadata)

    async def test_refuses_to_clear_a_required_field(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        request = pb.UpdateUserRequest(user=pb.User(id=user.id), update_mask=FieldMask(paths=["email"]))
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await users.UpdateUser(request, metadata=admin.metadata)
        assert set(refusal.violations) == {"user.email"}

    async def test_lets_one_of_fifty_writers_with_the_same_etag_win(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        user = await create_user(users, admin)
        changes = [pb.User(id=user.id, display_name=f"W{index}", etag=user.etag) for index in range(50)]
        calls = [users.UpdateUser(pb.UpdateUserRequest(user=one), metadata=admin.metadata) for one in changes]
        results = await asyncio.gather(*calls, return_exceptions=True)
        codes = [result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert codes == [S.ABORTED] * 49

    async def test_says_why_an_old_etag_is_refused(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        for etag in ('"99"', "1", 'W/"1"', '"x"'):
            request = pb.UpdateUserRequest(user=pb.User(id=user.id, display_name="New", etag=etag))
            with refused(S.ABORTED, "ETAG_MISMATCH"):
                await users.UpdateUser(request, metadata=admin.metadata)

    async def test_refuses_the_email_of_another_user(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        first, second = await create_user(users, admin), await create_user(users, admin)
        request = pb.UpdateUserRequest(user=pb.User(id=second.id, email=first.email.upper()))
        with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN"):
            await users.UpdateUser(request, metadata=admin.metadata)


class TestDeleteUser:
    async def test_is_not_found_the_second_time(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        for call in (
            users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata),
            users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata),
            users.UpdateUser(pb.UpdateUserRequest(user=pb.User(id=user.id, display_name="x")), metadata=admin.metadata),
        ):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await call

    async def test_keeps_a_user_that_has_changed(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await users.DeleteUser(pb.DeleteUserRequest(id=user.id, etag='"9"'), metadata=admin.metadata)
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id, etag=user.etag), metadata=admin.metadata)


class TestUndeleteUser:
    async def test_restores_a_deleted_user(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin, labels={"a": "1"})
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        restored = await users.UndeleteUser(pb.UndeleteUserRequest(id=user.id), metadata=admin.metadata)
        assert not restored.HasField("delete_time")
        assert (restored.email, dict(restored.labels)) == (user.email, {"a": "1"})

    async def test_refuses_a_live_user(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        with refused(S.ALREADY_EXISTS, "NOT_DELETED"):
            await users.UndeleteUser(pb.UndeleteUserRequest(id=user.id), metadata=admin.metadata)

    async def test_refuses_while_another_live_user_has_the_email(
        self, users: UserServiceAsyncStub, admin: Caller
    ) -> None:
        user = await create_user(users, admin)
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        await create_user(users, admin, email=user.email)
        with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN"):
            await users.UndeleteUser(pb.UndeleteUserRequest(id=user.id), metadata=admin.metadata)


class TestGetUserQuotas:
    async def test_counts_what_the_tenant_has(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        await create_user(users, admin)
        answer = await users.GetUserQuotas(pb.GetUserQuotasRequest(), metadata=admin.metadata)
        assert [(quota.collection, quota.used) for quota in answer.quotas] == [
            ("users", 1),
            ("service_accounts", 0),
            ("api_keys", 0),
        ]
