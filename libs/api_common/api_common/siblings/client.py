"""Calls to sibling services: mTLS, on-behalf-of tokens, deadlines, traces, a circuit breaker, our own errors."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.trace import SpanKind

from api_common import errors
from api_common.authn import TRUST_DOMAIN, ServiceTokenSigner, channel_credentials
from api_common.call import MAX_CALL_SECONDS, CallContext, outgoing_headers
from api_common.contract import MethodPolicy, read_policies
from api_common.settings import TlsSettings
from api_common.siblings.circuit_breaker import CircuitBreaker
from api_common.telemetry import Metrics

ResponseT = TypeVar("ResponseT", bound=Message)

MAX_WAIT_SECONDS: Final = 4
"""The longest wait for a sibling, however long the caller would wait (ADR 9)."""

_RETRY_POLICY: Final = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    # gRPC answers CANCELLED to what reaches a server while it stops.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
# After five failures in a row, calls are not repeated until enough succeed (gRFC A6).
_RETRY_THROTTLING: Final = {"maxTokens": 10, "tokenRatio": 0.1}
# Balance over all addresses of the name; by default a channel stays with the first one that answers.
_BALANCING: Final[Sequence[Mapping[str, Mapping[str, str]]]] = ({"round_robin": {}},)
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # By default a channel reconnects to a lost sibling ever more rarely, at last every 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_S = grpc.StatusCode
_MEANING: Final[Mapping[grpc.StatusCode, type[errors.DomainError]]] = {
    _S.NOT_FOUND: errors.NotFoundError,
    _S.FAILED_PRECONDITION: errors.FailedPreconditionError,
    _S.PERMISSION_DENIED: errors.AuthorizationError,
    _S.UNAUTHENTICATED: errors.UnauthenticatedError,
    _S.ABORTED: errors.AbortedError,
    _S.RESOURCE_EXHAUSTED: errors.RateLimitError,
    _S.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    _S.UNAVAILABLE: errors.ExternalServiceError,
    # The sibling stopped while it worked: our own cancellation does not arrive here.
    _S.CANCELLED: errors.ExternalServiceError,
}
"""The meaning of a sibling's status to our caller; every other status is a defect of one of the two services."""
_RETRY_AFTER_SECONDS: Final = {errors.RateLimitError: 1.0, errors.ExternalServiceError: 1.0}
_ORDINARY: Final = (
    errors.NotFoundError,
    errors.FailedPreconditionError,
    errors.AuthorizationError,
    errors.PayloadTooLargeError,
)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Connection:
    """A channel and the signer of its calls, both with the same certificate."""

    channel: grpc.aio.Channel
    signer: ServiceTokenSigner | None
    version: tuple[int, ...]
    """Of the certificate's files."""


class Sibling:
    """One service that this process calls.

    Calls run through a circuit breaker. It counts a time-out only if the sibling had `MAX_WAIT_SECONDS`: callers with
    short deadlines do not open it. A call that nobody answers, or a sibling that stops, is repeated if its contract
    declares it without side effects. A certificate that is replaced on disk is used from the next call on.

    Args:
        tls: None on loopback in tests; then calls carry the caller's own token.
    """

    def __init__(self, name: str, address: str, tls: TlsSettings | None, metrics: Metrics) -> None:
        self._address = address
        self._audience = f"{TRUST_DOMAIN}{name}"
        self._facts = {"server.address": name}
        self._methods: dict[type[Message], MethodPolicy] = {}
        self._tls = tls
        self._metrics = metrics
        self._connection: _Connection | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.breaker: Final = CircuitBreaker(name, on_change=metrics.breaker_moves(name))

    def learn(self, contract: ServiceDescriptor) -> None:
        """Adds the methods of a contract, before the first call."""
        self._methods |= {policy.request_class: policy for policy in read_policies(contract).values()}

    async def call(
        self, request: Message, response: type[ResponseT], ctx: CallContext, *, idempotency_key: str = ""
    ) -> ResponseT:
        """Calls the method of ``request`` for the caller of ``ctx``, before the caller's deadline.

        The caller learns only the kind of a refusal; the sibling's message goes to our log.

        Args:
            response: the class of the method's response.
            idempotency_key: repeated calls with the same key have one effect.

        Raises:
            NotFoundError: the caller's tenant has no such resource there; the violations are the fields that name it.
            FailedPreconditionError: a state there does not allow the call; the violations are the fields that name it.
            PayloadTooLargeError: the answer would be too large.
            AuthorizationError: the caller may not do this there.
            UnauthenticatedError: the caller's credential has expired.
            AbortedError: the call conflicted with another request.
            RateLimitError: the sibling is overloaded.
            DeadlineExceededError: the caller's deadline passed.
            ExternalServiceError: the sibling does not answer in `MAX_WAIT_SECONDS`, or the breaker is open.
            InternalError: the sibling does not understand us, or we do not understand it.
        """
        await ctx.let_go()
        try:
            return await self.breaker.run(partial(self._call, request, response, ctx, idempotency_key))
        finally:
            await ctx.go_on()

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            await self._connection.channel.close()
        await asyncio.gather(*self._closing)

    async def _call(
        self, request: Message, response: type[ResponseT], ctx: CallContext, idempotency_key: str
    ) -> ResponseT:
        connection = self._connected()
        path = self._methods[type(request)].path
        method = connection.channel.unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        token = ctx.token
        if connection.signer is not None:
            token = connection.signer.token(ctx.principal, audience=self._audience, method=path)
        span_id = secrets.token_hex(8)
        metadata = outgoing_headers(ctx, token=token, span_id=span_id, idempotency_key=idempotency_key)
        remaining = ctx.deadline - asyncio.get_running_loop().time()
        timeout = min(remaining, MAX_WAIT_SECONDS)
        started, code = time.time_ns(), _S.CANCELLED
        try:
            answer: ResponseT | None = await method(request, timeout=timeout, metadata=metadata)
            code = _S.OK
        except grpc.aio.AioRpcError as failure:
            code = failure.code()
            refusal = _meaning_of(failure, in_a_hurry=timeout == remaining and not ctx.is_own_deadline)
            if not isinstance(refusal, _ORDINARY):
                _log_failure(request, ctx, code=code.name, details=failure.details())
            raise refusal from failure
        finally:
            self._metrics.observe_client(path[1:], code, (time.time_ns() - started) / 1e9)
            ctx.trace.note(path[1:], SpanKind.CLIENT, started, self._facts, code=code, span_id=span_id)
        if answer is None:
            # gRPC returns None for an answer that it cannot decode.
            _log_failure(request, ctx, code=_S.OK.name, details="the response does not decode")
            raise errors.InternalError
        return answer

    def _connected(self) -> _Connection:
        version = self._tls.file_versions if self._tls else ()
        connection = self._connection
        if connection is not None and connection.version == version:
            return connection
        if connection is not None:
            # Calls in progress finish on the old connection.
            task = asyncio.create_task(connection.channel.close(MAX_CALL_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        options = (*_OPTIONS, ("grpc.service_config", _service_config(self._methods.values())))
        if self._tls is None:
            channel, signer = grpc.aio.insecure_channel(self._address, options=options), None
        else:
            credentials = channel_credentials(self._tls)
            channel = grpc.aio.secure_channel(self._address, credentials, options=options)
            certificate, key = self._tls.certificate_path.read_bytes(), self._tls.private_key_path.read_bytes()
            signer = ServiceTokenSigner(certificate, key)
        self._connection = _Connection(channel, signer, version)
        return self._connection


class Siblings:
    """The services that one process calls."""

    def __init__(self, addresses: Mapping[str, str], tls: TlsSettings | None, metrics: Metrics) -> None:
        self._addresses = addresses
        self._tls = tls
        self._metrics = metrics
        self._opened: dict[str, Sibling] = {}

    def open(self, service: str, contract: ServiceDescriptor) -> Sibling:
        """Returns the client of ``service``; it connects on its first call.

        All contracts of a service share one connection and one breaker.
        """
        sibling = self._opened.get(service)
        if sibling is None:
            sibling = Sibling(service, self._addresses[service], self._tls, self._metrics)
            self._opened[service] = sibling
        sibling.learn(contract)
        return sibling

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.gather(*(sibling.close() for sibling in self._opened.values()))


def _meaning_of(failure: grpc.aio.AioRpcError, *, in_a_hurry: bool) -> errors.DomainError:
    code = failure.code()
    if code is _S.DEADLINE_EXCEEDED and not in_a_hurry:
        code = _S.UNAVAILABLE
    error = _MEANING.get(code, errors.InternalError)
    trailers = dict(tuple(failure.trailing_metadata() or ()))
    if error is errors.RateLimitError and trailers.get("error-type") == errors.PayloadTooLargeError.reason:
        return errors.PayloadTooLargeError("The answer would be too large; ask for less at once.")
    fields = _fields(trailers) if error in {errors.NotFoundError, errors.FailedPreconditionError} else ()
    violations = [errors.FieldViolation(field, "names nothing", "NOT_FOUND") for field in fields]
    return error(violations=violations, retry_after_seconds=_RETRY_AFTER_SECONDS.get(error))


def _fields(trailers: Mapping[str, str | bytes]) -> list[str]:
    """Returns the fields that a sibling's refusal names, for example the missing items of a BatchGet."""
    named = error_details_pb2.BadRequest()
    packed = trailers.get("grpc-status-details-bin", b"")
    try:
        status = status_pb2.Status.FromString(packed if isinstance(packed, bytes) else b"")
        for detail in status.details:
            if detail.Unpack(named):
                break
    except DecodeError:
        return []
    return [violation.field for violation in named.field_violations]


def _log_failure(request: object, ctx: CallContext, *, code: str, details: str | None) -> None:
    name = type(request).__name__
    facts = {"request_id": ctx.request_id, "trace_id": ctx.trace.trace_id, "span_id": ctx.trace.span_id}
    _log.warning("sibling call failed", request=name, code=code, details=details, **facts)


def _service_config(methods: Iterable[MethodPolicy]) -> str:
    read_only = [policy.path[1:].split("/") for policy in methods if policy.read_only]
    repeatable = [{"service": service, "method": method} for service, method in read_only]
    # An empty name would match every method.
    repeating = [{"name": repeatable, "retryPolicy": _RETRY_POLICY}] if repeatable else []
    return json.dumps(
        {"loadBalancingConfig": _BALANCING, "methodConfig": repeating, "retryThrottling": _RETRY_THROTTLING}
    )
