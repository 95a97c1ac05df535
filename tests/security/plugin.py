"""Fixtures: every service in this process, and tenants with one of everything."""

from collections.abc import Mapping

import pytest
import uuid_utils
from api_common.testing import Identity

from tests.security.world import Founding, Running, World, make_world
from tests.services import built_services


@pytest.fixture(scope="session")
def mesh(request: pytest.FixtureRequest) -> Mapping[str, Running]:
    """Every service by its name."""
    names = [built.service.name for built in built_services()]
    return {
        name: Running(request.getfixturevalue(f"{name}_service"), request.getfixturevalue(f"{name}_database"))
        for name in names
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
