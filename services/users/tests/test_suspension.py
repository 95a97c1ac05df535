"""Suspending and activating a user through a real stub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import Caller, Identity, refused
from google.protobuf.field_mask_pb2 import FieldMask

from services.users.tests.factories import create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode


class TestSuspendUser:
    async def test_suspends_an_active_user_once(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        suspended = await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
        assert (suspended.state, suspended.etag != user.etag) == (pb.User.SUSPENDED, True)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
            await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
        assert refusal.metadata["state"] == "SUSPENDED"

    async def test_needs_an_administrator(self, users: UserServiceAsyncStub, identity: Identity, admin: Caller) -> None:
        user = await create_user(users, admin)
        editor = identity.caller(admin.tenant_id, "editor")
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=editor.metadata)


class TestAKeptAnswer:
    """A caller who accepts an age is checked as always: the roles and the state of a stored user count at once."""

    async def _kept(
        self, users: UserServiceAsyncStub, identity: Identity, admin: Caller
    ) -> tuple[pb.User, pb.User, tuple[tuple[str, str], ...]]:
        """Returns a stored user who reads, whom it has read, and the metadata of the call whose answer is kept."""
        reader, user = await create_user(users, admin, roles=["viewer"]), await create_user(users, admin)
        caller = identity.caller(admin.tenant_id, "viewer", subject=reader.id)
        metadata = (*caller.metadata, ("cache-control", "max-age=30"))
        assert await users.GetUser(pb.GetUserRequest(id=user.id), metadata=metadata) == user
        return reader, user, metadata

    async def test_is_refused_to_a_user_who_has_lost_the_role(
        self, users: UserServiceAsyncStub, identity: Identity, admin: Caller
    ) -> None:
        reader, user, metadata = await self._kept(users, identity, admin)
        change = pb.UpdateUserRequest(user=pb.User(id=reader.id), update_mask=FieldMask(paths=["roles"]))
        await users.UpdateUser(change, metadata=admin.metadata)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.GetUser(pb.GetUserRequest(id=user.id), metadata=metadata)

    async def test_is_refused_to_a_suspended_user(
        self, users: UserServiceAsyncStub, identity: Identity, admin: Caller
    ) -> None:
        reader, user, metadata = await self._kept(users, identity, admin)
        await users.SuspendUser(pb.SuspendUserRequest(id=reader.id), metadata=admin.metadata)
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await users.GetUser(pb.GetUserRequest(id=user.id), metadata=metadata)


class TestActivateUser:
    async def test_activates_a_suspended_user_only(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
        active = await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        assert active.state == pb.User.ACTIVE
