"""Users, service accounts and keys to test with."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from ameide.user.v1 import service_account_pb2 as account_pb
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import Caller

if TYPE_CHECKING:
    from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

_numbers = count(1)


def a_user(**fields: Any) -> pb.User:
    """Returns a user that may be created; ``fields`` replace its own."""
    number = next(_numbers)
    return pb.User(**{"display_name": f"User {number}", "email": f"user{number}@example.com", **fields})


async def create_user(users: UserServiceAsyncStub, caller: Caller, **fields: Any) -> pb.User:
    """Creates a user as ``caller``."""
    return await users.CreateUser(pb.CreateUserRequest(user=a_user(**fields)), metadata=caller.metadata)


def an_account(**fields: Any) -> account_pb.ServiceAccount:
    """Returns a service account that may be created; ``fields`` replace its own."""
    return account_pb.ServiceAccount(**{"display_name": f"Program {next(_numbers)}", "roles": ["viewer"], **fields})


async def create_account(
    accounts: ServiceAccountServiceAsyncStub, caller: Caller, **fields: Any
) -> account_pb.ServiceAccount:
    """Creates a service account as ``caller``."""
    request = account_pb.CreateServiceAccountRequest(service_account=an_account(**fields))
    return await accounts.CreateServiceAccount(request, metadata=caller.metadata)


async def create_key(
    accounts: ServiceAccountServiceAsyncStub, caller: Caller, account_id: str, **fields: Any
) -> account_pb.CreateApiKeyResponse:
    """Creates an API key as ``caller``."""
    key = account_pb.ApiKey(**{"display_name": "Key", **fields})
    request = account_pb.CreateApiKeyRequest(service_account_id=account_id, api_key=key)
    return await accounts.CreateApiKey(request, metadata=caller.metadata)
