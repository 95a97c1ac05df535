"""Fixtures: the workflows service in this process, over a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceStub
from api_common.testing import (
    Identity,
    TestDatabase,
    TestService,
    create_database,
    running_service,
    settings_for,
)
from workflows_service.service import SERVICE

if TYPE_CHECKING:
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub


@pytest.fixture(scope="session")
def workflows_database(postgres_url: str) -> TestDatabase:
    return create_database(postgres_url, "workflows", SERVICE.migrations)


@pytest.fixture(scope="session")
async def workflows_service(workflows_database: TestDatabase, identity: Identity) -> AsyncIterator[TestService]:
    async with running_service(SERVICE, settings_for(workflows_database, identity)) as service:
        yield service


@pytest.fixture(scope="session")
def workflows(workflows_service: TestService) -> WorkflowServiceAsyncStub:
    return WorkflowServiceStub(workflows_service.channel)
