"""Fixtures: the agents service in this process, over a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from agents_service.service import SERVICE
from ameide.agent.v1.agent_pb2_grpc import AgentServiceStub
from api_common.testing import (
    Identity,
    TestDatabase,
    TestService,
    create_database,
    running_service,
    settings_for,
)

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
