"""The two clients, which differ only in the stack of gRPC that they use."""

from typing import Any, Self

import grpc

from ameide_client.calls import AsyncCalls, AsyncToken, Caller, Calls, Token
from ameide_client.connection import OPTIONS, parse_address
from ameide_client.retries import RetryPolicy
from ameide_client.services import AsyncServices, Services


class Client(Services):
    """The API, for threads: one client serves any number of them.

    Args:
        url: `https://api.example.com`; `http://` is for this machine only.
        token: a token, or a function that returns one. Each attempt calls the function, so it should cache its token.
        api_key: of a service account, instead of a token.
        ca: certificates of authorities to trust (PEM) instead of gRPC's own list.
        timeout_seconds: the default for a call with all its retries.
        retry: how often and when a call is repeated.

    Raises:
        ValueError: the URL cannot be used, or there are two credentials.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        api_key: str | None = None,
        ca: bytes | None = None,
        timeout_seconds: float = 30.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        caller = _caller(token, api_key, timeout_seconds, retry)
        self._channel: grpc.Channel = _open_channel(grpc, url, ca)
        super().__init__(Calls(self._channel, caller, token))

    def close(self) -> None:
        """Closes the connection and ends the calls under way."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(AsyncServices):
    """The API, for asyncio. Arguments are those of `Client`; ``token`` may also return an awaitable."""

    def __init__(
        self,
        url: str,
        *,
        token: AsyncToken | None = None,
        api_key: str | None = None,
        ca: bytes | None = None,
        timeout_seconds: float = 30.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        caller = _caller(token, api_key, timeout_seconds, retry)
        self._channel: grpc.aio.Channel = _open_channel(grpc.aio, url, ca)
        super().__init__(AsyncCalls(self._channel, caller, token))

    async def close(self) -> None:
        """Closes the connection and ends the calls under way."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _caller(token: object, api_key: str | None, timeout_seconds: float, retry: RetryPolicy | None) -> Caller:
    if token is not None and api_key is not None:
        raise ValueError("a token or an API key, not both: the edge refuses such calls")
    return Caller(api_key=api_key, timeout_seconds=timeout_seconds, retry=retry or RetryPolicy())


def _open_channel(stack: Any, url: str, ca: bytes | None) -> Any:
    target, credentials = parse_address(url, ca=ca)
    if credentials is None:
        return stack.insecure_channel(target, options=OPTIONS)
    return stack.secure_channel(target, credentials, options=OPTIONS)
