"""Calls to sibling services: mTLS, the caller's deadline, identity and trace, errors in our own terms."""

import asyncio
import json
from collections.abc import Mapping
from typing import Final, TypeVar

import grpc

from api_common import correlation
from api_common.context import RequestContext
from api_common.errors import (
    AuthorizationError,
    DeadlineExceededError,
    ExternalServiceError,
    InternalError,
    NotFoundError,
)
from api_common.settings import TlsSettings
from api_common.tls import channel_credentials

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

# Only reads go between services today, so a call that found nobody may be made again; the throttle keeps retries below
# the calls that succeed (gRFC A6).
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)
_OPTIONS: Final = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class Siblings:
    """The channels of one process to the services it calls: one each, opened on the first call."""

    def __init__(self, addresses: Mapping[str, str], tls: TlsSettings | None) -> None:
        self._channels = {name: _channel(address, tls) for name, address in addresses.items()}

    def channel(self, service: str) -> grpc.aio.Channel:
        """Returns the channel to ``service``."""
        return self._channels[service]

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels.values():
            await channel.close()


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT, ctx: RequestContext
) -> ResponseT:
    """Calls a sibling's method for the caller of ``ctx``, within what is left of its time.

    Raises:
        NotFoundError: the caller's tenant has no such resource there.
        AuthorizationError: the caller may not do this there.
        DeadlineExceededError: there was not enough time.
        ExternalServiceError: the sibling does not answer.
    """
    metadata = (
        (correlation.AUTHORIZATION, f"Bearer {ctx.token}"),
        (correlation.REQUEST_ID, ctx.request_id),
        (correlation.TRACEPARENT, ctx.traceparent),
    )
    timeout = ctx.deadline - asyncio.get_running_loop().time()
    try:
        return await method(request, timeout=timeout, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        match error.code():
            case grpc.StatusCode.NOT_FOUND:
                raise NotFoundError(error.details() or "There is no such resource.") from error
            case grpc.StatusCode.PERMISSION_DENIED:
                raise AuthorizationError(error.details() or "The caller may not do this.") from error
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                raise DeadlineExceededError("The deadline passed before the work was done.") from error
            case grpc.StatusCode.UNAVAILABLE:
                raise ExternalServiceError("A service that this call needs does not answer.") from error
            case _:
                raise InternalError("Something went wrong on our side.") from error


def _channel(address: str, tls: TlsSettings | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=_OPTIONS)
