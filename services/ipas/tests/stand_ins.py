"""Servers that stand in for siblings, and an IPA service beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceStub
from ameide.workflow.v1 import workflow_pb2
from api_common.errors import DomainError, render
from api_common.testing import NEVER, Identity, TestDatabase, running_service, settings_for
from ipas_service.service import SERVICE

from services.ipas.tests.factories import a_definition

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub

    Transport = grpc.aio.ServicerContext[bytes, bytes]
    Answer = Callable[[bytes, Transport], Awaitable[bytes]]


POOL_SIZE = 2
SECRET = "asyncpg.PostgresError at 10.0.0.7:5432"


@asynccontextmanager
async def ipas_beside(
    database: TestDatabase, identity: Identity, **siblings: str
) -> AsyncIterator[IpaServiceAsyncStub]:
    """Yields an ipas service of its own that calls ``siblings``."""
    settings = settings_for(database, identity, siblings=siblings, pool_size=POOL_SIZE)
    async with running_service(SERVICE, settings) as service:
        yield IpaServiceStub(service.channel)


@asynccontextmanager
async def standing_in(contract: str, **methods: Answer) -> AsyncIterator[str]:
    """Yields the address of a gRPC server that answers ``methods`` of a contract."""
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(contract, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def workflow_with(*agent_nodes: str) -> Answer:
    """Returns what answers every id with a workflow that has these AGENT nodes."""
    definition = a_definition(*agent_nodes)

    async def get_workflows(payload: bytes, _: Transport) -> bytes:
        ids = workflow_pb2.BatchGetWorkflowsRequest.FromString(payload).ids
        found = [workflow_pb2.Workflow(id=id, definition=definition) for id in ids]
        return workflow_pb2.BatchGetWorkflowsResponse(workflows=found).SerializeToString()

    return get_workflows


async def refuse_as(error: DomainError, transport: Transport) -> None:
    """Ends a call as a service of ours does."""
    await transport.abort(*render(error, request_id=NEVER))
