"""The documented goals of speed, each compared with a figure of one run."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from bench.contenders import ECHO, EDGE_GRPC, EDGE_H1, EDGE_H2, FASTAPI, OURS, REST, TUNED
from bench.rounds import Cell, Ratio, paired

GET: Final = "GetUser"
AGED: Final = "GetUser max-age"
LIST: Final = "ListUsers 50"
BATCH: Final = "BatchGet 100"
KEYED: Final = "CreateUser key"


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio of CPU time, or the edge's own in microseconds."""

    text: str
    of: tuple[str, str]
    """Contender and work."""
    to: tuple[str, str] | None
    """None: the edge's CPU time of ``of``."""
    limit: float
    at_most: bool

    def measure(self, cells: Sequence[Cell]) -> Ratio | None:
        """Returns the figure; None if a part of it was not measured."""
        own = _of(cells, self.of)
        if self.to is None:
            return (
                paired([(cell.round, cell.edge_us) for cell in own], [(cell.round, 1) for cell in own]) if own else None
            )
        base = _of(cells, self.to)
        if not own or not base:
            return None
        return paired([(cell.round, cell.cpu_us) for cell in own], [(cell.round, cell.cpu_us) for cell in base])

    def verdict(self, figure: Ratio) -> str:
        """Returns whether the goal is reached, as a word; within the interval it is noise."""
        if (figure.median <= self.limit) == self.at_most:
            return "reached"
        within = figure.low <= self.limit if self.at_most else figure.high >= self.limit
        return "missed within noise" if within else "MISSED"


GOALS: Final = (
    Goal("GetUser: ours / echo", (OURS, GET), (ECHO, GET), 2.2, at_most=True),
    Goal("GetUser: from memory / ours", (OURS, AGED), (OURS, GET), 0.75, at_most=True),
    Goal("GetUser: FastAPI, ORM / ours", (FASTAPI, GET), (OURS, GET), 2.5, at_most=False),
    Goal("GetUser: FastAPI, tuned / ours", (TUNED, GET), (OURS, GET), 1, at_most=False),
    Goal("ListUsers: FastAPI, ORM / ours", (FASTAPI, LIST), (OURS, LIST), 2, at_most=False),
    Goal("CreateUser with key: FastAPI, ORM / ours", (FASTAPI, KEYED), (OURS, KEYED), 1.5, at_most=False),
    Goal("BatchGet of 100 / GetUser, ours", (OURS, BATCH), (OURS, GET), 3, at_most=True),
    Goal("Edge, REST h1, µs", (EDGE_H1, GET), None, 350, at_most=True),
    Goal("Edge, REST h2, µs", (EDGE_H2, GET), None, 350, at_most=True),
    Goal("Edge, gRPC, µs", (EDGE_GRPC, GET), None, 250, at_most=True),
)


def print_goals(cells: Sequence[Cell]) -> bool:
    """Prints a line per goal that was measured; returns whether none is missed by more than noise."""
    print("\nGoals (CPU time, median of the rounds, 95 % interval)")
    reached = True
    for goal in GOALS:
        figure = goal.measure(cells)
        if figure is not None:
            verdict = goal.verdict(figure)
            reached &= verdict != "MISSED"
            sign = "≤" if goal.at_most else "≥"
            shown = f"{figure.median:.4g}  {figure.low:.4g} – {figure.high:.4g}"
            print(f"  {goal.text:<42}{sign} {goal.limit:<6}{shown:<26}{verdict}")
    return reached


def print_winners(works: Sequence[str], cells: Sequence[Cell]) -> None:
    """Prints where another contender does the work for less, Postgres and edge included."""
    for work in works:
        medians = {
            name: statistics.median(cell.whole_us for cell in own)
            for name in (OURS, EDGE_H1, *REST)
            if (own := _of(cells, (name, work)))
        }
        for mine in (OURS, EDGE_H1):
            ahead = [name for name in REST if mine in medians and medians.get(name, inf) < medians[mine]]
            if ahead:
                print(f"  {work}: {', '.join(ahead)} ahead of {mine}.")


def _of(cells: Sequence[Cell], key: tuple[str, str]) -> list[Cell]:
    return [cell for cell in cells if (cell.contender, cell.work) == key]
