"""Sends spans over OTLP, in batches and from a thread of its own."""

import os
from collections.abc import Iterator
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from api_common.telemetry.otlp import EXPORT_SECONDS, SCOPE, resource
from api_common.telemetry.trace import SpanRecord

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class SpanExport:
    """The way of spans to a collector; a full queue drops spans."""

    def __init__(self, service: str, endpoint: str) -> None:
        self._resource = resource(service)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._processor = BatchSpanProcessor(self._exporter, schedule_delay_millis=1000)
        self.flush = self._processor.shutdown
        """Sends what waits, and ends."""
        self.abandon = self._exporter.shutdown
        """Ends without that."""

    def add(self, record: SpanRecord, trace_id: str, *, parent_id: str) -> None:
        """Queues the span of ``record`` in a trace, below its parent; an empty ``parent_id`` is none."""
        span = ReadableSpan(
            name=record.name,
            context=_context(trace_id, record.span_id or os.urandom(8).hex()),
            parent=_context(trace_id, parent_id) if parent_id else None,
            resource=self._resource,
            attributes={**record.attributes, **dict(_rpc(record))},
            kind=record.kind,
            status=Status(StatusCode.ERROR) if record.failed else Status(StatusCode.UNSET),
            start_time=record.started_ns,
            end_time=record.ended_ns,
            instrumentation_scope=SCOPE,
        )
        self._processor.on_end(span)


def _rpc(record: SpanRecord) -> Iterator[tuple[str, str]]:
    if record.code is None:
        return
    if record.failed:
        yield "error.type", record.code.name
    if record.kind is not SpanKind.INTERNAL:
        yield "rpc.system.name", "grpc"
        yield "rpc.method", record.name
        yield "rpc.response.status_code", record.code.name


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
