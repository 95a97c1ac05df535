"""Prints the table of results."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from bench.contenders import ECHO, ECHO_AGAIN, EDGE_H1, OURS, OURS_AGAIN
from bench.order import CONNECTIONS, IN_FLIGHT
from bench.rounds import Cell, Ratio, paired
from bench.work import PLANS

_PACKAGES: Final = (
    *("grpcio", "protobuf", "asyncpg", "uvloop", "protovalidate"),
    *("fastapi", "uvicorn", "sqlalchemy", "litestar", "granian", "msgspec"),
)
_HEADINGS: Final = (
    f"{'':<26}{'process':>8}{'edge':>7}{'pg':>7}{'all':>8}   {'process / ours':<21}{'all / REST h1':<20}"
    f"{'calls/s':>8}{'p50 ms':>8}{'p95':>7}{'p99':>7}{'MB':>6}{'edge':>6}"
)


def print_load(when: str) -> None:
    """Prints how busy the machine is: ratios of one run stand that, medians do not."""
    averages = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    print(f"Load averages {when} (1, 5, 15 minutes): {averages}.")


def print_head(rounds: int) -> None:
    """Prints what was measured, and how."""
    versions = ", ".join(filter(None, map(_version, _PACKAGES)))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores. {versions}.")
    print(f"Medians of {rounds} rounds in shuffled order, {CONNECTIONS * IN_FLIGHT} calls in flight, answers checked.")
    print("CPU in µs per call: of the process that does the work, of the edge before it, of Postgres, of all three.\n")


def print_resolution(cells: Sequence[Cell]) -> None:
    """Prints the noise of the run: what twins cost relative to each other."""
    for name, again in ((ECHO, ECHO_AGAIN), (OURS, OURS_AGAIN)):
        ratio = _ratio(cells, again, name, "cpu_us")
        if ratio:
            print(f"A/A: {again} / {name}: {ratio}", flush=True)


def print_work(
    work: str, names: Sequence[str], cells: Sequence[Cell], latencies: Mapping[tuple[str, str], Sequence[float]]
) -> None:
    """Prints a line per contender."""
    plan = PLANS[work]
    own = [cell for cell in cells if cell.work == work]
    print(f"\n{work}: {plan.calls} calls a round; latency at {plan.rate} calls a second\n{_HEADINGS}")
    for name in names:
        mine = [cell for cell in own if cell.contender == name]
        cpu, edge, postgres, whole, speed = (
            statistics.median(getattr(cell, column) for cell in mine)
            for column in ("cpu_us", "edge_us", "postgres_us", "whole_us", "calls_per_second")
        )
        to_ours = _ratio(own, name, OURS, "cpu_us") if name != OURS else None
        to_edge = _ratio(own, name, EDGE_H1, "whole_us") if name != EDGE_H1 else None
        peak, edge_peak = max(cell.peak_mb for cell in mine), max(cell.edge_peak_mb for cell in mine)
        costs = f"{cpu:>8,.0f}{edge:>7,.0f}{postgres:>7,.0f}{whole:>8,.0f}   {to_ours or '':<21}{to_edge or '':<20}"
        latency = _percentiles(latencies.get((name, work), ()))
        print(f"{name:<26}{costs}{speed:>8,.0f}{latency}{peak:>6,.0f}{edge_peak:>6,.0f}")


def _ratio(cells: Sequence[Cell], of: str, to: str, column: str) -> Ratio | None:
    mine, base = ([(one.round, getattr(one, column)) for one in cells if one.contender == name] for name in (of, to))
    return paired(mine, base) if mine and base else None


def _percentiles(latencies: Sequence[float]) -> str:
    if not latencies:
        return f"{'':>8}{'':>7}{'':>7}"
    ranked = sorted(latencies)
    p50, p95, p99 = (ranked[min(len(ranked) - 1, len(ranked) * percent // 100)] for percent in (50, 95, 99))
    return f"{p50:>8.1f}{p95:>7.1f}{p99:>7.1f}"


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""
