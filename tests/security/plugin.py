"""Fixtures: every service in this process, and tenants with one of everything."""

from collections.abc import Mapping

import pytest
import uuid_utils
from api_common.testing import Identity

from tests.security.world import PREPARATIONS, Founding, Ground, Rpc, Running, World, make_world
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
def ground(found: Founding, world: World) -> Ground:
    """Returns a tenant on which an RPC works: a new one, unless the RPC only reads what every tenant has."""

    async def choose(rpc: Rpc) -> World:
        if rpc.policy.read_only and rpc.method.name not in PREPARATIONS:
            return world
        new = await found()
        await new.prepare(rpc)
        return new

    return choose


@pytest.fixture(scope="session")
async def neighbour(found: Founding) -> World:
    """Another one."""
    return await found()
