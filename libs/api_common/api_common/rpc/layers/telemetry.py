"""The outermost layer: metrics and one access line per call, however it ends."""

import asyncio
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import grpc
import orjson
from opentelemetry.trace import SpanKind
from prometheus_client import Histogram

from api_common.contract import MethodPolicy
from api_common.errors import spec_of
from api_common.rpc.call import Call, Layer
from api_common.telemetry import Metrics, SpanRecord, Tracer

# Looking up a member of an enum runs Python code, each time.
_OK, _CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED


class AccessLog:
    """Writes one JSON line per call.

    It uses orjson itself: a structlog event costs 20 µs, this line 3 (docs/performance.md).
    """

    def __init__(self, service: str, stream: TextIO | None = None) -> None:
        self._service = service
        self._stream = (stream or sys.stdout).buffer

    def write(self, fields: Mapping[str, Any]) -> None:
        """Writes ``fields`` with time, service and event name."""
        line = {"time": datetime.now(UTC), "level": "info", "service": self._service, "event": "rpc", **fields}
        self._stream.write(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))
        self._stream.flush()


class _Durations(dict[grpc.StatusCode, Histogram]):
    """The histograms of one method by status code: labels are bound once, not per call."""

    def __init__(self, histogram: Histogram, method: str) -> None:
        super().__init__()
        self._histogram = histogram
        self._method = method

    def __missing__(self, code: grpc.StatusCode) -> Histogram:
        found = self[code] = self._histogram.labels(self._method, code.name)
        return found


def telemetry(
    method: MethodPolicy, within: Layer, *, metrics: Metrics, access_log: AccessLog, tracer: Tracer | None
) -> Layer:
    """Measures and records every call of ``method``."""
    name, durations = method.path[1:], _Durations(metrics.duration, method.path[1:])
    active = metrics.streams if method.is_stream else metrics.active

    async def layer(call: Call) -> None:
        incoming = call.incoming
        trace, begun, started = incoming.trace, time.time_ns(), time.perf_counter()
        if tracer is not None:
            tracer.begin(trace)
        active.inc()
        code = _CANCELLED
        try:
            await within(call)
            code = _OK if call.error is None else spec_of(call.error).code
        finally:
            seconds = time.perf_counter() - started
            active.dec()
            if code is _CANCELLED and asyncio.get_running_loop().time() >= incoming.deadline:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            principal, exported = call.principal, False
            if tracer is not None:
                tenant = {"ameide.tenant_id": principal.tenant_id} if principal else {}
                facts = {"ameide.request_id": incoming.headers.request_id, **tenant}
                ended = begun + int(seconds * 1e9)
                exported = tracer.end(
                    trace, SpanRecord(name, SpanKind.SERVER, begun, ended, facts, code, trace.span_id)
                )
            if method.is_stream:
                # The life of a stream is no latency.
                metrics.streams_ended.labels(name, code.name).inc()
            else:
                durations[code].observe(seconds, {"trace_id": trace.trace_id} if exported else None)
            access_log.write(
                {
                    "method": name,
                    "code": code.name,
                    "reason": call.error.reason if call.error else None,
                    "duration_ms": round(seconds * 1000, 3),
                    "request_id": incoming.headers.request_id,
                    "trace_id": trace.trace_id,
                    "span_id": trace.span_id,
                    "tenant_id": principal.tenant_id if principal else None,
                    "principal": principal.subject if principal else None,
                }
            )

    return layer
