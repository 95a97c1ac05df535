"""Every handler of every service, broken: the caller hears that it is our fault, and nothing of ours (BI-7)."""

import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import grpc
import pytest
from api_common.call import RequestContext, StreamContext
from api_common.contract import read_policies
from api_common.server import Service, ServiceDependencies
from api_common.testing import NEVER, Identity, TestDatabase, refused, running_service, settings_for
from google.protobuf.descriptor import ServiceDescriptor
from structlog.testing import capture_logs

from tests.security.world import MADE_BY, SAMPLES, Rpc, Running, World, rpcs
from tests.services import built_services

SECRET: Final = "postgresql://root:hunter2@db.internal/users"


def broken(service: Service) -> Service:
    """Returns ``service`` with a defect in each method."""

    def spoil(
        contract: ServiceDescriptor, build: Callable[[ServiceDependencies], object]
    ) -> Callable[[ServiceDependencies], object]:
        def build_spoiled(dependencies: ServiceDependencies) -> object:
            servicer = build(dependencies)
            spoiled = SimpleNamespace()
            for name, policy in read_policies(contract).items():
                method = getattr(servicer, name)
                setattr(spoiled, name, raising_while_it_streams(method) if policy.is_stream else raising(method))
            return spoiled

        return build_spoiled

    # Without a worker: it would take the sagas of other tests and never reach a sibling.
    return replace(
        service,
        servicers={contract: spoil(contract, build) for contract, build in service.servicers.items()},
        plans=None,
    )


def raising(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def handler(_request: object, _ctx: RequestContext) -> Any:
        raise ValueError(SECRET)

    return handler


def raising_while_it_streams(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def handler(_request: object, _ctx: StreamContext) -> Any:
        nothing: tuple[object, ...] = ()
        for message in nothing:
            yield message
        raise ValueError(SECRET)

    return handler


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest) -> dict[str, TestDatabase]:
    """The database of each service."""
    names = [built.service.name for built in built_services()]
    return {name: request.getfixturevalue(f"{name}_database") for name in names}


@pytest.fixture(scope="module")
async def broken_world(databases: dict[str, TestDatabase], identity: Identity) -> AsyncIterator[World]:
    """All services broken, over their real databases."""
    nowhere = {built.service.name: "127.0.0.1:1" for built in built_services()}
    mesh: dict[str, Running] = {}
    async with AsyncExitStack() as stack:
        for built in built_services():
            database = databases[built.service.name]
            settings = settings_for(database, identity, siblings=nowhere)
            running = await stack.enter_async_context(running_service(broken(built.service), settings))
            mesh[built.service.name] = Running(running, database)
        ids: Mapping[str, str] = dict.fromkeys((*SAMPLES, *MADE_BY), NEVER)
        yield World(mesh, identity.caller("t-broken", "admin"), dict(ids))


@pytest.mark.parametrize("rpc_", rpcs(), ids=str)
async def test_tell_the_caller_nothing_and_us_everything(broken_world: World, rpc_: Rpc) -> None:
    with capture_logs() as logs, refused(grpc.StatusCode.INTERNAL, "INTERNAL") as refusal:
        await broken_world.call(rpc_, broken_world.request(rpc_))
    assert refusal.message == "Something went wrong on our side."
    assert "hunter2" not in repr(refusal)
    assert "ValueError" not in repr(refusal)
    (entry,) = (entry for entry in logs if entry["event"] == "unexpected error")
    assert (entry["request_id"], entry["method"], entry["exc_info"]) == (refusal.request_id, rpc_.policy.path, True)
