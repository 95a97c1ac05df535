"""The last admin of a tenant stays one: otherwise nobody could give roles any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import Caller, refused

from services.users.tests.factories import create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode


def demotion(id: str) -> pb.UpdateUserRequest:
    request = pb.UpdateUserRequest(user=pb.User(id=id, roles=["viewer"]))
    request.update_mask.paths.append("roles")
    return request


REQUESTS: Final[dict[str, Callable[[str], object]]] = {
    "SuspendUser": lambda id: pb.SuspendUserRequest(id=id),
    "DeleteUser": lambda id: pb.DeleteUserRequest(id=id),
    "BatchDeleteUsers": lambda id: pb.BatchDeleteUsersRequest(requests=[pb.DeleteUserRequest(id=id)]),
    "UpdateUser": demotion,
    "BatchUpdateUsers": lambda id: pb.BatchUpdateUsersRequest(requests=[demotion(id)]),
}
"""Whatever takes the power from a user."""


@pytest.mark.parametrize("method", REQUESTS)
async def test_the_last_admin_stays_one(users: UserServiceAsyncStub, admin: Caller, method: str) -> None:
    last = await create_user(users, admin, roles=["admin", "viewer"])
    with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
        await getattr(users, method)(REQUESTS[method](last.id), metadata=admin.metadata)
    assert await users.GetUser(pb.GetUserRequest(id=last.id), metadata=admin.metadata) == last
    await create_user(users, admin, roles=["admin"])
    await getattr(users, method)(REQUESTS[method](last.id), metadata=admin.metadata)


async def test_of_admins_who_suspend_each_other_at_once_one_stays(users: UserServiceAsyncStub, admin: Caller) -> None:
    both = [await create_user(users, admin, roles=["admin"]) for _ in range(2)]
    calls = (users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata) for user in both)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, pb.User) for answer in answers) == 1
