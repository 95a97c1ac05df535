"""gRPC without api_common's layers, on the same transport: for contenders that show what something costs by itself."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from ameide.user.v1 import user_pb2 as pb
from api_common.settings import Settings
from api_common.tls import server_credentials

GetUser = Callable[[pb.GetUserRequest, Any], Awaitable[pb.User]]
"""A contender's method, as gRPC calls it."""

FOLDER: Final = Path(os.environ.get("BENCH_FOLDER", ""))
"""The stage's folder."""


def serve(make: Callable[[Settings], Awaitable[GetUser]]) -> None:
    """Answers until SIGTERM."""
    uvloop.run(_serve(make))


async def _serve(make: Callable[[Settings], Awaitable[GetUser]]) -> None:
    settings = Settings.load("users")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        await make(settings),
        request_deserializer=pb.GetUserRequest.FromString,
        response_serializer=pb.User.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ameide.user.v1.UserService", {"GetUser": handler}),)
    )
    port = server.add_secure_port("127.0.0.1:0", server_credentials(settings.tls))
    await server.start()
    print(json.dumps({"event": "serving", "grpc_port": port}), flush=True)
    await stopping.wait()
    await server.stop(0)
