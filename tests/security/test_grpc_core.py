"""What gRPC's core does with a malformed header, and that no service lets it happen (ADR 33, grpc/grpc#34721).

The edge passes no such header on, but a sibling that was taken over could send one. These tests hold for every version
of grpcio: when the first one fails, upstream has mended the fault, and the option that the second one tests can go.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from api_common.testing import TestService

from tests.http2 import Header, Http2

LIST = "/ameide.user.v1.UserService/ListUsers"
GRPC: Sequence[Header] = (("te", "trailers"), ("content-type", "application/grpc"))
BAD: Sequence[Header] = (
    ("grpc-timeout", "xx"),
    ("grpc-encoding", "xx"),
    ("grpc-previous-rpc-attempts", "xx"),
    ("any-bin", "!"),
    (":method", "OPTIONS"),
)
GOOD: dict[str | bytes, str] = {
    "grpc-timeout": "10S",
    "grpc-encoding": "gzip",
    "grpc-previous-rpc-attempts": "1",
    "any-bin": "AAAA",
    ":method": "POST",
}


async def statuses(port: int, path: str, bad: Header) -> list[str]:
    """Calls once with ``bad``, then three times with a good value of the same header; returns how each call ended."""
    async with Http2(port) as connection:
        # When this answer is here, so are the settings of the server.
        await connection.ask(GRPC, b"\0" * 5, method="POST", path=path)
        lines = [bad, *((bad[0], GOOD[bad[0]]) for _ in range(3))]
        answers = [await connection.ask([line, *GRPC], b"\0" * 5, method="POST", path=path) for line in lines]
    return [answer.headers.get("grpc-status", answer.ended) for answer in answers]


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Serves an RPC with gRPC's own defaults; yields the port."""

    async def answer(request: bytes, _context: object) -> bytes:
        return request

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


async def test_lays_the_error_of_one_call_on_the_next_ones() -> None:
    async with echo() as port:
        first, *later = await statuses(port, "/echo.Echo/Get", ("grpc-timeout", "xx"))
    # 13, or a reset stream in older versions.
    assert first in {"13", "reset"}
    assert set(later) == {first}, "mended upstream: remove grpc.http2.hpack_table_size.decoder, see ADR 33"


@pytest.mark.parametrize("bad", BAD, ids=str)
async def test_does_not_in_our_services(users_service: TestService, bad: Header) -> None:
    _, *later = await statuses(users_service.server.grpc_port, LIST, bad)
    # Nobody is authenticated here: that is an answer of ours.
    assert later == ["16"] * 3
