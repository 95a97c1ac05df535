"""The gRPC server of a service: its options, its handlers, its port."""

import contextlib
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from api_common.rpc import MAX_RESPONSE_BYTES, Pipeline, unknown_method_handler
from api_common.server.ext_authz import check_handler
from api_common.server.running_server import RunningServer
from api_common.server.service import Service, ServiceDependencies, StartError
from api_common.settings import ServerSettings

MAX_METADATA_BYTES: Final = 64 * 1024
"""Above what the edge lets through: gRPC's own default refuses at random between 8 and 16 KiB."""

_OPTIONS: Final = (
    # Above the 10 MiB that admission accepts, so that the refusal is ours, in our shape.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # gRPC keeps the parse error of a malformed header in this table, for later calls of the connection (ADR 33).
    ("grpc.http2.hpack_table_size.decoder", 0),
    ("grpc.max_concurrent_streams", 1000),
    # A second process on the port must fail loudly, not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Callers find new replicas only when they connect anew; calls and streams in progress are finished first.
    ("grpc.max_connection_age_ms", 15 * 60_000),
)


async def start_server(
    service: Service,
    dependencies: ServiceDependencies,
    pipeline: Pipeline,
    stack: contextlib.AsyncExitStack,
    *,
    credentials: grpc.ServerCredentials | None,
) -> RunningServer:
    """Starts to answer the calls of ``service``; ``stack`` stops it.

    Args:
        credentials: None serves without TLS.

    Raises:
        StartError: a port or the key that signs internal tokens cannot be used.
    """
    settings, metrics = dependencies.settings.server, pipeline.metrics
    server = grpc.aio.server(options=_OPTIONS)
    names = [descriptor.full_name for descriptor in service.descriptors]
    with service.using("SERVER_OPERATIONS_PORT"):
        result = RunningServer(
            server, dependencies.database, settings, metrics.registry, names, end_streams=pipeline.streams.end
        )
    stack.callback(result.operations.close)
    health_pb2_grpc.add_HealthServicer_to_server(result.health, server)
    if settings.reflection_enabled:
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    handlers = [
        pipeline.service_handler(contract, build(dependencies)) for contract, build in service.servicers.items()
    ]
    if service.api_keys is not None:
        with service.using("APIKEYS_SIGNING_KEY_PATH"):
            authority = service.api_keys(dependencies)
        handlers.append(check_handler(authority, pipeline))
    server.add_generic_rpc_handlers((*handlers, unknown_method_handler()))
    result.grpc_port = _bind(server, settings, credentials)
    await result.start()
    stack.push_async_callback(server.stop, None)
    return result


def _bind(server: grpc.aio.Server, settings: ServerSettings, credentials: grpc.ServerCredentials | None) -> int:
    address = f"{settings.host}:{settings.grpc_port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}: the port is taken.") from error
