"""Watches that resume by themselves when a connection, a server or a token ends."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Literal, Self, TypeVar

import grpc
from google.protobuf.message import Message

from ameide_client.api_error import ApiError
from ameide_client.calls import Method
from ameide_client.errors import UnavailableError
from ameide_client.failures import read_failure
from ameide_client.retries import LOG, RetryPolicy, is_retryable

ResourceT = TypeVar("ResourceT", bound=Message)
Request = Callable[[str], Message]
"""Makes the request of a watch that continues after a resume token."""

_CHANGES: Final = ("created", "updated", "deleted")
# A stream that sends no more than these made no progress, however often it is opened.
_NO_PROGRESS: Final = ("bookmark", "error", "completed")
_MAX_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True)
class Change(Generic[ResourceT]):
    """A change of a resource, as the filter of the watch sees it."""

    kind: Literal["created", "updated", "deleted"]
    """What happened."""
    resource: ResourceT
    """The resource after the change."""


class Progress(Generic[ResourceT]):
    """The position of a watch, and whether and when it continues. No I/O."""

    def __init__(self, method: str, resume_token: str, policy: RetryPolicy, *, patience_seconds: float) -> None:
        self._method = method
        self.resume_token = resume_token
        self._policy = policy
        self._patience_seconds = patience_seconds
        self._heard = False
        self._lost_at: float | None = None
        self._attempts = 0

    def take(self, message: Any) -> Change[ResourceT] | None:
        """Returns the change in ``message``, if it contains one."""
        event: Any = message.WhichOneof("event")
        self.resume_token = message.resume_token or self.resume_token
        if not self._heard:
            LOG.debug("%s: attempt %d succeeded", self._method, self._attempts + 1)
        self._heard = True
        if event not in _NO_PROGRESS:
            self._lost_at = None
        return Change(event, getattr(message, event)) if event in _CHANGES else None

    def pause_seconds(self, error: ApiError) -> float:
        """Returns how long to wait before the stream, which ended with ``error``, is opened again.

        Raises:
            ApiError: ``error``, if the watch cannot continue, or the server was silent for too long.
        """
        LOG.info("%s: attempt %d failed: %s", self._method, self._attempts + 1, error)
        heard, self._heard = self._heard, False
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at, self._attempts = now, 0
        # A working stream ends with its token or with the connection, which gRPC reports in many ways.
        over = error.code is grpc.StatusCode.UNAUTHENTICATED or not error.request_id
        passes = is_retryable(error) or (heard and over)
        if not passes or now - self._lost_at > self._patience_seconds:
            raise error
        longest = self._policy.first_pause_seconds * 2 ** min(self._attempts, _MAX_DOUBLINGS)
        self._attempts += 1
        jitter = random.uniform(0, min(longest, self._policy.longest_pause_seconds))  # noqa: S311 - nothing secret
        return jitter + (error.retry_after_seconds or 0)


class _Watch(Generic[ResourceT]):
    """What both watches have."""

    _EVENT: ClassVar[type[Any]]

    def __init__(
        self, calls: Any, method: Method[Any], request: Request, resume_token: str, patience_seconds: float
    ) -> None:
        self._calls = calls
        self._method = method
        self._request = request
        self._progress = Progress[ResourceT](method.path, resume_token, calls.retry, patience_seconds=patience_seconds)
        self._call: Any = None
        self._closed: Any = self._EVENT()

    @property
    def resume_token(self) -> str:
        """Resumes a watch with the same filter after the last change; valid for about a day."""
        return self._progress.resume_token


class Watch(_Watch[ResourceT]):
    """The changes to a collection: `for change in client.users.watch()`. The first iteration opens the stream.

    After an error that ended the iteration, asking for the next change continues at the same position.
    """

    _EVENT = threading.Event

    def close(self) -> None:
        """Ends the watch, from any thread."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change[ResourceT]:
        while not self._closed.is_set():
            error: ApiError = _ended()
            try:
                self._call = self._call or self._calls.stream(self._method, self._request(self.resume_token))
                if self._closed.is_set():  # while the stream was opened
                    self._call.cancel()
                for message in self._call:
                    if change := self._progress.take(message):
                        return change
            except grpc.RpcError as failure:
                error = read_failure(failure)
            self._call = None
            if not self._closed.is_set():
                self._closed.wait(self._progress.pause_seconds(error))
        raise StopIteration


class AsyncWatch(_Watch[ResourceT]):
    """The changes to a collection: `async for change in client.users.watch()`; see `Watch`."""

    _EVENT = asyncio.Event

    async def close(self) -> None:
        """Ends the watch, and a task that waits for its next change."""
        self._closed.set()
        self._hang_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change[ResourceT]:
        while not self._closed.is_set():
            error: ApiError = _ended()
            try:
                request = self._request(self.resume_token)
                call = self._call = self._call or await self._calls.stream(self._method, request)
                while not self._closed.is_set() and (message := await call.read()) is not grpc.aio.EOF:
                    if change := self._progress.take(message):
                        return change
            except grpc.RpcError as failure:
                error = read_failure(failure)
            except asyncio.CancelledError:
                self._hang_up()
                # A stream that the network cancelled looks like this, too; then the task itself is not cancelled.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
            self._hang_up()
            if not self._closed.is_set():
                pause = self._progress.pause_seconds(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._closed.wait()
        raise StopAsyncIteration

    def __del__(self) -> None:
        # Leaving an `async for` ends the stream here; gRPC would only notice at the next garbage collection.
        self._hang_up()

    def _hang_up(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None


def _ended() -> ApiError:
    """Returns the error of a stream that ended without a last message."""
    return UnavailableError("The stream has ended.", code=grpc.StatusCode.UNAVAILABLE, reason="UNAVAILABLE")
