"""Traces over OTLP (OpenTelemetry): what a call waits for is noted, and becomes spans at its end, if it matters.

It matters if the trace is sampled or the call failed by our fault: so errors are kept, whatever the ratio, and a call
that nobody will look at costs 9 µs; with spans of the SDK that run along it would be 190 (docs/telemetry.md).

Source: OpenTelemetry semantic conventions for RPC and database clients (v1.44).
"""

import asyncio
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

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
_SCOPE: Final = InstrumentationScope("ameide.api_common")
_LOW_BITS: Final = 1 << 56


class Step(NamedTuple):
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
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """This call's own span, 16 hex digits."""
    steps: list[Step] = field(default_factory=list)
    """In the order in which they ended."""

    @classmethod
    def follow(cls, traceparent: str, *, is_root: bool) -> "Trace":
        """Returns what goes on from a well-formed ``traceparent``, or begins with its trace id."""
        sampled = not is_root and bool(int(traceparent[53:], 16) & 1)
        return cls(traceparent[3:35], "" if is_root else traceparent[36:52], sampled)

    def parent_of(self, span_id: str) -> str:
        """Returns the `traceparent` for a call to a sibling, whose span here is ``span_id``."""
        return f"00-{self.trace_id}-{span_id}-{'01' if self.sampled else '00'}"


class Tracer:
    """Makes spans of calls and sends them to a collector, in batches and from a thread of its own.

    A collector that is slow or away costs spans, never calls: a full queue drops them.

    Args:
        endpoint: `http://host:port` of an OTLP collector (gRPC); `https` is TLS with public authorities.
        sample_ratio: of the traces that begin here.
    """

    def __init__(self, service: str, *, endpoint: str, sample_ratio: float) -> None:
        self._resource = Resource.create({"service.name": service, "service.namespace": "ameide"})
        self._bound = round(sample_ratio * _LOW_BITS)
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=5)
        self._processor = BatchSpanProcessor(exporter, schedule_delay_millis=1000)

    def begin(self, trace: Trace) -> None:
        """Decides whether a trace that begins here is sampled; the same for whoever else looks at its id."""
        if not trace.parent_id:
            trace.sampled = int(trace.trace_id[18:], 16) < self._bound

    def end(self, trace: Trace, call: Step) -> None:
        """Exports ``call``, which is ``trace``'s own span, and its steps, if anybody wants to see them."""
        if not (trace.sampled or call.code in FAILURES):
            return
        self._processor.on_end(self._span(trace, call, parent_id=trace.parent_id))
        for step in trace.steps:
            self._processor.on_end(self._span(trace, step, parent_id=trace.span_id))

    async def close(self) -> None:
        """Sends what is left, for a moment."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await asyncio.to_thread(self._processor.force_flush, FLUSH_SECONDS * 1000)
        except TimeoutError:
            return
        await asyncio.to_thread(self._processor.shutdown)

    def _span(self, trace: Trace, step: Step, *, parent_id: str) -> ReadableSpan:
        failed = step.code in FAILURES
        return ReadableSpan(
            name=step.name,
            context=_context(trace.trace_id, step.span_id or secrets.token_hex(8)),
            parent=_context(trace.trace_id, parent_id) if parent_id else None,
            resource=self._resource,
            attributes={**step.attributes, **dict(_rpc(step))},
            kind=step.kind,
            status=Status(StatusCode.ERROR) if failed else Status(StatusCode.UNSET),
            start_time=step.started_ns,
            end_time=step.ended_ns,
            instrumentation_scope=_SCOPE,
        )


def _rpc(step: Step) -> Iterator[tuple[str, str]]:
    if step.code is not None:
        yield "rpc.system.name", "grpc"
        yield "rpc.method", step.name
        yield "rpc.response.status_code", step.code.name
        if step.code in FAILURES:
            yield "error.type", step.code.name


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
