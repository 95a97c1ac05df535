"""Logs and metrics of a process; their names are constants, so that dashboards and code agree.

Source: OpenTelemetry semantic conventions for RPC (v1.44, release candidate) for metric and label names.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import grpc
import orjson
import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api_common.telemetry.occupancy import Occupancy, ShareUse

DURATION_BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Source: the semantic convention's advice for `rpc.server.call.duration`."""
AGE_BUCKETS: Final = (0.5, 1, 2, 5, 10, 20, 30)
"""Up to the greatest age that a caller may accept, in seconds."""

LAG_INTERVAL_SECONDS: Final = 0.25
"""The interval of measuring the event loop's lag."""
LAG_SAMPLES: Final = 60
"""The gauge shows the worst of this many measurements: 15 s, the usual interval of a scrape."""

UNSILENCED: Final = structlog.wrap_logger(None, wrapper_class=structlog.BoundLogger)
"""The logger of events that must be kept: its class has no threshold, so no log level silences it."""

BREAKER_STATES: Final = ("closed", "half-open", "open")
"""The states of a circuit breaker."""


class Metrics:
    """The metrics of one service."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        durations = partial(Histogram, buckets=DURATION_BUCKETS_SECONDS, registry=registry)
        by_status = ("rpc_method", "rpc_response_status_code")
        self.duration = durations(
            "rpc_server_call_duration_seconds", "Duration of calls that were answered.", by_status
        )
        self.active = gauge("rpc_server_active_requests", "Calls in progress.")
        self.streams = gauge("rpc_server_open_streams", "Streams that are open.")
        self.streams_ended = counter("rpc_server_streams_ended", "Streams that ended.", by_status)
        self.stream_messages = counter("rpc_server_stream_messages", "Messages of streams.", ("rpc_method", "event"))
        self.change_age = durations(
            "watch_change_age_seconds",
            "From the beginning of a transaction to when its changes were read for current watches.",
        )
        self.changes_reaped = counter("changes_reaped", "Changes that were deleted when their time was up.")
        self.replays = counter("idempotent_replays", "Calls answered from a stored response.", ("rpc_method",))
        self.cache_reads = counter(
            "answer_cache_reads", "Reads of callers who accept an age.", ("rpc_method", "result")
        )
        self.cache_age = durations("answer_cache_age_seconds", "Age of kept answers.", buckets=AGE_BUCKETS)
        self.cache_dropped = counter("answer_cache_dropped", "Kept answers that were dropped.", ("reason",))
        self.cache_bytes = gauge("answer_cache_bytes", "Bytes of kept answers.")
        self.reaped = counter("idempotency_keys_reaped", "Expired idempotency keys that were deleted.")
        self.quota_fullest = gauge(
            "quota_fullest_ratio",
            "Stored resources of the tenant that is nearest to its quota, as a part of the quota.",
            ("collection",),
        )
        self._breakers = gauge(
            "circuit_breaker_state", "1 for the state that the breaker of a dependency is in.", ("target", "state")
        )
        self._client_duration = durations(
            "rpc_client_call_duration_seconds", "Duration of calls to other services.", by_status
        )
        self._lag = gauge("event_loop_lag_seconds", "How late the event loop was at worst lately.")
        ProcessCollector(registry=registry)

    def watch_pool(self, occupancy: Callable[[], Occupancy]) -> None:
        """Exports how full the pool of database connections is, at each scrape."""
        self.registry.register(_PoolCollector(occupancy))

    def watch_shares(self, use: Callable[[], Sequence[ShareUse]]) -> None:
        """Exports how far shares are used up, at each scrape."""
        self.registry.register(_ShareCollector(use))

    async def watch_loop(self) -> None:
        """Measures how late the event loop runs, which shows blocking code or too little CPU. Never returns."""
        loop = asyncio.get_running_loop()
        lately: deque[float] = deque(maxlen=LAG_SAMPLES)
        while True:
            due = loop.time() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            lately.append(loop.time() - due)
            self._lag.set(max(lately))

    async def export_forever(self, service: str, endpoint: str, interval_seconds: float) -> None:
        """Sends all metrics over OTLP every ``interval_seconds``. Never returns; a missing collector costs nothing."""
        # As in `Tracer`: who exports nothing does not load it.
        from api_common.telemetry.otlp_metrics import export_forever

        await export_forever(self.registry, service, endpoint, interval_seconds)

    def breaker_moves(self, target: str) -> Callable[[str], None]:
        """Returns a function that records each new state of ``target``'s breaker, which is closed now."""

        def move(current: str) -> None:
            for state in BREAKER_STATES:
                self._breakers.labels(target, state).set(state == current)

        move("closed")
        return move

    def observe_client(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Counts one call of ``method`` of another service."""
        self._client_duration.labels(method, code.name).observe(seconds)


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


class _ShareCollector(Collector):
    def __init__(self, use: Callable[[], Sequence[ShareUse]]) -> None:
        self._use = use

    def collect(self) -> Iterator[Metric]:
        labels = ("resource", "holder")
        ratio = GaugeMetricFamily("share_used_ratio", "The fullest share of a tenant or principal.", labels=labels)
        refusals = CounterMetricFamily("share_refusals", "Requests for more than a share.", labels=labels)
        for use in self._use():
            ratio.add_metric(use[:2], use.used / use.limit)
            refusals.add_metric(use[:2], use.refusals)
        yield ratio
        yield refusals


def configure_logging(service: str, level: str) -> None:
    """Sends structlog and the standard library's loggers to stdout as JSON lines of one shape."""
    severity = getattr(logging, level.upper())

    def with_service(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        with_service,
    ]
    to_json = structlog.processors.JSONRenderer(serializer=_serialize)
    structlog.configure(
        processors=[*shared, to_json],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, to_json]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(severity)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_hang_up)


def _is_no_hang_up(record: logging.LogRecord) -> bool:
    # gRPC logs a caller that leaves just before its answer with a stack trace; the access line suffices.
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def _serialize(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
