"""The workflows service in this process, over a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceStub
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
from workflows_service.service import SERVICE

from services.users.tests.conftest import certificates
from tools.topology import NAMED

__all__ = ["certificates"]

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


@pytest.fixture(scope="session")
async def process(
    workflows_database: TestDatabase, identity: Identity, certificates: Path
) -> AsyncIterator[Callable[[str], CallingProcess]]:
    """Any process of the mesh, by its name, that calls another process of this service over mutual TLS."""
    settings = settings_for(
        workflows_database, identity, tls=tls_of(certificates, "workflows"), internal_callers=NAMED["workflows"].callers
    )
    async with guarded_service(SERVICE, settings, directory=Directory(NoStoredUsers())) as address:
        yield lambda name: CallingProcess(certificates, name, service="workflows", address=address)
