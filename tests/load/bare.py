"""gRPC without api_common's layers, on the same transport: for contenders that show what something costs by itself."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import grpc
import uvloop
from ameide.user.v1.user_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server
from api_common.settings import Settings
from api_common.tls import server_credentials

FOLDER: Final = Path(os.environ.get("BENCH_FOLDER", ""))
"""The stage's folder."""


def serve(make: Callable[[Settings], Awaitable[UserServiceServicer]]) -> None:
    """Answers until SIGTERM."""
    uvloop.run(_serve(make))


async def _serve(make: Callable[[Settings], Awaitable[UserServiceServicer]]) -> None:
    settings = Settings.load("users")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server()
    add_UserServiceServicer_to_server(await make(settings), server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(settings.tls))
    await server.start()
    print(json.dumps({"event": "serving", "grpc_port": port}), flush=True)
    await stopping.wait()
    await server.stop(0)
