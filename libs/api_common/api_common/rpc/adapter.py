"""The typed adapter between a servicer and gRPC.

A servicer is a plain class with one async method per RPC: `async def GetUser(self, request: pb.GetUserRequest,
ctx: RequestContext) -> pb.User`. At start each method is checked against the contract and wrapped in the layers once,
so that a call runs through plain function calls and nothing is looked up or composed per call.
"""

import asyncio
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from api_common.authn import Peer, Principal, peer_of
from api_common.call import MAX_CALL_SECONDS, RequestContext, RequestHeaders, StreamContext, read_headers
from api_common.contract import MethodPolicy, PolicyError, message_etag, read_policies
from api_common.db import TransactionOutcome
from api_common.errors import DomainError, MethodNotFoundError, Trailers, render
from api_common.events import RoleChange
from api_common.telemetry import Trace

Handler = Callable[[Any, RequestContext], Awaitable[Message]]
"""A bound servicer method."""

StreamHandler = Callable[[Any, StreamContext], AsyncIterator[Message]]
"""A bound servicer method that streams."""


@dataclass(slots=True)
class Call:
    """One call on its way through the layers; each layer fills in what it finds out."""

    method: MethodPolicy
    payload: bytes
    """The request as it came."""
    headers: RequestHeaders
    deadline: float
    """When the caller stops waiting, on the event loop's clock."""
    trace: Trace
    """What the call waited for, for who follows its trace."""
    peer: Peer | None = None
    """The process at the other end; None without TLS, in tests on loopback."""
    token: str = field(default="", repr=False)
    """The credential as it came; set once it is known to be well formed."""
    principal: Principal | None = None
    request: Message | None = None
    """The decoded request."""
    response: bytes = b""
    """The encoded response."""
    effect: Message | None = None
    """What the handler answered, once its work is committed or may be."""
    wrote: bool = False
    """Whether the handler wrote anything at all."""
    outcome: TransactionOutcome = TransactionOutcome.NOTHING
    """What became of the handler's work."""
    role_changes: Sequence[RoleChange] = ()
    """What the handler did to the roles of users."""
    replayed: bool = False
    """The response was stored by an earlier call with the same idempotency key."""
    error: DomainError | None = None
    """What to answer instead of a response."""
    send: Callable[[Message], Awaitable[None]] | None = None
    """Sends one message of a stream, and waits until there is room for the next."""
    resume_token: str = ""
    """Of the newest message of a stream; empty before the first."""
    admit: Callable[[], Awaitable[Principal]] | None = None
    """Decides once more whether the caller may, while a stream goes on."""

    def seconds_left(self) -> float:
        """Returns how long the caller still waits."""
        return self.deadline - asyncio.get_running_loop().time()


Layer = Callable[[Call], Awaitable[None]]
"""Does its part of a call and awaits the next layer."""

LayerFactory = Callable[[MethodPolicy, Any], Layer]
"""Composes the layers around one method; runs once per method, at start."""

MAX_STREAM_SECONDS: Final = 7200
"""No stream lives longer; WATCH_MAX_AGE_SECONDS ends it before, with a word."""

LAST_WORDS_SECONDS: Final = 2
"""How long the end of a stream waits for a client to hear why."""

_END_SECONDS: Final = 1
"""How long gRPC may take to end a call whose deadline has passed, before we answer all the same."""

COMPRESSED_BYTES: Final = range(16 * 1024, 2 * 1024 * 1024)
"""The sizes of responses that travel compressed, in bytes: below, little is saved, and there are secrets, which must
not be; above, the event loop would stand still for more than 30 ms.

Source: ADR 17, 14 ms and a seventh of the bytes per MiB of a list.
"""


def service_handler(descriptor: ServiceDescriptor, servicer: object, *, layers: LayerFactory) -> grpc.GenericRpcHandler:
    """Returns ``servicer`` as something a gRPC server can register.

    Raises:
        PolicyError: a method is missing, its annotations disagree with the contract, or its policy is incomplete.
    """
    handlers: dict[str, Any] = {}
    for name, policy in read_policies(descriptor).items():
        method = getattr(servicer, name, None)
        if method is None:
            raise PolicyError(f"{type(servicer).__name__} lacks {name}, which {descriptor.full_name} declares")
        _check_annotations(method, policy)
        if policy.is_stream:
            handlers[name] = grpc.unary_stream_rpc_method_handler(_adapt_stream(policy, layers(policy, method)))
        else:
            handlers[name] = grpc.unary_unary_rpc_method_handler(_adapt(policy, layers(policy, method)))
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def method_handler(policy: MethodPolicy, layer: Layer) -> grpc.GenericRpcHandler:
    """Returns a single method that is not of our contract as something a gRPC server can register."""
    service = policy.path[1:].removesuffix(f"/{policy.name}")
    handlers: dict[str, Any] = {policy.name: grpc.unary_unary_rpc_method_handler(_adapt(policy, layer))}
    return grpc.method_handlers_generic_handler(service, handlers)


def unknown_method_handler() -> grpc.GenericRpcHandler:
    """Returns the handler of last resort, so that a method that does not exist is refused in our shape, too."""

    async def refuse(_: bytes, transport: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        headers = read_headers(transport.invocation_metadata() or ())
        code, message, trailers = render(MethodNotFoundError("There is no such method."), request_id=headers.request_id)
        await transport.abort(code, message, trailers)
        raise AssertionError("abort raises")

    class UnknownMethod(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    return UnknownMethod()


def _adapt(policy: MethodPolicy, layer: Layer) -> Any:
    # Bytes in and out: a request that does not decode must be our error, not the library's text.
    async def unary(payload: bytes, transport: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        call = _begin(policy, payload, transport, max_seconds=MAX_CALL_SECONDS)
        headers = call.headers
        await layer(call)
        if call.seconds_left() <= 0 and transport.time_remaining() == 0:
            # gRPC ends the call itself when the caller's deadline passes, and this task with it. An answer that is sent
            # at the same moment reaches nobody, and grpc.aio never frees it (grpc/grpc#43360; docs/performance.md).
            await asyncio.sleep(_END_SECONDS)
        if call.error is not None:
            code, message, trailers = render(call.error, request_id=call.headers.request_id)
            await transport.abort(code, message, trailers)
        initial = _initial_metadata(call)
        compressed = headers.accepts_gzip and len(call.response) in COMPRESSED_BYTES
        if compressed:
            transport.set_compression(grpc.Compression.Gzip)
        # Without metadata of one's own, grpc.aio forgets the compression.
        if initial or compressed:
            await transport.send_initial_metadata(initial)
        return call.response

    return unary


def _adapt_stream(policy: MethodPolicy, layer: Layer) -> Any:
    async def stream(payload: bytes, transport: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        call = _begin(policy, payload, transport, max_seconds=MAX_STREAM_SECONDS)

        is_stuck = False

        async def send(message: Message) -> None:
            nonlocal is_stuck
            is_stuck = True
            await transport.write(message.SerializeToString())
            is_stuck = False
            call.resume_token = typing.cast(Any, message).resume_token

        call.send = send
        await layer(call)
        if call.error is None:
            return
        code, message, trailers = render(call.error, request_id=call.headers.request_id)
        # Who does not read does not hear of it either; the call ends all the same.
        async with asyncio.timeout(LAST_WORDS_SECONDS):
            if call.resume_token and not is_stuck:
                status = status_pb2.Status.FromString(_details(trailers))
                await send(policy.response_class(resume_token=call.resume_token, error=status))
            await transport.abort(code, message, trailers)

    return stream


def _details(trailers: Trailers) -> bytes:
    return typing.cast(bytes, dict(trailers)["grpc-status-details-bin"])


def _begin(
    policy: MethodPolicy, payload: bytes, transport: "grpc.aio.ServicerContext[bytes, bytes]", *, max_seconds: float
) -> Call:
    # None without a deadline, which the stubs do not know.
    remaining = typing.cast("float | None", transport.time_remaining())
    seconds = max_seconds if remaining is None else min(remaining, max_seconds)
    headers = read_headers(transport.invocation_metadata() or ())
    deadline = asyncio.get_running_loop().time() + seconds
    trace = Trace.follow(headers.traceparent, is_root=headers.begins_trace)
    return Call(policy, payload, headers, deadline, trace, peer_of(transport))


def _initial_metadata(call: Call) -> tuple[tuple[str, str], ...]:
    """Returns what a good answer carries beside its message."""
    initial: tuple[tuple[str, str], ...] = (("idempotent-replayed", "true"),) if call.replayed else ()
    # A header is where HTTP looks for it. Native callers have the field, and metadata of their own would cost them a
    # tenth of an empty call's CPU (50 of 420 µs, measured).
    if call.headers.from_rest and "etag" in call.method.response_class.DESCRIPTOR.fields_by_name:
        answer = call.method.response_class.FromString(call.response) if call.effect is None else call.effect
        initial += (("etag", message_etag(answer)),)
    return initial


def _check_annotations(method: Any, policy: MethodPolicy) -> None:
    hints: dict[str, Any] = typing.get_type_hints(method)
    returned: object = AsyncIterator[policy.response_class] if policy.is_stream else policy.response_class  # type: ignore[name-defined]
    expected: Sequence[tuple[str, object]] = (("request", policy.request_class), ("return", returned))
    for name, message in expected:
        if hints.get(name) != message:
            raise PolicyError(f"{policy.path}: `{name}` must be annotated as {message!r}, not {hints.get(name)!r}")
