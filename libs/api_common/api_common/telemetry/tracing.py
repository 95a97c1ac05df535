"""Traces over OTLP (OpenTelemetry): what a call waits for is noted, and becomes spans at its end, if it matters.

It matters if the trace is sampled or the call failed by our fault: so errors are kept, whatever the ratio, and a call
that nobody will look at costs 2 µs; with spans of the SDK that run along it would be 190 (docs/telemetry.md).

Source: OpenTelemetry semantic conventions for RPC and database clients (v1.44).
"""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from api_common.telemetry.otlp import SCOPE, collector, resource

Attributes = Mapping[str, str | int]
"""Facts about a span, by their names in the conventions."""

FAILURES: Final = frozenset(
    {
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)
"""What is our fault; such a call is exported whether it was sampled or not."""

FLUSH_SECONDS: Final = 3
"""How long the end of a process waits for its last spans."""

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_LOW_BITS: Final = 1 << 56


class SpanRecord(NamedTuple):
    """Something that a call waited for."""

    name: str
    """A method, or what a statement does: few different ones."""
    kind: SpanKind
    """Whether it was asked of us, or by us."""
    started_ns: int
    """Nanoseconds since the epoch."""
    ended_ns: int
    """Nanoseconds since the epoch."""
    attributes: Attributes
    """What else is known; never what a request carried."""
    code: grpc.StatusCode | None = None
    """How a call ended."""
    span_id: str = ""
    """Of a call, 16 hex digits; whoever was called was told it. Else one is made when a span is."""


@dataclass(slots=True)
class Trace:
    """The part of a trace that one call is, from its request's `traceparent` on."""

    trace_id: str
    """32 hex digits."""
    parent_id: str
    """The span that called, 16 hex digits; empty where the trace begins here."""
    sampled: bool
    """Whether spans are wanted even if all goes well; whoever began the trace decided."""
    span_id: str = field(default_factory=lambda: os.urandom(8).hex())
    """This call's own span, 16 hex digits."""
    steps: list[SpanRecord] | None = None
    """In the order in which they ended; None where nobody will ask."""

    def note(
        self,
        name: str,
        kind: SpanKind,
        started_ns: int,
        attributes: Attributes,
        *,
        code: grpc.StatusCode | None = None,
        span_id: str = "",
    ) -> None:
        """Notes that something was waited for, until now; the arguments are those of a `Step`."""
        if self.steps is not None:
            self.steps.append(SpanRecord(name, kind, started_ns, time.time_ns(), attributes, code, span_id))

    def parent_of(self, span_id: str) -> str:
        """Returns the `traceparent` for a call to a sibling, whose span here is ``span_id``."""
        return f"00-{self.trace_id}-{span_id}-{'01' if self.sampled else '00'}"


class Tracer:
    """Makes spans of calls and sends them to a collector, in batches and from a thread of its own.

    A collector that is slow or away costs spans, never calls: a full queue drops them.

    Args:
        endpoint: of a `collector`.
        sample_ratio: of the traces that begin here.
    """

    def __init__(self, service: str, *, endpoint: str, sample_ratio: float) -> None:
        self._resource = resource(service)
        self._bound = round(sample_ratio * _LOW_BITS)
        self._exporter = OTLPSpanExporter(**collector(endpoint))
        self._processor = BatchSpanProcessor(self._exporter, schedule_delay_millis=1000)

    def begin(self, trace: Trace) -> None:
        """Has steps noted, and decides whether a trace that begins here is sampled: as everybody does by its id."""
        trace.steps = []
        if not trace.parent_id:
            trace.sampled = int(trace.trace_id[18:], 16) < self._bound

    def end(self, trace: Trace, call: SpanRecord) -> bool:
        """Exports ``call``, which is ``trace``'s own span, and its steps, if anybody wants to see them.

        Returns:
            Whether it did.
        """
        if not (trace.sampled or call.code in FAILURES):
            return False
        self._processor.on_end(self._span(trace, call, parent_id=trace.parent_id))
        for step in trace.steps or ():
            self._processor.on_end(self._span(trace, step, parent_id=trace.span_id))
        return True

    async def close(self) -> None:
        """Sends what is left, for a moment."""
        flushing = asyncio.create_task(asyncio.to_thread(self._processor.shutdown))
        await asyncio.wait({flushing}, timeout=FLUSH_SECONDS)
        if not flushing.done():
            # Ends the export that hangs; the process could not end before its thread does.
            self._exporter.shutdown()
        await flushing

    def _span(self, trace: Trace, step: SpanRecord, *, parent_id: str) -> ReadableSpan:
        failed = step.code in FAILURES
        return ReadableSpan(
            name=step.name,
            context=_context(trace.trace_id, step.span_id or os.urandom(8).hex()),
            parent=_context(trace.trace_id, parent_id) if parent_id else None,
            resource=self._resource,
            attributes={**step.attributes, **dict(_rpc(step))},
            kind=step.kind,
            status=Status(StatusCode.ERROR) if failed else Status(StatusCode.UNSET),
            start_time=step.started_ns,
            end_time=step.ended_ns,
            instrumentation_scope=SCOPE,
        )


def _rpc(step: SpanRecord) -> Iterator[tuple[str, str]]:
    if step.code is not None:
        yield "rpc.system.name", "grpc"
        yield "rpc.method", step.name
        yield "rpc.response.status_code", step.code.name
        if step.code in FAILURES:
            yield "error.type", step.code.name


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
