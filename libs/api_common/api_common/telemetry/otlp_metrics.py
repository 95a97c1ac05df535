"""Sends the metrics of a process over OTLP, from the registry that Prometheus scrapes, so that the two agree."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric, Sample

from api_common.telemetry.otlp import EXPORT_SECONDS, SCOPE, resource

_CUMULATIVE = export.AggregationTemporality.CUMULATIVE
_STARTED_NS = time.time_ns()
"""Since when the counters of this process count, also after a restart of the export."""


async def export_forever(registry: CollectorRegistry, service: str, endpoint: str, interval_seconds: float) -> None:
    """Sends all of ``registry`` every ``interval_seconds``. Never returns."""
    otlp, who = OTLPMetricExporter(endpoint=endpoint, timeout=EXPORT_SECONDS), resource(service)
    try:
        while True:
            await asyncio.sleep(interval_seconds)
            # Reading the registry takes some 20 ms: not on the event loop.
            await asyncio.to_thread(lambda: otlp.export(snapshot(registry, who, _STARTED_NS)))
    finally:
        otlp.shutdown()


def snapshot(registry: CollectorRegistry, who: Resource, started_ns: int) -> export.MetricsData:
    """Returns what ``registry`` holds now; its counters began at ``started_ns``."""
    now = time.time_ns()
    metrics = [metric for family in registry.collect() for metric in _metrics(family, started_ns, now)]
    scope = export.ScopeMetrics(SCOPE, metrics, "")
    return export.MetricsData([export.ResourceMetrics(who, [scope], "")])


def _metrics(family: Metric, started_ns: int, now_ns: int) -> Iterator[export.Metric]:
    match family.type:
        case "histogram":
            points = list(_histogram_points(family.samples, started_ns, now_ns))
            yield export.Metric(family.name, family.documentation, "s", export.Histogram(points, _CUMULATIVE))
        case "counter":
            totals = [sample for sample in family.samples if sample.name.endswith("_total")]
            total = export.Sum(_numbers(totals, started_ns, now_ns), _CUMULATIVE, is_monotonic=True)
            yield export.Metric(f"{family.name}_total", family.documentation, "", total)
        case "gauge":
            gauge = export.Gauge(_numbers(family.samples, started_ns, now_ns))
            yield export.Metric(family.name, family.documentation, "", gauge)


def _numbers(samples: Sequence[Sample], started_ns: int, now_ns: int) -> list[export.NumberDataPoint]:
    return [export.NumberDataPoint(sample.labels, started_ns, now_ns, sample.value) for sample in samples]


def _histogram_points(samples: Sequence[Sample], started_ns: int, now_ns: int) -> Iterator[export.HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        series.setdefault(tuple(sorted(labels.items())), []).append(sample)
    for labels_of, found in series.items():
        cumulated = [(float(one.labels["le"]), int(one.value)) for one in found if one.name.endswith("_bucket")]
        counts = [count for _, count in cumulated]
        own = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
        total = next(one.value for one in found if one.name.endswith("_sum"))
        bounds = [bound for bound, _ in cumulated if bound != math.inf]
        yield export.HistogramDataPoint(
            dict(labels_of), started_ns, now_ns, counts[-1] if counts else 0, total, own, bounds, math.nan, math.nan
        )
