"""The one table of `make attack`, and the rule that decides whether the mesh held."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.attack.attacker import Cost
from bench.attack.samples import NAMES, Usage

LARGEST_RISE: Final = 3.0
"""The p99 of the polite tenant may become this many times as long."""
_ANSWERS: Final = 3
"""So many of the attacker's answers are shown, the most frequent first."""


@dataclass(frozen=True, slots=True)
class Row:
    """One attack and what it did to others."""

    name: str
    cost: Cost
    failures: Counter[str]
    """Of the polite tenant, from the first byte of the attack to the end of the quiet time after it."""
    before: float
    """p99 of the polite tenant, in milliseconds."""
    during: float
    after: float
    processes: Mapping[str, Usage]
    unready: int
    """Questions for readiness that were not answered with yes."""
    ended: Sequence[str]
    """Processes that went away."""

    def __str__(self) -> str:
        answers = ", ".join(f"{count} × {answer}" for answer, count in self.cost.answers.most_common(_ANSWERS))
        held = "".join(f"{one.peak_mib:>6.0f}{one.cpu_seconds:>6.1f}" for one in self.processes.values())
        return (
            f"{self.name:<34}{_size(self.cost.sent):>9}{self.cost.calls:>9}{self.failures.total():>7}"
            f"{self.before:>8.0f}{self.during:>8.0f}{self.after:>8.0f}{self.unready:>8}{held}   {answers}"
        )


def header() -> str:
    """Returns the two lines above the rows."""
    names = "".join(f"{name:>12}" for name in NAMES)
    first = f"{'':<34}{'the attacker':>18}{'':>7}{'p99 of the polite, ms':>24}{'not':>8}{names}"
    units = "".join(f"{'MiB':>6}{'CPU s':>6}" for _ in NAMES)
    second = f"{'attack':<34}{'sent':>9}{'calls':>9}{'failed':>7}{'before':>8}{'during':>8}{'after':>8}{'ready':>8}"
    return f"{first}\n{second}{units}   answers"


def objections(rows: Sequence[Row]) -> list[str]:
    """Returns what the mesh did not hold, a line each; nothing if it held.

    An attack is compared with the first quiet time or the median of all, whichever was calmer: the one before it may
    still suffer from another attack.
    """
    calm = min(rows[0].before, statistics.median(row.before for row in rows)) if rows else 0.0
    found = []
    for row in rows:
        slowest = max(row.during, row.after)
        if not row.cost.calls:
            found.append(f"{row.name}: the attacker sent nothing ({dict(row.cost.answers)}).")
        if row.failures:
            what = ", ".join(f"{count} × {problem}" for problem, count in row.failures.most_common(_ANSWERS))
            found.append(f"{row.name}: {row.failures.total()} calls of the polite tenant failed: {what}.")
        if slowest > LARGEST_RISE * calm:
            found.append(f"{row.name}: p99 rose from {calm:.0f} to {slowest:.0f} ms, {slowest / calm:.1f} times.")
        if row.unready:
            found.append(f"{row.name}: readiness did not answer {row.unready} times.")
        if row.ended:
            found.append(f"{row.name}: {', '.join(row.ended)} ended.")
    return found


def _size(count: int) -> str:
    for unit in ("B", "kB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count //= 1000
    return f"{count} MB"
