"""The operations port answers whoever asks, and keeps no place for who does not."""

import asyncio
import socket

import httpx
from api_common.server.operations import OperationsServer
from prometheus_client import CollectorRegistry


async def test_a_silent_connection_is_closed() -> None:
    server = OperationsServer("127.0.0.1", 0, registry=CollectorRegistry(), is_ready=lambda: True)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as silent:
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"http://127.0.0.1:{server.port}/readyz")).status_code == 200
            assert await asyncio.to_thread(silent.recv, 1) == b""
    finally:
        await asyncio.to_thread(server.close)
