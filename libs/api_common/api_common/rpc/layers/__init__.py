"""The layers of a call, from the outside: telemetry, errors, admission, effects, repeat, transaction or stream.

This is the one place that composes handlers (ADR 0005).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from api_common.authn import EDGE, Authenticator
from api_common.authz import Directory
from api_common.contract import MethodPolicy
from api_common.db import ConstraintErrors, Database, repeat_if_stale
from api_common.errors import AuthorizationError
from api_common.rpc.adapter import decode, method_handler, service_handler
from api_common.rpc.call import Call, Done, Incoming, Layer
from api_common.rpc.layers.admission import Shares, admission
from api_common.rpc.layers.answer_cache import AnswerCache, KeptAnswers
from api_common.rpc.layers.effects import effects, record_denial
from api_common.rpc.layers.errors import errors
from api_common.rpc.layers.streaming import Streams, stream
from api_common.rpc.layers.telemetry import AccessLog, telemetry
from api_common.rpc.layers.transaction import transaction
from api_common.settings import WatchSettings
from api_common.telemetry import Metrics, Tracer

__all__ = ["Pipeline"]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The dependencies that the layers of a process share."""

    authenticator: Authenticator
    directory: Directory
    database: Database
    constraints: ConstraintErrors
    """The error behind each broken constraint."""
    metrics: Metrics
    access_log: AccessLog
    streams: Streams
    watch: WatchSettings
    shares: Shares
    cache: AnswerCache
    tracer: Tracer | None = None
    """None without a collector."""

    def service_handler(self, descriptor: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        """Returns the gRPC handler of all methods of ``servicer``.

        Raises:
            PolicyError: a method is missing, its annotations disagree with the contract, or its policy is incomplete.
        """
        return service_handler(descriptor, servicer, layers=self.compose)

    def method_handler(
        self, method: MethodPolicy, answer: Callable[[Message, Incoming], Awaitable[bytes]]
    ) -> grpc.GenericRpcHandler:
        """Returns the gRPC handler of one method of the edge's contract, without admission and transaction."""

        async def layer(call: Call) -> None:
            peer = call.incoming.peer
            if peer is not None and peer.identity != EDGE:
                raise AuthorizationError("This service does not serve this caller.")
            call.done = Done(await answer(decode(method, call.payload), call.incoming))

        return method_handler(method, self._measured(method, errors(method, layer)))

    def compose(self, method: MethodPolicy, handler: Any) -> Layer:
        """Returns the layers around ``handler``; called once per method."""
        within: Layer
        if method.is_stream:
            within = stream(method, handler, streams=self.streams, settings=self.watch, metrics=self.metrics)
        else:
            within = transaction(
                method,
                handler,
                database=self.database,
                constraints=self.constraints,
                metrics=self.metrics,
                wake=self.streams.notifier.wake,
            )
            within = partial(repeat_if_stale, within)  # type: ignore[arg-type]  # mypy binds no TypeVarTuple
        within = effects(method, within, directory=self.directory, cache=self.cache)
        kept = None
        if method.cacheable and self.cache.most_bytes:
            kept = KeptAnswers(method, within, cache=self.cache, metrics=self.metrics)
        within = admission(
            method, within, kept=kept, authenticator=self.authenticator, directory=self.directory, shares=self.shares
        )
        within = errors(method, within, denied=record_denial)
        return self._measured(method, within)

    def _measured(self, method: MethodPolicy, within: Layer) -> Layer:
        return telemetry(method, within, metrics=self.metrics, access_log=self.access_log, tracer=self.tracer)
