"""Fixtures: processes of the mesh that call the workflows service."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from api_common.authz import Directory
from api_common.testing import (
    Identity,
    NoStoredUsers,
    TestDatabase,
    guarded_service,
    settings_for,
    tls_of,
)
from workflows_service.service import SERVICE

from tests.calling_process import CallingProcess
from tools.topology import NAMED


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
