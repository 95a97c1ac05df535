"""The process that makes the load: reads one order per line from stdin, prints one result per line.

Each connection has a fixed number of calls in flight, and every answer is compared with the user that was asked for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import uuid_utils
import uvloop
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.settings import TlsSettings
from api_common.tls import channel_credentials

from tests.load.stage import users_of

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

CONNECTIONS: Final = 4
IN_FLIGHT: Final = 8
"""Calls per connection."""

_TIMEOUT_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Order:
    """Calls to make."""

    address: str
    count: int
    is_constant: bool
    """Every answer must be the first user."""

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Generator:
    """Keeps its connections open between orders."""

    def __init__(self, folder: Path, authorization: str) -> None:
        self._users = users_of(folder)
        self._requests = [pb.GetUserRequest(id=user.id) for user in self._users]
        self._authorization = authorization
        self._credentials = credentials_of(folder)
        self._stubs: dict[str, list[UserServiceAsyncStub]] = {}

    async def run(self, order: Order) -> Mapping[str, float]:
        """Makes the calls of ``order``.

        Raises:
            AssertionError: an answer is wrong.
            grpc.aio.AioRpcError: a call failed.
        """
        stubs = self._stubs.get(order.address)
        if stubs is None:
            stubs = self._stubs[order.address] = [self._connect(order.address) for _ in range(CONNECTIONS)]
        numbers = iter(range(order.count))
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for stub in stubs * IN_FLIGHT:
                group.create_task(self._call(stub, numbers, order.is_constant))
        return {"seconds": time.perf_counter() - started}

    async def _call(self, stub: UserServiceAsyncStub, numbers: Iterator[int], is_constant: bool) -> None:
        for number in numbers:
            index = number % len(self._users)
            # What the edge adds to every call.
            metadata = (("authorization", self._authorization), ("x-request-id", str(uuid_utils.uuid4())))
            user = await stub.GetUser(self._requests[index], metadata=metadata, timeout=_TIMEOUT_SECONDS)
            assert user == self._users[0 if is_constant else index], f"another user was answered: {user}"

    def _connect(self, address: str) -> UserServiceAsyncStub:
        # A pool of its own, or the channels would share one connection.
        options = (("grpc.use_local_subchannel_pool", 1),)
        return UserServiceStub(grpc.aio.secure_channel(address, self._credentials, options=options))


def credentials_of(folder: Path) -> grpc.ChannelCredentials:
    """Returns what the edge of a stage shows to services."""
    certificates = folder / "certificates"
    return channel_credentials(
        TlsSettings(
            certificate_path=certificates / "edge.pem",
            private_key_path=certificates / "edge.key",
            ca_path=certificates / "ca.pem",
        )
    )


async def _main(folder: Path, authorization: str) -> None:
    generator = Generator(folder, authorization)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await generator.run(Order(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1]), sys.argv[2]))
