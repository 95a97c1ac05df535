"""Mixed load of clients: good calls, refused calls, and calls and streams that are cancelled half-way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

import grpc
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

_LONGEST_SECONDS: Final = 0.003
"""About as long as a call takes, so that calls are cancelled at each of their steps."""

Metadata = tuple[tuple[str, str], ...]


class Churn:
    """One client of the users service.

    Args:
        channel: leads to the service, directly or through the edge.
        streams: leads to the service directly, because the edge does not serve health checks.
    """

    def __init__(self, channel: grpc.aio.Channel, streams: grpc.aio.Channel, metadata: Metadata) -> None:
        self._users: UserServiceAsyncStub = UserServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(streams)
        self._metadata = metadata
        self._chance = random.Random(1)
        self._user = pb.User()

    async def prepare(self) -> Churn:
        """Creates the user that all calls use."""
        user = pb.User(display_name="Churn", email=f"{uuid_utils.uuid7()}@example.com")
        self._user = await self._users.CreateUser(pb.CreateUserRequest(user=user), metadata=self._metadata)
        return self

    async def get(self) -> None:
        await self._users.GetUser(pb.GetUserRequest(id=self._user.id), metadata=self._metadata)

    async def list(self) -> None:
        await self._users.ListUsers(pb.ListUsersRequest(page_size=5), metadata=self._metadata)

    async def update(self) -> None:
        user = pb.User(id=self._user.id, display_name=f"Churn {self._chance.random()}")
        request = pb.UpdateUserRequest(user=user)
        request.update_mask.paths.append("display_name")
        key = ("idempotency-key", str(uuid_utils.uuid7()))
        await self._users.UpdateUser(request, metadata=(*self._metadata, key))

    async def ask_for_nobody(self) -> None:
        request = pb.GetUserRequest(id=str(uuid_utils.uuid7()))
        await _refused(self._users.GetUser(request, metadata=self._metadata), StatusCode.NOT_FOUND)

    async def send_nonsense(self) -> None:
        request = pb.CreateUserRequest(user=pb.User(display_name="x" * 300, email="nobody"))
        await _refused(self._users.CreateUser(request, metadata=self._metadata), StatusCode.INVALID_ARGUMENT)

    async def show_no_token(self) -> None:
        await _refused(self._users.GetUser(pb.GetUserRequest(id=self._user.id)), StatusCode.UNAUTHENTICATED)

    async def give_up(self) -> None:
        call = self._users.GetUser(pb.GetUserRequest(id=self._user.id), metadata=self._metadata)
        await asyncio.sleep(self._chance.random() * _LONGEST_SECONDS)
        call.cancel()
        await asyncio.wait([asyncio.ensure_future(call)])

    async def be_in_a_hurry(self) -> None:
        request, seconds = pb.ListUsersRequest(page_size=5), self._chance.random() * _LONGEST_SECONDS
        call = self._users.ListUsers(request, metadata=self._metadata, timeout=seconds)
        await _refused(call, StatusCode.DEADLINE_EXCEEDED, or_ok=True)

    async def watch_health(self) -> None:
        stream = self._health.Watch(health_pb2.HealthCheckRequest())
        await stream.read()
        stream.cancel()

    async def watch(self) -> None:
        request = pb.WatchUsersRequest(filter=f"id = {self._user.id}", initial_state=True)
        stream = self._users.WatchUsers(request, metadata=self._metadata)
        async for message in stream:
            assert message.created.id == self._user.id, message
            break
        stream.cancel()

    async def watch_in_a_hurry(self) -> None:
        seconds = self._chance.random() * 3 * _LONGEST_SECONDS
        stream = self._users.WatchUsers(pb.WatchUsersRequest(), metadata=self._metadata, timeout=seconds)
        await _refused(_read_on(stream), StatusCode.DEADLINE_EXCEEDED)


HABITS: Final[Mapping[str, Callable[[Churn], Coroutine[Any, Any, None]]]] = {
    "get": Churn.get,
    "list": Churn.list,
    "update": Churn.update,
    "ask for nobody": Churn.ask_for_nobody,
    "send nonsense": Churn.send_nonsense,
    "show no token": Churn.show_no_token,
    "give up": Churn.give_up,
    "be in a hurry": Churn.be_in_a_hurry,
    "watch": Churn.watch,
    "watch in a hurry": Churn.watch_in_a_hurry,
    "watch health": Churn.watch_health,
}
"""The kinds of calls; a new kind is one more method and one more line."""


async def _read_on(stream: AsyncIterable[object]) -> None:
    async for _ in stream:
        pass


async def _refused(call: Awaitable[object], code: StatusCode, *, or_ok: bool = False) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not code:
            raise
    else:
        assert or_ok, f"answered instead of {code}"
