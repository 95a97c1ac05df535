"""Measures what traces and exported metrics cost a service: `python -m bench.telemetry_cost --rounds 20`.

It compares the same users service without a collector, and with one that gets traces of no, one in a hundred and all
good calls, in paired rounds as `make bench` does. Twins without a collector show the noise of a run.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from bench.contender import Contender, await_all, started_peer, started_service
from bench.rounds import Cell, load_generator, paired, pairs, run_rounds, warm_up
from bench.stage import Stage, set_stage

WITHOUT: Final = "no collector"
RATIOS: Final[Mapping[str, str | None]] = {
    WITHOUT: None,
    "no collector again": None,
    "collector, 0 %": "0",
    "collector, 1 %": "0.01",
    "collector, 100 %": "1",
}
"""The sampled share of traces that begin at the service; None exports nothing at all."""
WORKS: Final = ("GetUser", "CreateUser")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry_cost")
    parser.add_argument("--rounds", type=int, default=12, help="how often each cell is measured (default: 12)")
    parser.add_argument("--scale", type=float, default=1, help="calls of a cell, in those of `make bench` (default: 1)")
    options = parser.parse_args()
    with (
        set_stage() as stage,
        _started(stage) as contenders,
        load_generator(stage) as send,
    ):
        asked = pairs(contenders, WORKS)
        warm_up(send, asked, scale=options.scale)
        cells = list(run_rounds(stage, send, asked, rounds=options.rounds, scale=options.scale))
    for work in WORKS:
        print(f"\n{work}: CPU µs a call of the service, median of {options.rounds} rounds; × {WITHOUT}, 95 %")
        base = _cpu(cells, work, WITHOUT)
        for name in RATIOS:
            own = _cpu(cells, work, name)
            median = statistics.median(value for _, value in own)
            print(f"{name:<20}{median:>8,.0f}   {'' if name == WITHOUT else paired(own, base)}")


@contextmanager
def _started(stage: Stage) -> Iterator[Sequence[Contender]]:
    with ExitStack() as stack:
        # A process that runs gRPC must not fork, so this runs in one of its own.
        collector = stack.enter_context(started_peer("collector", (sys.executable, "-m", "bench.collector"), stage))
        await_all([collector])
        contenders = []
        for name, ratio in RATIOS.items():
            told = {} if ratio is None else _telemetry(f"http://{collector.address}", ratio)
            program = stack.enter_context(started_service("users", stage, label=name, environment=told))
            # Five at once would exceed their time-out on a busy machine.
            await_all([program])
            contenders.append(Contender(name=name, transport="mtls", programs={"users": program}))
        yield contenders


def _telemetry(endpoint: str, ratio: str) -> Mapping[str, str]:
    return {"USERS_TELEMETRY_OTLP_ENDPOINT": endpoint, "USERS_TELEMETRY_SAMPLE_RATIO": ratio}


def _cpu(cells: Sequence[Cell], work: str, name: str) -> list[tuple[int, float]]:
    return [(cell.round, cell.cpu_us) for cell in cells if (cell.work, cell.contender) == (work, name)]


if __name__ == "__main__":
    main()
