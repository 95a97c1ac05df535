"""Traces over OTLP (OpenTelemetry): a call notes its waits, and they become spans at its end if it is exported.

It is exported if the trace is sampled or the call failed by our fault. So errors are kept, whatever the ratio, and
other calls cost 2 µs; with live spans of the SDK each would cost 190 µs (docs/telemetry.md).

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

from api_common.telemetry.otlp import EXPORT_SECONDS, SCOPE, resource

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
"""Failures that are our fault; such a call is exported even if it was not sampled."""

FLUSH_SECONDS: Final = 3
"""How long a stopping process waits for the export of its last spans."""

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_LOW_BITS: Final = 1 << 56


class SpanRecord(NamedTuple):
    """One wait of a call."""

    name: str
    """A method, or the summary of a statement: few different values."""
    kind: SpanKind
    """Server for our own call, client for a call or statement of ours."""
    started_ns: int
    """Nanoseconds since the epoch."""
    ended_ns: int
    """Nanoseconds since the epoch."""
    attributes: Attributes
    """Further facts; never parts of a request."""
    code: grpc.StatusCode | None = None
    """How a call ended."""
    span_id: str = ""
    """The span id that a call sent, 16 hex digits; empty if the span gets its id at the export."""


@dataclass(slots=True)
class Trace:
    """One call's part of a trace."""

    trace_id: str
    """32 hex digits."""
    parent_id: str
    """The span that called, 16 hex digits; empty where the trace begins here."""
    sampled: bool
    """Whether spans are exported even if all goes well; the process that began the trace decided."""
    span_id: str = field(default_factory=lambda: os.urandom(8).hex())
    """This call's own span, 16 hex digits."""
    steps: list[SpanRecord] | None = None
    """The waits in the order in which they ended; None without a tracer."""

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
        """Notes a wait that ends now; the arguments are those of a `SpanRecord`."""
        if self.steps is not None:
            self.steps.append(SpanRecord(name, kind, started_ns, time.time_ns(), attributes, code, span_id))

    def parent_of(self, span_id: str) -> str:
        """Returns the `traceparent` for a call to a sibling, whose span here is ``span_id``."""
        return f"00-{self.trace_id}-{span_id}-{'01' if self.sampled else '00'}"


class Tracer:
    """Makes spans of calls and sends them to a collector, in batches and from its own thread.

    A slow or missing collector costs spans, never calls: a full queue drops spans.

    Args:
        endpoint: `http://host:port` of an OTLP collector (gRPC); `https` is TLS with public authorities.
        sample_ratio: the sampled part of the traces that begin here.
    """

    def __init__(self, service: str, *, endpoint: str, sample_ratio: float) -> None:
        self._resource = resource(service)
        self._bound = round(sample_ratio * _LOW_BITS)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._processor = BatchSpanProcessor(self._exporter, schedule_delay_millis=1000)

    def begin(self, trace: Trace) -> None:
        """Starts to note waits; samples a trace that begins here by its id, as OpenTelemetry's samplers do."""
        trace.steps = []
        if not trace.parent_id:
            trace.sampled = int(trace.trace_id[18:], 16) < self._bound

    def end(self, trace: Trace, call: SpanRecord) -> bool:
        """Exports ``call``, the span of ``trace`` itself, and its waits, if it is sampled or failed.

        Returns:
            Whether it was exported.
        """
        if not (trace.sampled or call.code in FAILURES):
            return False
        self._processor.on_end(self._span(trace, call, parent_id=trace.parent_id))
        for step in trace.steps or ():
            self._processor.on_end(self._span(trace, step, parent_id=trace.span_id))
        return True

    async def close(self) -> None:
        """Exports the last spans, for `FLUSH_SECONDS` at most."""
        flushing = asyncio.create_task(asyncio.to_thread(self._processor.shutdown))
        await asyncio.wait({flushing}, timeout=FLUSH_SECONDS)
        if not flushing.done():
            # End an export that hangs: the process cannot end before its thread does.
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
    if step.code in FAILURES:
        yield "error.type", step.code.name
    if step.code is not None and step.kind is not SpanKind.INTERNAL:
        yield "rpc.system.name", "grpc"
        yield "rpc.method", step.name
        yield "rpc.response.status_code", step.code.name


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
