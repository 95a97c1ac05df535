"""Fixtures: processes of the mesh that call the agents service."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from agents_service.service import SERVICE
from api_common.authz import Directory
from api_common.testing import (
    Identity,
    NoStoredUsers,
    TestDatabase,
    guarded_service,
    settings_for,
    tls_of,
)

from tests.calling_process import CallingProcess
from tools.topology import NAMED


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
