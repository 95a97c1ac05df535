"""Alternating rounds: every contender answers the same calls in each round, in an order that changes."""

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil

from tests.load.contender import ContenderError, Server, cpu_ns
from tests.load.generator import Order
from tests.load.stage import Stage

WARM_UP: Final = 1000
"""Calls to each server before the first round: statements get prepared, caches filled."""

_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Cell:
    """What one contender did in one round."""

    round: int
    contender: str
    cpu_us: float
    """CPU time of the server's process per call, in microseconds."""
    postgres_us: float
    """CPU time of all Postgres processes per call, in microseconds."""
    calls_per_second: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of ratios that were taken round by round, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


@contextmanager
def load_generator(stage: Stage) -> Iterator[Callable[[Server, int], float]]:
    """Yields a function that sends calls to a server and returns how many seconds they took."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.generator", str(stage.folder), f"Bearer {stage.caller.token}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=stage.environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def send(server: Server, count: int) -> float:
        requests.write(Order(server.address, count, server.contender.is_constant).to_line())
        requests.flush()
        answer = answers.readline()
        if not answer:
            raise ContenderError(f"{server.contender.name} did not answer as it must; the error is above.")
        return float(json.loads(answer)["seconds"])

    with process:
        try:
            yield send
        finally:
            process.terminate()


def run_rounds(stage: Stage, servers: Sequence[Server], *, rounds: int, count: int) -> Iterator[Cell]:
    """Measures every server ``rounds`` times with ``count`` calls each.

    Raises:
        ContenderError: a call failed, an answer was wrong, or a server counted another number of them.
    """
    chance = random.Random(1)
    with load_generator(stage) as send:
        for server in servers:
            send(server, WARM_UP)
        for number in range(rounds):
            for server in chance.sample(servers, len(servers)):
                yield _measure(stage, server, send, number=number, count=count)


def paired_ratio(cells: Sequence[Cell], of: str, to: str) -> Ratio:
    """Compares two contenders round by round, so that what slows down a whole round cancels out."""
    base = {cell.round: cell.cpu_us for cell in cells if cell.contender == to}
    ratios = [cell.cpu_us / base[cell.round] for cell in cells if cell.contender == of]
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return Ratio(statistics.median(ratios), medians[_RESAMPLES // 40], medians[-_RESAMPLES // 40])


def _measure(stage: Stage, server: Server, send: Callable[[Server, int], float], *, number: int, count: int) -> Cell:
    answered = server.answered()
    cpu, postgres = server.cpu_ns(), postgres_cpu_ns(stage)
    seconds = send(server, count)
    cpu, postgres = server.cpu_ns() - cpu, postgres_cpu_ns(stage) - postgres
    if answered is not None and (now := server.answered()) != answered + count:
        raise ContenderError(f"{server.contender.name} counted {now} answers, not {answered} + {count}.")
    return Cell(number, server.contender.name, cpu / count / 1000, postgres / count / 1000, count / seconds)


def postgres_cpu_ns(stage: Stage) -> int:
    """Returns the CPU time that all Postgres processes of a stage have used so far, in nanoseconds."""
    if stage.postmaster is None:
        return 0
    postmaster = psutil.Process(stage.postmaster)
    return sum(cpu_ns(process.pid) for process in (postmaster, *postmaster.children()))
