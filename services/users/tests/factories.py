"""Users to test with."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from ameide.user.v1 import user_pb2 as pb
from api_common.testing.identity import Caller

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

_numbers = count(1)


def a_user(**fields: Any) -> pb.User:
    """Returns a user that may be created; ``fields`` replace its own."""
    number = next(_numbers)
    return pb.User(**{"display_name": f"User {number}", "email": f"user{number}@example.com", **fields})


async def create_user(users: UserServiceAsyncStub, caller: Caller, **fields: Any) -> pb.User:
    """Creates a user as ``caller``."""
    return await users.CreateUser(pb.CreateUserRequest(user=a_user(**fields)), metadata=caller.metadata)
