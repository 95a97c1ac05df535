"""The documented goals of speed: each is a ratio of two figures of one run."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from bench.contenders import (
    ECHO,
    EDGE_CONNECT,
    EDGE_GRPC,
    EDGE_H1,
    FASTAPI,
    FLOOR_GRPC,
    FLOOR_H1,
    LITESTAR_INGRESS,
    OURS,
    REST,
    TUNED,
    TUNED_INGRESS,
)
from bench.rounds import Cell, Ratio, paired

GET: Final = "GetUser"
AGED: Final = "GetUser max-age"
LIST: Final = "ListUsers 50"
BATCH: Final = "BatchGet 100"
KEYED: Final = "CreateUser key"


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio of CPU time, and the most or the least that it may be."""

    text: str
    of: tuple[str, str]
    """Contender and work."""
    to: tuple[str, str]
    limit: float
    at_most: bool = True
    column: str = "cpu_us"
    """Whose CPU time: a field of `Cell`."""

    @property
    def sign(self) -> str:
        return "≤" if self.at_most else "≥"

    def measure(self, cells: Sequence[Cell]) -> Ratio | None:
        """Returns the figure; None if a part of it was not measured."""
        own, base = (
            [(cell.round, getattr(cell, self.column)) for cell in _of(cells, key)] for key in (self.of, self.to)
        )
        return paired(own, base) if own and base else None

    def verdict(self, figure: Ratio) -> str:
        """Returns whether the goal is reached, as a word; within the interval it is noise."""
        if (figure.median <= self.limit) == self.at_most:
            return "reached"
        within = figure.low <= self.limit if self.at_most else figure.high >= self.limit
        return "missed within noise" if within else "MISSED"


def _whole_path(limit: float, works: Sequence[str], of: Mapping[str, str], to: str, peer: str) -> Iterator[Goal]:
    """Yields a goal for each of ``works`` and each of ``of``: contenders by what they are called here."""
    for work in works:
        for language, contender in of.items():
            text = f"{work}, whole path: {language} / {peer}"
            yield Goal(text, (contender, work), (to, work), limit, column="whole_us")


_REST: Final = {"REST": EDGE_H1}
_BINARY: Final = {"gRPC": EDGE_GRPC, "Connect": EDGE_CONNECT}

GOALS: Final = (
    Goal("GetUser: ours / echo", (OURS, GET), (ECHO, GET), 2.2),
    Goal("GetUser: from memory / ours", (OURS, AGED), (OURS, GET), 0.75),
    Goal("GetUser: FastAPI, ORM / ours", (FASTAPI, GET), (OURS, GET), 2.5, at_most=False),
    Goal("GetUser: FastAPI, tuned / ours", (TUNED, GET), (OURS, GET), 1, at_most=False),
    Goal("ListUsers: FastAPI, ORM / ours", (FASTAPI, LIST), (OURS, LIST), 2, at_most=False),
    Goal("CreateUser with key: FastAPI, ORM / ours", (FASTAPI, KEYED), (OURS, KEYED), 1.5, at_most=False),
    Goal("BatchGet of 100 / GetUser, ours", (OURS, BATCH), (OURS, GET), 3),
    Goal("GetUser: service behind the edge / called directly", (EDGE_H1, GET), (OURS, GET), 1.05),
    Goal("GetUser, REST h1: edge / bare edge", (EDGE_H1, GET), (FLOOR_H1, GET), 1.4, column="edge_us"),
    Goal("GetUser, gRPC: edge / bare edge", (EDGE_GRPC, GET), (FLOOR_GRPC, GET), 1.6, column="edge_us"),
    *_whole_path(1, (GET, LIST, KEYED, BATCH), _REST, TUNED_INGRESS, "FastAPI, Envoy"),
    *_whole_path(0.85, (GET,), _BINARY, TUNED_INGRESS, "FastAPI, Envoy"),
    *_whole_path(1, (LIST, BATCH), _BINARY, LITESTAR_INGRESS, "Litestar, Envoy"),
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
            shown = f"{figure.median:.4g}  {figure.low:.4g} – {figure.high:.4g}"
            print(f"  {goal.text:<56}{goal.sign} {goal.limit:<6}{shown:<26}{verdict}")
    return reached


def print_winners(works: Sequence[str], cells: Sequence[Cell]) -> None:
    """Prints where another contender does the work for less, with Postgres and the proxy in front, if it has one."""
    for work in works:
        medians = {
            name: statistics.median(cell.whole_us for cell in own)
            for name in (OURS, EDGE_H1, *REST)
            if (own := _of(cells, (name, work)))
        }
        for mine in (OURS, EDGE_H1):
            ahead = [name for name in REST if mine in medians and medians.get(name, inf) < medians[mine]]
            if ahead:
                print(f"  {work}: {'; '.join(ahead)} ahead of {mine}.")


def _of(cells: Sequence[Cell], key: tuple[str, str]) -> list[Cell]:
    return [cell for cell in cells if (cell.contender, cell.work) == key]
