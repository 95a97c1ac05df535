"""Traces over OTLP (OpenTelemetry): a call notes its waits, and they become spans at its end if it is exported.

It is exported if the trace is sampled or the call failed by our fault. So errors are kept, whatever the ratio, and
other calls cost 2 µs; with live spans of the SDK each would cost 190 µs (docs/telemetry.md).

Source: OpenTelemetry semantic conventions for RPC and database clients (v1.44).
"""

import asyncio
from typing import Final

from api_common.telemetry.trace import SpanRecord, Trace

FLUSH_SECONDS: Final = 3
"""How long a stopping process waits for the export of its last spans."""

_LOW_BITS: Final = 1 << 56


class Tracer:
    """Makes spans of calls and sends them to a collector, in batches and from its own thread.

    A slow or missing collector costs spans, never calls: a full queue drops spans.

    Args:
        endpoint: `http://host:port` of an OTLP collector (gRPC); `https` is TLS with public authorities.
        sample_ratio: the sampled part of the traces that begin here.
    """

    def __init__(self, service: str, *, endpoint: str, sample_ratio: float) -> None:
        # Without a collector a process starts a tenth faster, and takes 3 MB less.
        from api_common.telemetry.otlp_spans import SpanExport

        self._export = SpanExport(service, endpoint)
        self._bound = round(sample_ratio * _LOW_BITS)

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
        if not (trace.sampled or call.failed):
            return False
        self._export.add(call, trace.trace_id, parent_id=trace.parent_id)
        for step in trace.steps or ():
            self._export.add(step, trace.trace_id, parent_id=trace.span_id)
        return True

    async def close(self) -> None:
        """Exports the last spans, for `FLUSH_SECONDS` at most."""
        flushing = asyncio.create_task(asyncio.to_thread(self._export.flush))
        await asyncio.wait({flushing}, timeout=FLUSH_SECONDS)
        if not flushing.done():
            # End an export that hangs: the process cannot end before its thread does.
            self._export.abandon()
        await flushing
