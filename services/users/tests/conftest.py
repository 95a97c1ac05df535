"""The users service in this process, over a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceStub
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.testing.database import TestDatabase, create_database
from api_common.testing.identity import Identity
from api_common.testing.service import TestService, running_service, settings_for
from users_service.service import SERVICE

if TYPE_CHECKING:
    from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub


@pytest.fixture(scope="session")
def users_database(postgres_url: str) -> TestDatabase:
    return create_database(postgres_url, "users", SERVICE.migrations)


@pytest.fixture(scope="session")
async def users_service(users_database: TestDatabase, identity: Identity) -> AsyncIterator[TestService]:
    async with running_service(SERVICE, settings_for(users_database, identity)) as service:
        yield service


@pytest.fixture(scope="session")
def users(users_service: TestService) -> UserServiceAsyncStub:
    return UserServiceStub(users_service.channel)


@pytest.fixture(scope="session")
def accounts(users_service: TestService) -> ServiceAccountServiceAsyncStub:
    return ServiceAccountServiceStub(users_service.channel)
