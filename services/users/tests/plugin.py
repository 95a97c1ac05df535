"""Fixtures: the users service in this process, over a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceStub
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.testing import (
    Identity,
    TestDatabase,
    TestService,
    create_database,
    guarded_service,
    running_service,
    settings_for,
    tls_of,
)
from users_service.service import SERVICE

from tools.topology import NAMED

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
async def guarded_users(users_database: TestDatabase, identity: Identity, certificates: Path) -> AsyncIterator[str]:
    """The address of another process of the service, as siblings reach it: over mutual TLS."""
    settings = settings_for(
        users_database, identity, tls=tls_of(certificates, "users"), internal_callers=NAMED["users"].callers
    )
    async with guarded_service(SERVICE, settings) as address:
        yield address


@pytest.fixture(scope="session")
def users(users_service: TestService) -> UserServiceAsyncStub:
    return UserServiceStub(users_service.channel)


@pytest.fixture
async def replica(users_database: TestDatabase, identity: Identity) -> AsyncIterator[UserServiceAsyncStub]:
    """Another process of the service, for its database."""
    async with running_service(SERVICE, settings_for(users_database, identity)) as service:
        yield UserServiceStub(service.channel)


@pytest.fixture(scope="session")
def accounts(users_service: TestService) -> ServiceAccountServiceAsyncStub:
    return ServiceAccountServiceStub(users_service.channel)
