"""Makes calls: the same few lines over each of gRPC's two stacks, synchronous and asyncio."""

import asyncio
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from ameide_client.failures import read_failure
from ameide_client.retries import Attempts, RetryBudget, RetryPolicy

ResponseT = TypeVar("ResponseT", bound=Message)
Metadata = tuple[tuple[str, str], ...]
Token = str | Callable[[], str]
AsyncToken = str | Callable[[], str | Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Method(Generic[ResponseT]):
    """One RPC of the contract."""

    path: str
    """`/ameide.user.v1.UserService/GetUser`."""
    response: type[ResponseT]
    """The class of its responses."""
    writes: bool
    """Whether it writes, so that its calls need an idempotency key."""

    def on(self, kind: Callable[..., Any]) -> Any:
        """Returns the method on a channel; ``kind`` is a function of the channel, such as `unary_unary`."""
        return kind(self.path, request_serializer=_serialize, response_deserializer=self.response.FromString)

    def metadata(self, idempotency_key: str | None) -> Metadata:
        """Returns the headers that all attempts of one call share."""
        return (("idempotency-key", idempotency_key or str(uuid.uuid4())),) if self.writes else ()


class Caller:
    """The parts that both stacks share."""

    def __init__(self, *, api_key: str | None, timeout_seconds: float, retry: RetryPolicy) -> None:
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        self.retry = retry
        self._budget = RetryBudget()

    def attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self.retry, self._budget, timeout_seconds=self._timeout_seconds if timeout is None else timeout)

    def credential(self, token: str | None) -> Metadata:
        if token is not None:
            return (("authorization", f"Bearer {token}"),)
        return (("x-api-key", self._api_key),) if self._api_key is not None else ()


class Calls:
    """Calls over a synchronous channel."""

    def __init__(self, channel: grpc.Channel, caller: Caller, token: Token | None) -> None:
        self._channel = channel
        self._caller = caller
        self._token = token
        self.retry = caller.retry

    def unary(
        self,
        method: Method[ResponseT],
        request: Message,
        *,
        timeout: float | None,
        idempotency_key: str | None = None,
    ) -> ResponseT:
        """Calls ``method``, and repeats the call where that may help.

        Raises:
            ApiError: the call failed for good.
        """
        invoke: Any = method.on(self._channel.unary_unary)
        attempts, fixed = self._caller.attempts(timeout), method.metadata(idempotency_key)
        while True:
            token = self._token() if callable(self._token) else self._token
            metadata = (*fixed, *self._caller.credential(token))
            try:
                response: ResponseT = invoke(request, timeout=attempts.remaining_seconds, metadata=metadata)
            except grpc.RpcError as failure:
                error = read_failure(failure)
            else:
                attempts.succeeded()
                return response
            time.sleep(attempts.pause_seconds(error))

    def stream(self, method: Method[ResponseT], request: Message) -> Any:
        """Opens a stream of responses, which fails with gRPC's own errors."""
        invoke: Any = method.on(self._channel.unary_stream)
        token = self._token() if callable(self._token) else self._token
        return invoke(request, metadata=self._caller.credential(token))


class AsyncCalls:
    """Calls over an asyncio channel; its methods are those of `Calls`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, token: AsyncToken | None) -> None:
        self._channel = channel
        self._caller = caller
        self._token = token
        self.retry = caller.retry

    async def unary(
        self,
        method: Method[ResponseT],
        request: Message,
        *,
        timeout: float | None,  # noqa: ASYNC109 - a deadline that is sent to the server
        idempotency_key: str | None = None,
    ) -> ResponseT:
        invoke: Any = method.on(self._channel.unary_unary)
        attempts, fixed = self._caller.attempts(timeout), method.metadata(idempotency_key)
        while True:
            token = self._token() if callable(self._token) else self._token
            metadata = (*fixed, *self._caller.credential(await token if inspect.isawaitable(token) else token))
            try:
                response: ResponseT = await invoke(request, timeout=attempts.remaining_seconds, metadata=metadata)
            except grpc.RpcError as failure:
                error = read_failure(failure)
            else:
                attempts.succeeded()
                return response
            await asyncio.sleep(attempts.pause_seconds(error))

    async def stream(self, method: Method[ResponseT], request: Message) -> Any:
        invoke: Any = method.on(self._channel.unary_stream)
        token = self._token() if callable(self._token) else self._token
        credential = self._caller.credential(await token if inspect.isawaitable(token) else token)
        return invoke(request, metadata=credential)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
