"""The metrics of sagas."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from api_common.db import Row

_LIVE = ("RUNNING", "COMPENSATING", "NEEDS_ATTENTION")


class SagaMetrics:
    """The metrics of a process that executes sagas; every replica shows the same gauges, counted in the database."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._live = Gauge("sagas", "Sagas that are not at their end.", ("state",), registry=registry)
        self._waiting = Gauge("sagas_waiting", "Sagas that wait for their next attempt.", registry=registry)
        self._age = Gauge("saga_waiting_seconds", "How old the oldest saga that waits is.", registry=registry)
        self._late = Gauge("saga_lateness_seconds", "How long the latest has waited for a worker.", registry=registry)
        self.failures = Counter(
            "saga_step_failures",
            "Attempts of steps and compensations that failed.",
            ("kind", "step"),
            registry=registry,
        )
        self.parked = Counter("sagas_parked", "Sagas that came to need attention.", ("kind",), registry=registry)

    def expect(self, kind: str, steps: Sequence[str]) -> None:
        """Starts the counters of a plan at 0: a series that appears with its first failure has no rate."""
        self.parked.labels(kind)
        for step in (*steps, "compensation"):
            self.failures.labels(kind, step)

    def show(self, counted: Sequence[Row]) -> None:
        """Sets the gauges to the result of `store.count`."""
        found = {row["state"]: row["count"] for row in counted}
        for state in _LIVE:
            self._live.labels(state).set(found.get(state, 0))
        self._waiting.set(sum(row["waiting"] for row in counted))
        for gauge, name in ((self._late, "late_seconds"), (self._age, "waiting_seconds")):
            gauge.set(max([0.0, *(float(row[name] or 0) for row in counted)]))
