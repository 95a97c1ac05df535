"""A users service that does what a test says, and what a service calls it through."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import grpc
from ameide.user.v1 import user_pb2 as pb
from api_common.authn import Principal
from api_common.call import CallContext
from api_common.settings import TlsSettings
from api_common.siblings import Sibling as SiblingClient
from api_common.siblings import Siblings
from api_common.telemetry import Metrics, Trace
from prometheus_client import CollectorRegistry

if TYPE_CHECKING:
    Transport = grpc.aio.ServicerContext[bytes, bytes]

CONTRACT = pb.DESCRIPTOR.services_by_name["UserService"]
REQUEST = pb.GetUserRequest(id="01900000-0000-7000-8000-000000000000")
SECRET = "ValueError at 10.0.0.7:50052"


class Sibling:
    """A users service that does what a test says; it answers with an empty user until then."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str | bytes]] = []
        """The metadata of each call."""
        self.answer: Callable[[Transport], Awaitable[bytes]] = self._nothing

    async def handle(self, _: bytes, transport: Transport) -> bytes:
        self.calls.append(dict(tuple(transport.invocation_metadata() or ())))
        return await self.answer(transport)

    def refuse(self, code: grpc.StatusCode, *, times: int) -> None:
        """Refuses the next ``times`` calls, then answers."""
        last = len(self.calls) + times

        async def answer(transport: Transport) -> bytes:
            if len(self.calls) <= last:
                await transport.abort(code, SECRET)
            return b""

        self.answer = answer

    async def _nothing(self, _: Transport) -> bytes:
        return b""


@contextlib.asynccontextmanager
async def serving(
    sibling: Sibling, *, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """Yields the address at which ``sibling`` answers."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(sibling.handle)
    handler = grpc.method_handlers_generic_handler(CONTRACT.full_name, {"GetUser": method, "CreateUser": method})
    server.add_generic_rpc_handlers((handler,))
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def calling(address: str, tls: TlsSettings | None = None) -> AsyncIterator[SiblingClient]:
    """Yields what a service calls the sibling at ``address`` through."""
    siblings = Siblings({"users": address}, tls, Metrics(CollectorRegistry()))
    try:
        yield siblings.open("users", CONTRACT)
    finally:
        await siblings.close()


def context(*, seconds: float = 5) -> CallContext:
    """Returns a request that its caller waits for ``seconds`` for."""
    return CallContext(
        principal=Principal("ada", "acme", frozenset({"viewer"}), expires_at=time.time() + 3600),
        request_id="0190a5c2-0000-4000-8000-000000000001",
        deadline=asyncio.get_running_loop().time() + seconds,
        trace=Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True),
        token="header.payload.signature",
    )
