"""A users service, as far as the edge can tell: mutual TLS, health, and answers that a test scripts."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from ameide.edge.v1 import ext_authz_pb2 as edge_pb
from ameide.user.v1 import user_pb2 as pb
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

SERVICE: Final = pb.DESCRIPTOR.services_by_name["UserService"]
MIB: Final = 1024 * 1024

Answer = Callable[[Any, Any], Awaitable[Message | None]]
Meeting = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Call:
    """A call as it arrived."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    peer_names: Sequence[bytes]
    seconds_left: float | None


@dataclass
class Backend:
    """What arrived, and what to answer; a method without a script answers with an empty message.

    `Check` is what the edge asks about an API key.
    """

    calls: list[Call] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    """The methods of other services that somebody asked for."""
    script: dict[str, Answer] = field(default_factory=dict)

    async def answer(self, method: str, request: Any, context: Any) -> Any:
        metadata = dict(tuple(context.invocation_metadata() or ()))
        names = context.auth_context().get("x509_subject_alternative_name", ())
        self.calls.append(Call(method, request, metadata, list(names), context.time_remaining()))
        if method in self.script:
            return await self.script[method](request, context)
        if method == "Check":
            return edge_pb.CheckResponse()
        return GetMessageClass(SERVICE.methods_by_name[method].output_type)()


@asynccontextmanager
async def serving(port: int, certs: Path) -> AsyncIterator[Backend]:
    """Serves UserService on ``port`` with the certificate of `users`."""
    backend = Backend()
    # What the services set: no limit of theirs is hit before the edge's.
    options = [
        ("grpc.max_receive_message_length", 16 * MIB),
        ("grpc.max_send_message_length", 16 * MIB),
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.absolute_max_metadata_size", 64 * 1024),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    server = grpc.aio.server(options=options)
    healthy = health.HealthServicer()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    server.add_generic_rpc_handlers((_handlers(backend), _check_handler(backend), _Strays(backend)))
    pair = [((certs / "users.key").read_bytes(), (certs / "users.pem").read_bytes())]
    authority = (certs / "ca.pem").read_bytes()
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials(pair, authority, require_client_auth=True))
    await server.start()
    try:
        yield backend
    finally:
        await server.stop(None)


@asynccontextmanager
async def listening(meet: Meeting, port: int, certs: Path) -> AsyncIterator[None]:
    """Meets every connection to workflows, over TLS; what is still open is cut in the end."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certs / "ca.pem"))
    tls.load_cert_chain(certs / "workflows.pem", certs / "workflows.key")
    tls.set_alpn_protocols(["h2"])
    writers: list[asyncio.StreamWriter] = []

    async def remember(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await meet(reader, writer)

    server = await asyncio.start_server(remember, "127.0.0.1", port, ssl=tls)
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            # A transport that was closed twice cannot be aborted by Python 3.11.2, which Debian 12 has.
            with suppress(AttributeError):
                writer.transport.abort()
        await server.wait_closed()


class _Strays(grpc.GenericRpcHandler):
    """Serves every call that no other handler serves, and records it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        self._backend.strays.append(handler_call_details.method)

        async def reach(request: Any, context: Any) -> bytes:
            return b""

        return grpc.unary_unary_rpc_method_handler(reach)


def _handlers(backend: Backend) -> grpc.GenericRpcHandler:
    def handler(name: str) -> "grpc.RpcMethodHandler[Any, Any]":
        method = SERVICE.methods_by_name[name]

        async def behave(request: Any, context: Any) -> Any:
            return await backend.answer(name, request, context)

        # What streams is written to the context by its script.
        kind = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        return kind(
            behave,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    handlers = {name: handler(name) for name in SERVICE.methods_by_name}
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


def _check_handler(backend: Backend) -> grpc.GenericRpcHandler:
    async def behave(request: Any, context: Any) -> Any:
        return await backend.answer("Check", request, context)

    handler = grpc.unary_unary_rpc_method_handler(
        behave,
        request_deserializer=edge_pb.CheckRequest.FromString,
        response_serializer=edge_pb.CheckResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler})
