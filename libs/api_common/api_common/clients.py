"""Calls to sibling services: mTLS, the caller's deadline, identity and trace, errors in our own terms."""

import asyncio
import json
from collections.abc import Mapping
from typing import Final, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from api_common import correlation
from api_common.context import RequestContext
from api_common.errors import (
    AbortedError,
    AuthorizationError,
    DeadlineExceededError,
    DomainError,
    ExternalServiceError,
    InternalError,
    NotFoundError,
    RateLimitError,
    UnauthenticatedError,
)
from api_common.policy import read_policies
from api_common.settings import TlsSettings
from api_common.tls import channel_credentials

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_RETRY_POLICY: Final = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# Five failures in a row, and calls are no longer repeated until enough succeed (gRFC A6).
_RETRY_THROTTLING: Final = {"maxTokens": 10, "tokenRatio": 0.1}
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # By default a channel looks for a lost sibling ever more rarely, at last every 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_S = grpc.StatusCode
_UNAVAILABLE: Final = "A service that this call needs does not answer now."
_MEANING: Final[Mapping[grpc.StatusCode, tuple[type[DomainError], str]]] = {
    _S.NOT_FOUND: (NotFoundError, "There is no such resource."),
    _S.PERMISSION_DENIED: (AuthorizationError, "The credential does not allow this."),
    _S.UNAUTHENTICATED: (UnauthenticatedError, "A valid credential is required."),
    _S.ABORTED: (AbortedError, "Another request changed the same data; try again."),
    _S.RESOURCE_EXHAUSTED: (RateLimitError, "Too many requests."),
    _S.DEADLINE_EXCEEDED: (DeadlineExceededError, "The deadline passed before the work was done."),
    _S.UNAVAILABLE: (ExternalServiceError, _UNAVAILABLE),
    # Not by us, or we would not be here: the sibling stopped while it was at work.
    _S.CANCELLED: (ExternalServiceError, _UNAVAILABLE),
}
"""What a sibling's status means to our caller; every other one is a defect between the two of us."""
_RETRY_AFTER_SECONDS: Final = {RateLimitError: 1.0, ExternalServiceError: 1.0}
_ORDINARY: Final = (NotFoundError, AuthorizationError)

_log = structlog.get_logger()


class Siblings:
    """The channels of one process to the services it calls; each connects on its first call."""

    def __init__(self, addresses: Mapping[str, str], tls: TlsSettings | None) -> None:
        self._addresses = addresses
        self._tls = tls
        self._channels: list[grpc.aio.Channel] = []

    def channel(self, service: str, *contracts: ServiceDescriptor) -> grpc.aio.Channel:
        """Opens a channel to ``service``, for as long as the process lives.

        A call that found nobody is made again if its contract declares it without side effects.

        Args:
            contracts: what will be called through the channel.
        """
        address, options = self._addresses[service], (*_OPTIONS, ("grpc.service_config", _service_config(contracts)))
        if self._tls is None:
            channel = grpc.aio.insecure_channel(address, options=options)
        else:
            channel = grpc.aio.secure_channel(address, channel_credentials(self._tls), options=options)
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels:
            await channel.close()


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT, ctx: RequestContext
) -> ResponseT:
    """Calls a sibling's method for the caller of ``ctx``, within what is left of its time.

    Nothing that the sibling says goes on to the caller but what kind of refusal it was; the rest is in our log.

    Raises:
        NotFoundError: the caller's tenant has no such resource there.
        AuthorizationError: the caller may not do this there.
        UnauthenticatedError: the caller's credential has ended meanwhile.
        AbortedError: another request was in the way.
        RateLimitError: the sibling has too much to do.
        DeadlineExceededError: there was not enough time.
        ExternalServiceError: the sibling does not answer.
        InternalError: the sibling does not understand us, or we do not understand it.
    """
    metadata = (
        (correlation.AUTHORIZATION, f"Bearer {ctx.token}"),
        (correlation.REQUEST_ID, ctx.request_id),
        (correlation.TRACEPARENT, ctx.traceparent),
    )
    timeout = ctx.deadline - asyncio.get_running_loop().time()
    try:
        response: ResponseT | None = await method(request, timeout=timeout, metadata=metadata)
    except grpc.aio.AioRpcError as failure:
        error, message = _MEANING.get(failure.code(), (InternalError, "Something went wrong on our side."))
        if error not in _ORDINARY:
            _log_failure(request, ctx, code=failure.code().name, details=failure.details())
        raise error(message, retry_after_seconds=_RETRY_AFTER_SECONDS.get(error)) from failure
    if response is None:
        # gRPC's way to say that it could not decode the answer.
        _log_failure(request, ctx, code=_S.OK.name, details="the response does not decode")
        raise InternalError("Something went wrong on our side.")
    return response


def _log_failure(request: object, ctx: RequestContext, *, code: str, details: str | None) -> None:
    name = type(request).__name__
    _log.warning("sibling call failed", request=name, code=code, details=details, request_id=ctx.request_id)


def _service_config(contracts: tuple[ServiceDescriptor, ...]) -> str:
    repeatable = [
        {"service": contract.full_name, "method": policy.name}
        for contract in contracts
        for policy in read_policies(contract).values()
        if policy.read_only
    ]
    methods = [{"name": repeatable, "retryPolicy": _RETRY_POLICY}]
    return json.dumps({"methodConfig": methods, "retryThrottling": _RETRY_THROTTLING})
