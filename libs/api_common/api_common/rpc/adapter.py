"""The typed adapter between a servicer and gRPC.

A servicer is a plain class with one async method per RPC: `async def GetUser(self, request: pb.GetUserRequest,
ctx: RequestContext) -> pb.User`. At start each method is checked against the contract and wrapped in the layers, so
that nothing is looked up or composed per call.
"""

import asyncio
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from api_common.authn import EDGE, peer_of
from api_common.call import MAX_CALL_SECONDS, RequestContext, RequestHeaders, StreamContext
from api_common.contract import MethodPolicy, PolicyError, entity_tag, is_known, read_policies
from api_common.errors import DomainError, NotImplementedError_, Trailers, ValidationError, render
from api_common.rpc.call import Call, Incoming, Layer, MessageStream

_Transport = grpc.aio.ServicerContext[bytes, bytes]

Handler = Callable[[Any, RequestContext], Awaitable[Message]]
"""A bound servicer method."""

StreamHandler = Callable[[Any, StreamContext], AsyncIterator[Message]]
"""A bound servicer method that streams."""

LayerFactory = Callable[[MethodPolicy, Any], Layer]
"""Composes the layers around one method; runs once per method, at start."""

MAX_STREAM_SECONDS: Final = 7200
"""The longest life of a stream. WATCH_MAX_AGE_SECONDS ends watches earlier, with a last message."""

NOT_MODIFIED: Final = "x-ameide-not-modified"
"""Metadata key that tells the edge that the client has the resource already (`rest.lua`)."""

LAST_WORDS_SECONDS: Final = 2
"""How long the end of a stream waits for the client to read the last message, and then its status."""

_END_SECONDS: Final = 1
"""How long gRPC may take to end a call whose deadline has passed; then the call is answered nevertheless."""

COMPRESSED_BYTES: Final = range(16 * 1024, 2 * 1024 * 1024)
"""The sizes of responses that travel compressed, in bytes. Smaller ones save little and may hold secrets, which must
not be compressed; larger ones would block the event loop for more than 30 ms (ADR 17: 14 ms per MiB of a list).
"""


def decode(method: MethodPolicy, payload: bytes) -> Message:
    """Returns the request of ``payload``.

    Raises:
        ValidationError: it is none.
    """
    try:
        return method.request_class.FromString(payload)
    except (DecodeError, RecursionError) as error:
        raise ValidationError("The request does not decode as the method's message.") from error


class MethodNotFoundError(NotImplementedError_):
    """There is no such method."""

    reason = "METHOD_NOT_FOUND"
    sentence = "There is no such method."


def service_handler(descriptor: ServiceDescriptor, servicer: object, *, layers: LayerFactory) -> grpc.GenericRpcHandler:
    """Returns the gRPC handler of all methods of ``servicer``.

    Raises:
        PolicyError: a method is missing, its annotations disagree with the contract, or its policy is incomplete.
    """
    # Each method takes a stream of requests, because gRPC leaves a call of another kind without a message unanswered.
    handlers: dict[str, Any] = {}
    for name, policy in read_policies(descriptor).items():
        method = getattr(servicer, name, None)
        if method is None:
            raise PolicyError(f"{type(servicer).__name__} lacks {name}, which {descriptor.full_name} declares")
        _check_annotations(method, policy)
        if policy.is_stream:
            handlers[name] = grpc.stream_stream_rpc_method_handler(_adapt_stream(policy, layers(policy, method)))
        else:
            handlers[name] = grpc.stream_unary_rpc_method_handler(_adapt(policy, layers(policy, method)))
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def method_handler(policy: MethodPolicy, layer: Layer) -> grpc.GenericRpcHandler:
    """Returns the gRPC handler of one method that is not of our contract."""
    service = policy.path[1:].removesuffix(f"/{policy.name}")
    handlers: dict[str, Any] = {policy.name: grpc.stream_unary_rpc_method_handler(_adapt(policy, layer))}
    return grpc.method_handlers_generic_handler(service, handlers)


def unknown_method_handler() -> grpc.GenericRpcHandler:
    """Returns the handler that refuses unknown methods in our shape."""

    async def refuse(_: object, transport: _Transport) -> bytes:
        headers = RequestHeaders.read(transport.invocation_metadata() or ())
        await _abort(transport, _render(MethodNotFoundError(), headers))

    class UnknownMethod(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return grpc.stream_unary_rpc_method_handler(refuse)

    return UnknownMethod()


def _adapt(policy: MethodPolicy, layer: Layer) -> Any:
    is_get = policy.name.startswith("Get")
    has_etag = is_get or "etag" in policy.response_class.DESCRIPTOR.fields_by_name

    # Bytes in and out: a request that does not decode must be our error, not the library's text.
    async def unary(_: object, transport: _Transport) -> bytes:
        incoming = _read(policy, transport, max_seconds=MAX_CALL_SECONDS)
        call = Call(incoming)
        await layer(call)
        if incoming.deadline <= asyncio.get_running_loop().time() and transport.time_remaining() == 0:
            # gRPC ends the call itself when the caller's deadline passes, and this task with it. An answer that is sent
            # at the same moment reaches nobody, and grpc.aio never frees it (grpc/grpc#43360; docs/performance.md).
            await asyncio.sleep(_END_SECONDS)
        if call.error is not None:
            answer = _render(call.error, incoming.headers)
            # gRPC keeps this frame until garbage is collected, and the error's traceback holds call and request.
            call.error = None
            del call
            await _abort(transport, answer)
        done = call.done
        assert done is not None  # or there is an error
        initial: tuple[tuple[str, str], ...] = (("idempotent-replayed", "true"),) if done.replayed else ()
        if done.age_seconds is not None:
            age = (("age", str(done.age_seconds)),)
            # HTTP has it before the body; of gRPC's metadata that at the end costs next to nothing.
            if incoming.headers.from_rest:
                initial += age
            else:
                transport.set_trailing_metadata(age)
        # HTTP expects the etag in a header. Native callers read the field, and metadata of their own would cost them a
        # tenth of an empty call's CPU (50 of 420 µs, measured).
        response = done.response
        if has_etag and incoming.headers.from_rest:
            tag = entity_tag(done.message or policy.response_class.FromString(response))
            initial += (("etag", tag),)
            if is_get and is_known(tag, incoming.headers.if_none_match):
                # The edge makes 304 of it, and no JSON.
                initial += ((NOT_MODIFIED, "true"),)
                response = b""
        compressed = incoming.headers.accepts_gzip and len(response) in COMPRESSED_BYTES
        if compressed:
            transport.set_compression(grpc.Compression.Gzip)
        # Without metadata of one's own, grpc.aio forgets the compression.
        if initial or compressed:
            await transport.send_initial_metadata(initial)
        return response

    return unary


def _adapt_stream(policy: MethodPolicy, layer: Layer) -> Any:
    async def answer(_: object, transport: _Transport) -> None:
        stream = _Stream(transport)
        call = Call(_read(policy, transport, max_seconds=MAX_STREAM_SECONDS, stream=stream))
        await layer(call)
        if call.error is None:
            return
        answer = _render(call.error, call.incoming.headers)
        call.error = None
        del call  # as above
        status = status_pb2.Status.FromString(typing.cast(bytes, dict(answer[2])["grpc-status-details-bin"]))
        # A client that does not read hears nothing of the error; the call ends all the same.
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                if stream.resume_token and not stream.is_stuck:
                    await stream.send(policy.response_class(resume_token=stream.resume_token, error=status))
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await _abort(transport, answer)

    return answer


class _Stream:
    """The open response of one call."""

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport
        self.resume_token, self.unpaid = "", 0
        self.is_stuck = False
        """A message is on its way and the client does not take it."""

    async def send(self, message: Message) -> None:
        self.is_stuck = True
        encoded = message.SerializeToString()
        await self._transport.write(encoded)
        self.is_stuck = False
        self.unpaid += len(encoded)
        self.resume_token = typing.cast(Any, message).resume_token


async def _abort(transport: _Transport, answer: tuple[grpc.StatusCode, str, Trailers]) -> NoReturn:
    await transport.abort(*answer)
    raise AssertionError("abort raises")


def _render(error: DomainError, headers: RequestHeaders) -> tuple[grpc.StatusCode, str, Trailers]:
    return render(error, request_id=headers.request_id, json_names=headers.from_rest)


async def _one_message(transport: _Transport, *, is_only: bool) -> bytes:
    """Returns the only message of a call.

    Args:
        is_only: the edge says so.
    """
    # Objects, because the stubs do not know the end of a stream.
    payload = typing.cast(object, await transport.read())
    if not isinstance(payload, bytes):
        raise ValidationError("The body must hold one message; it holds none, or a part of one.")
    # A second look costs a twentieth of an empty call.
    if not is_only and typing.cast(object, await transport.read()) is not grpc.aio.EOF:
        raise ValidationError("The body must hold one message; it holds more.")
    return payload


def _read(
    policy: MethodPolicy, transport: _Transport, *, max_seconds: float, stream: MessageStream | None = None
) -> Incoming:
    # None without a deadline, which the stubs do not know.
    remaining = typing.cast("float | None", transport.time_remaining())
    seconds = max_seconds if remaining is None else min(remaining, max_seconds)
    headers = RequestHeaders.read(transport.invocation_metadata() or ())
    deadline = asyncio.get_running_loop().time() + seconds
    peer = peer_of(transport)

    def at_end(told: Callable[[], None]) -> None:
        # The stubs know no plain function there.
        typing.cast(Any, transport).add_done_callback(lambda _: told())

    # The edge lets exactly one message pass (strict.lua); what writes is looked at twice all the same.
    is_only = policy.read_only and not policy.is_stream and peer is not None and peer.identity == EDGE
    receive = partial(_one_message, transport, is_only=is_only)
    return Incoming(policy, receive, headers, deadline, headers.trace, peer, stream, at_end)


def _check_annotations(method: Any, policy: MethodPolicy) -> None:
    hints: dict[str, Any] = typing.get_type_hints(method)
    returned: object = AsyncIterator[policy.response_class] if policy.is_stream else policy.response_class  # type: ignore[name-defined]
    expected: Sequence[tuple[str, object]] = (("request", policy.request_class), ("return", returned))
    for name, message in expected:
        if hints.get(name) != message:
            raise PolicyError(f"{policy.path}: `{name}` must be annotated as {message!r}, not {hints.get(name)!r}")
