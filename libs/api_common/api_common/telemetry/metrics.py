"""Logs and metrics of a process; names are constants here, so that dashboards and code cannot drift.

Source: OpenTelemetry semantic conventions for RPC (v1.44, release candidate) for metric and label names.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import grpc
import orjson
import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api_common.telemetry.occupancy import Occupancy

DURATION_BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Source: the semantic convention's advice for `rpc.server.call.duration`."""

LAG_INTERVAL_SECONDS: Final = 0.25
"""How often the lag of the event loop is measured."""
LAG_SAMPLES: Final = 60
"""The worst of so many measurements is shown: 15 s, a scrape's usual interval."""

UNSILENCED: Final = structlog.wrap_logger(None, wrapper_class=structlog.BoundLogger)
"""For events that somebody keeps: the plain class has no threshold, so the level of the log does not matter."""

BREAKER_STATES: Final = ("closed", "half-open", "open")
"""What a circuit breaker can be."""


class Metrics:
    """The RPC metrics of one service; label children are bound once per method and code, not per call."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._duration = Histogram(
            "rpc_server_call_duration_seconds",
            "Duration of calls that were answered.",
            ("rpc_method", "rpc_status_code"),
            buckets=DURATION_BUCKETS_SECONDS,
            registry=registry,
        )
        self.active = Gauge("rpc_server_active_requests", "Calls in progress.", registry=registry)
        self.streams = Gauge("rpc_server_open_streams", "Streams that are open.", registry=registry)
        self.streams_ended = Counter(
            "rpc_server_streams_ended", "Streams that ended.", ("rpc_method", "rpc_status_code"), registry=registry
        )
        self.stream_messages = Counter(
            "rpc_server_stream_messages", "Messages of streams.", ("rpc_method", "event"), registry=registry
        )
        self.change_age = Histogram(
            "watch_change_age_seconds",
            "From the beginning of a transaction to when its changes were read for current watches.",
            buckets=DURATION_BUCKETS_SECONDS,
            registry=registry,
        )
        self.changes_reaped = Counter(
            "changes_reaped", "Changes that were deleted when their time was up.", registry=registry
        )
        self.replays = Counter(
            "idempotent_replays", "Calls answered from a stored response.", ("rpc_method",), registry=registry
        )
        self.reaped = Counter(
            "idempotency_keys_reaped", "Expired idempotency keys that were deleted.", registry=registry
        )
        self._breakers = Gauge(
            "circuit_breaker_state",
            "1 for the state that the breaker of a dependency is in.",
            ("target", "state"),
            registry=registry,
        )
        self._client_duration = Histogram(
            "rpc_client_call_duration_seconds",
            "Duration of calls to other services.",
            ("rpc_method", "rpc_status_code"),
            buckets=DURATION_BUCKETS_SECONDS,
            registry=registry,
        )
        self._lag = Gauge("event_loop_lag_seconds", "How late the event loop was at worst lately.", registry=registry)
        self._children: dict[tuple[str, grpc.StatusCode], Histogram] = {}
        ProcessCollector(registry=registry)

    def watch_pool(self, occupancy: Callable[[], Occupancy]) -> None:
        """Shows how full the pool of database connections is, whenever somebody looks."""
        self.registry.register(_PoolCollector(occupancy))

    async def watch_loop(self) -> None:
        """Measures how late the event loop is: what blocks it, or too little CPU. Never returns."""
        loop = asyncio.get_running_loop()
        lately: deque[float] = deque(maxlen=LAG_SAMPLES)
        while True:
            due = loop.time() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            lately.append(loop.time() - due)
            self._lag.set(max(lately))

    def breaker_moves(self, target: str) -> Callable[[str], None]:
        """Returns what is to be told each new state of ``target``'s breaker, which is closed now."""

        def move(current: str) -> None:
            for state in BREAKER_STATES:
                self._breakers.labels(target, state).set(state == current)

        move("closed")
        return move

    def observe_client(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Counts one call of ``method`` of another service."""
        self._client_duration.labels(method, code.name).observe(seconds)

    def observe(self, method: str, code: grpc.StatusCode, seconds: float, trace_id: str) -> None:
        """Counts one call of ``method``.

        Args:
            trace_id: of a call whose trace was exported, as an example; else empty.
        """
        key = (method, code)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._duration.labels(method, code.name)
        child.observe(seconds, {"trace_id": trace_id} if trace_id else None)


class _PoolCollector(Collector):
    """Source: OpenTelemetry semantic conventions for database clients (v1.44), `db.client.connection.*`."""

    def __init__(self, occupancy: Callable[[], Occupancy]) -> None:
        self._occupancy = occupancy

    def collect(self) -> Iterator[Metric]:
        now = self._occupancy()
        count = GaugeMetricFamily("db_client_connection_count", "Connections to the database.", labels=("state",))
        count.add_metric(["idle"], now.idle)
        count.add_metric(["used"], now.open - now.idle)
        yield count
        yield GaugeMetricFamily("db_client_connection_max", "Connections there may be.", now.size)
        yield GaugeMetricFamily("db_client_connection_pending_requests", "Requests that wait for one.", now.waiting)
        yield CounterMetricFamily("db_client_connection_timeouts", "Requests that waited in vain.", now.timeouts)


class AccessLog:
    """One JSON line per call.

    Written by hand with orjson: a structlog event costs 20 µs, this line 3 (docs/performance.md).
    """

    def __init__(self, service: str, stream: TextIO | None = None) -> None:
        self._service = service
        self._stream = (stream or sys.stdout).buffer

    def write(self, fields: Mapping[str, Any]) -> None:
        """Writes ``fields`` with time, service and event name."""
        line = {"time": datetime.now(UTC), "level": "info", "service": self._service, "event": "rpc", **fields}
        self._stream.write(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))
        self._stream.flush()


def configure_logging(service: str, level: str) -> None:
    """Sends structlog and the standard library's loggers to stdout as JSON lines of one shape."""
    severity = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]

    def with_service(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    structlog.configure(
        processors=[*shared, with_service, structlog.processors.JSONRenderer(serializer=_serialize)],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, with_service],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_serialize),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(severity)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_hang_up)


def _is_no_hang_up(record: logging.LogRecord) -> bool:
    # A caller that leaves just before its answer is gRPC's error, with a stack trace; to us it is an access line.
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def _serialize(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
