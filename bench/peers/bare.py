"""gRPC without the layers of api_common, on the same transport, for contenders that isolate a cost."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from ameide.user.v1 import user_pb2
from api_common.authn import server_credentials
from api_common.settings import Settings
from google.protobuf import message_factory

Methods = Mapping[str, Callable[[Any, Any], Awaitable[Any]]]
"""The implemented methods of the users service, by name."""

FOLDER: Final = Path(os.environ.get("BENCH_FOLDER", ""))
"""The stage's folder."""


def serve(make: Callable[[Settings], Awaitable[Methods]]) -> None:
    """Serves until SIGTERM."""
    uvloop.run(_serve(make))


async def _serve(make: Callable[[Settings], Awaitable[Methods]]) -> None:
    settings = Settings.load("users")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server()
    service = user_pb2.DESCRIPTOR.services_by_name["UserService"]
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(
            method,
            request_deserializer=message_factory.GetMessageClass(service.methods_by_name[name].input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for name, method in (await make(settings)).items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    server.add_secure_port(f"127.0.0.1:{os.environ['PORT']}", server_credentials(settings.tls))
    await server.start()
    await stopping.wait()
    await server.stop(0)
