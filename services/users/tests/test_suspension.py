"""Suspending and activating a user through a real stub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import Caller, Identity, refused

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


class TestActivateUser:
    async def test_activates_a_suspended_user_only(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
        active = await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        assert active.state == pb.User.ACTIVE
