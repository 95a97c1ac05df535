"""What the sagas of a service look like from outside."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from api_common.db import Row

_LIVE = ("RUNNING", "COMPENSATING", "NEEDS_ATTENTION")


class SagaMetrics:
    """The metrics of a process that works on sagas. What is counted in the database, every replica shows alike."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._live = Gauge("sagas", "Sagas that are not at their end.", ("state",), registry=registry)
        self._late = Gauge("saga_lateness_seconds", "How long the latest has waited for a worker.", registry=registry)
        self.failures = Counter(
            "saga_step_failures",
            "Attempts of steps and compensations that failed.",
            ("kind", "step"),
            registry=registry,
        )
        self.parked = Counter("sagas_parked", "Sagas that came to need attention.", ("kind",), registry=registry)

    def expect(self, kind: str, steps: Sequence[str]) -> None:
        """Makes the counters of a plan begin at 0: what appears with its first failure has no rate yet."""
        self.parked.labels(kind)
        for step in (*steps, "compensation"):
            self.failures.labels(kind, step)

    def show(self, counted: Sequence[Row]) -> None:
        """Shows what `saga_store.count` returned."""
        found = {row["state"]: row["count"] for row in counted}
        for state in _LIVE:
            self._live.labels(state).set(found.get(state, 0))
        self._late.set(max([0.0, *(float(row["late_seconds"]) for row in counted)]))
