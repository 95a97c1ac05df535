"""Alternating rounds: every contender does the same work in each round, in a changing order."""

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil

from bench.contender import Contender, ContenderError, Program, cpu_ns, forget_peak, peak_mb
from bench.contenders import OURS
from bench.order import Order, Result
from bench.stage import TENANT, WRITTEN, Stage
from bench.work import PLANS

Send = Callable[[Contender, Order], Result]

_RESAMPLES: Final = 2000
_PACED_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """The figures of one contender in one round, in microseconds of CPU time per call."""

    round: int
    work: str
    contender: str
    cpu_us: float
    """Of the process that does the work."""
    edge_us: float
    """Of the proxy in front of it."""
    postgres_us: float
    """Of all Postgres processes."""
    calls_per_second: float
    peak_mb: float
    """The peak memory of the process that does the work."""
    edge_peak_mb: float

    @property
    def whole_us(self) -> float:
        return self.cpu_us + self.edge_us + self.postgres_us


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the ratios of all rounds, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}  {self.low:.2f} – {self.high:.2f}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@contextmanager
def load_generator(stage: Stage) -> Iterator[Send]:
    """Yields a function that sends an order to the load generator."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.generator", str(stage.folder), stage.tokens[TENANT], stage.tokens[WRITTEN]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def send(contender: Contender, order: Order) -> Result:
        requests.write(order.to_line())
        requests.flush()
        answer = answers.readline()
        if not answer:
            log = contender.programs[PLANS[order.work].resource].log.read_text()[-2000:]
            raise ContenderError(f"{contender.name} did not do {order.work} as it must; the error is above.\n{log}")
        return Result(**json.loads(answer))

    with process:
        try:
            yield send
        finally:
            process.terminate()


def pairs(contenders: Sequence[Contender], works: Iterable[str]) -> list[tuple[Contender, str]]:
    """Returns the pairs of contenders and works that fit."""
    return [
        (one, work)
        for work in works
        for one in contenders
        if PLANS[work].resource in one.programs and work in (one.works or PLANS)
        if one.name.startswith(OURS) or not PLANS[work].max_age_seconds
    ]


def warm_up(send: Send, asked: Sequence[tuple[Contender, str]], *, scale: float) -> None:
    """Prepares statements and fills caches by calls that do not count."""
    for contender, work in asked:
        send(contender, _order(contender, work, scale=scale))


def run_rounds(
    stage: Stage, send: Send, asked: Sequence[tuple[Contender, str]], *, rounds: int, scale: float
) -> Iterator[Cell]:
    """Measures every contender ``rounds`` times, with ``scale`` times the calls of the plan.

    Raises:
        ContenderError: a call failed, an answer was wrong, or a server counted a different number of calls.
    """
    chance = random.Random(1)
    for number in range(rounds):
        for contender, work in chance.sample(asked, len(asked)):
            yield _measure(stage, send, contender, work, number=number, scale=scale)


def run_paced(send: Send, asked: Sequence[tuple[Contender, str]], *, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Returns latencies in milliseconds, by contender and work, each at the same rate for all."""
    chance = random.Random(2)
    latencies: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for contender, work in chance.sample(asked, len(asked)):
            rate = PLANS[work].rate
            order = _order(contender, work, count=rate * _PACED_SECONDS, rate=rate)
            latencies.setdefault((contender.name, work), []).extend(send(contender, order).latencies_ms)
    return latencies


def paired(numerators: Iterable[tuple[int, float]], denominators: Iterable[tuple[int, float]]) -> Ratio:
    """Compares figures round by round, so that a slow round cancels out."""
    base = dict(denominators)
    ratios = [value / base[number] for number, value in numerators]
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return Ratio(statistics.median(ratios), medians[_RESAMPLES // 40], medians[-_RESAMPLES // 40])


def postgres_cpu_ns(stage: Stage) -> int:
    """Returns the CPU time that all Postgres processes of a stage have used so far, in nanoseconds."""
    postmaster = psutil.Process(stage.postmaster)
    return sum(cpu_ns(process.pid) for process in (postmaster, *postmaster.children()))


def _order(contender: Contender, work: str, *, scale: float = 1, count: int = 0, rate: int = 0) -> Order:
    plan = PLANS[work]
    return Order(
        transport=contender.transport,
        address=contender.address(plan.resource),
        work=work,
        count=count or max(1, round(plan.calls * scale)),
        rate=rate,
        is_constant=contender.is_constant,
    )


def _measure(stage: Stage, send: Send, contender: Contender, work: str, *, number: int, scale: float) -> Cell:
    plan, order = PLANS[work], _order(contender, work, scale=scale)
    program, edge = contender.programs[plan.resource], contender.edge
    for one in filter(None, (program, edge)):
        forget_peak(one)
    answered = program.answered(plan.method)
    before = _spent(stage, program, edge)
    seconds = send(contender, order).seconds
    cpu, edge_cpu, postgres = (now - then for now, then in zip(_spent(stage, program, edge), before, strict=True))
    if answered is not None and (now := program.answered(plan.method)) != answered + order.count:
        raise ContenderError(f"{contender.name} counted {now} answers, not {answered} + {order.count}.")
    return Cell(
        round=number,
        work=work,
        contender=contender.name,
        cpu_us=cpu / order.count / 1000,
        edge_us=edge_cpu / order.count / 1000,
        postgres_us=postgres / order.count / 1000,
        calls_per_second=order.count / seconds,
        peak_mb=peak_mb(program),
        edge_peak_mb=peak_mb(edge) if edge else 0,
    )


def _spent(stage: Stage, program: Program, edge: Program | None) -> tuple[int, int, int]:
    return program.cpu_ns(), edge.cpu_ns() if edge else 0, postgres_cpu_ns(stage)
