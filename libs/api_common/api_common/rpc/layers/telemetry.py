"""The outermost layer: metrics and one access line per call, however it ends."""

import asyncio
import time

import grpc
from opentelemetry.trace import SpanKind

from api_common.contract import MethodPolicy
from api_common.errors import spec_of
from api_common.rpc.call import Call, Layer
from api_common.telemetry import AccessLog, Metrics, SpanRecord, Tracer

# An enum's members are looked up by code in Python, each time.
_OK, _CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED


def telemetry(
    method: MethodPolicy, within: Layer, *, metrics: Metrics, access_log: AccessLog, tracer: Tracer | None
) -> Layer:
    """Measures and records every call of ``method``."""
    name = method.path[1:]
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
                metrics.observe(name, code, seconds, trace.trace_id if exported else "")
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
