"""What the calls over both of gRPC's stacks share; the stacks themselves are generated (`stacks.py`)."""

import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from ameide_client.retries import Attempts, RetryBudget, RetryPolicy

ResponseT = TypeVar("ResponseT", bound=Message)
Metadata = tuple[tuple[str, str], ...]
Token = str | Path | Callable[[], str]
AsyncToken = str | Path | Callable[[], str | Awaitable[str]]


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
        return kind(self.path, methodcaller("SerializeToString"), self.response.FromString)

    def metadata(self, idempotency_key: str | None, max_age: int) -> Metadata:
        """Returns the headers that all attempts of one call share."""
        if self.writes:
            return (("idempotency-key", idempotency_key or str(uuid.uuid4())),)
        return (("cache-control", f"max-age={max_age}"),) if max_age else ()


class Caller:
    """The parts that both stacks share."""

    def __init__(self, *, api_key: str | None, timeout_seconds: float, retry: RetryPolicy | None) -> None:
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        self.retry = retry or RetryPolicy()
        self._budget = RetryBudget()

    def attempts(self, method: str, timeout: float | None, retry: RetryPolicy | None) -> Attempts:
        seconds = self._timeout_seconds if timeout is None else timeout
        return Attempts(retry or self.retry, self._budget, timeout_seconds=seconds, method=method)

    def credential(self, token: str | None) -> Metadata:
        if token is not None:
            return (("authorization", f"Bearer {_plain(token)}"),)
        return (("x-api-key", _plain(self._api_key)),) if self._api_key is not None else ()


def _plain(credential: str) -> str:
    """Returns a credential without the line break that files end with."""
    if not re.fullmatch(r"[ -~]+", stripped := credential.strip()):
        raise ValueError("the token or API key is empty, or holds a character that no header can carry")
    return stripped
