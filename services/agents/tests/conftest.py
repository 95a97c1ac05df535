"""The agents service in this process, over a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agents_service.service import SERVICE
from ameide.agent.v1.agent_pb2_grpc import AgentServiceStub
from api_common.authz import Directory
from api_common.testing import (
    CallingProcess,
    Identity,
    NoStoredUsers,
    TestDatabase,
    TestService,
    create_database,
    guarded_service,
    running_service,
    settings_for,
    tls_of,
)

from services.users.tests.conftest import certificates
from tools.topology import NAMED

__all__ = ["certificates"]

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub


@pytest.fixture(scope="session")
def agents_database(postgres_url: str) -> TestDatabase:
    return create_database(postgres_url, "agents", SERVICE.migrations)


@pytest.fixture(scope="session")
async def agents_service(agents_database: TestDatabase, identity: Identity) -> AsyncIterator[TestService]:
    async with running_service(SERVICE, settings_for(agents_database, identity)) as service:
        yield service


@pytest.fixture(scope="session")
def agents(agents_service: TestService) -> AgentServiceAsyncStub:
    return AgentServiceStub(agents_service.channel)


@pytest.fixture(scope="session")
async def process(
    agents_database: TestDatabase, identity: Identity, certificates: Path
) -> AsyncIterator[Callable[[str], CallingProcess]]:
    """Any process of the mesh, by its name, that calls another process of this service over mutual TLS."""
    settings = settings_for(
        agents_database, identity, tls=tls_of(certificates, "agents"), internal_callers=NAMED["agents"].callers
    )
    async with guarded_service(SERVICE, settings, directory=Directory(NoStoredUsers())) as address:
        yield lambda name: CallingProcess(certificates, name, service="agents", address=address)
