"""Fixtures: the ipas service in this process, beside the real services that it asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agents_service.service import SERVICE as AGENTS
from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceStub
from api_common.authz import Directory
from api_common.server import Service
from api_common.testing import (
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
from ipas_service.service import SERVICE
from workflows_service.service import SERVICE as WORKFLOWS

from tools.topology import NAMED

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub


@pytest.fixture(scope="session")
def ipas_database(postgres_url: str) -> TestDatabase:
    return create_database(postgres_url, "ipas", SERVICE.migrations)


@pytest.fixture(scope="session")
async def siblings(
    workflows_database: TestDatabase, agents_database: TestDatabase, identity: Identity, certificates: Path
) -> AsyncIterator[dict[str, str]]:
    """The addresses of other processes of the services that ipas calls: over mutual TLS, as internal RPCs need."""

    def guarded(service: Service, database: TestDatabase) -> AbstractAsyncContextManager[str]:
        settings = settings_for(
            database, identity, tls=tls_of(certificates, service.name), internal_callers=NAMED[service.name].callers
        )
        return guarded_service(service, settings, directory=Directory(NoStoredUsers()))

    async with (
        guarded(WORKFLOWS, workflows_database) as workflows_address,
        guarded(AGENTS, agents_database) as agents_address,
    ):
        yield {"workflows": workflows_address, "agents": agents_address}


@pytest.fixture(scope="session")
async def ipas_service(
    ipas_database: TestDatabase, identity: Identity, siblings: dict[str, str], certificates: Path
) -> AsyncIterator[TestService]:
    settings = settings_for(ipas_database, identity, siblings=siblings)
    async with running_service(SERVICE, settings, caller_tls=tls_of(certificates, "ipas")) as service:
        yield service


@pytest.fixture(scope="session")
def ipas(ipas_service: TestService) -> IpaServiceAsyncStub:
    return IpaServiceStub(ipas_service.channel)
