"""All four services in this process, over databases of their own; and the edge of tests/e2e/edge, to attack it."""

from collections.abc import Awaitable, Callable, Mapping

import pytest
import uuid_utils
from api_common.testing import Identity

from services.ipas.tests.conftest import (
    agents,
    agents_database,
    agents_service,
    ipas,
    ipas_database,
    ipas_service,
    siblings,
    workflows,
    workflows_database,
    workflows_service,
)
from services.users.tests.conftest import certificates, guarded_users, users, users_database, users_service
from tests.e2e.edge.conftest import anonymous, backend, certs, edge, issuer, layout, offset, published, rest, service
from tests.security.world import Running, World, make_world

__all__ = [
    "agents",
    "agents_database",
    "agents_service",
    "anonymous",
    "backend",
    "certificates",
    "certs",
    "edge",
    "guarded_users",
    "ipas",
    "ipas_database",
    "ipas_service",
    "issuer",
    "layout",
    "offset",
    "published",
    "rest",
    "service",
    "siblings",
    "users",
    "users_database",
    "users_service",
    "workflows",
    "workflows_database",
    "workflows_service",
]

Founding = Callable[[], Awaitable[World]]


@pytest.fixture(scope="session")
def mesh(request: pytest.FixtureRequest) -> Mapping[str, Running]:
    """Every service by its name. A fifth one needs its fixtures here."""
    return {
        name: Running(request.getfixturevalue(f"{name}_service"), request.getfixturevalue(f"{name}_database"))
        for name in ("users", "workflows", "agents", "ipas")
    }


@pytest.fixture(scope="session")
def found(mesh: Mapping[str, Running], identity: Identity) -> Founding:
    """Makes a new tenant with one of everything."""

    async def make() -> World:
        return await make_world(mesh, identity.caller(f"t-{uuid_utils.uuid7()}", "admin"))

    return make


@pytest.fixture(scope="session")
async def world(found: Founding) -> World:
    """A tenant that tests may read, and add to."""
    return await found()


@pytest.fixture(scope="session")
async def neighbour(found: Founding) -> World:
    """Another one."""
    return await found()
