"""What a call notes of its waits, of which spans are made if it is exported."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import grpc
from opentelemetry.trace import SpanKind

_FAILURES: Final = frozenset(
    {
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)

Attributes = Mapping[str, str | int]
"""Facts about a span, by their names in the conventions."""


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

    @property
    def failed(self) -> bool:
        """Whether it failed by our fault; such a call is exported even if it was not sampled."""
        return self.code in _FAILURES


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
