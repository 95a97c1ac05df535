"""Measures what calls cost, here and with alternatives: `make bench ROUNDS=3 ONLY="ours; echo"`.

The unit is the CPU time of each process per call. It stays comparable while the load generator shares the machine;
calls per second do not, and are printed for orientation only. docs/performance.md explains the table.
"""

import argparse
import csv
import signal
import sys
from collections.abc import Iterable, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path

from bench.contender import ContenderError
from bench.contenders import NAMES, TWINS, all_started
from bench.goals import print_goals, print_winners
from bench.plots import write_run
from bench.report import print_head, print_load, print_resolution, print_work
from bench.rounds import Cell, load_generator, pairs, run_paced, run_rounds, warm_up
from bench.stage import set_stage
from bench.work import PLANS


def main() -> None:
    """Prints the table; exits with 1 if a contender fails, or if a goal is missed by more than noise."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _options()
    names, works = _chosen(options.only, NAMES), [one for one in PLANS if one in _chosen(options.works, PLANS)]
    print_load("before the run")
    try:
        with ExitStack() as stack:
            stage = stack.enter_context(set_stage())
            contenders = stack.enter_context(all_started(stage, names, against=options.against, python=options.python))
            send = stack.enter_context(load_generator(stage))
            asked = pairs(contenders, works)
            warm_up(send, asked, scale=options.scale)
            print_head(options.rounds)
            if missing := names - {one.name for one in contenders}:
                print(f"No {'; '.join(missing)} here.\n")
            twins = [one for one in asked if one[0].name in TWINS and one[1] == "GetUser"]
            print_resolution(list(run_rounds(stage, send, twins, rounds=options.rounds, scale=options.scale)))
            cells = list(run_rounds(stage, send, asked, rounds=options.rounds, scale=options.scale))
            latencies = run_paced(send, asked, rounds=options.paced)
    except ContenderError as error:
        raise SystemExit(str(error)) from None
    if options.plots:
        write_run(options.plots, works, cells)
    if options.csv:
        _write(cells, options.csv)
    for work in works:
        print_work(work, [one.name for one, its in asked if its == work], cells, latencies)
    reached = print_goals(cells)
    print_load("after the run, which counts itself")
    print("\nWho is ahead (CPU time of process, edge and Postgres together)")
    print_winners(works, cells)
    sys.exit(0 if reached else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.bench", description="What work costs, here and elsewhere.")
    parser.add_argument("--rounds", type=int, default=12, help="how often each cell is measured (default: 12)")
    parser.add_argument("--paced", type=int, default=3, help="how many seconds of latency at a fixed rate (default: 3)")
    parser.add_argument("--scale", type=float, default=1, help="calls of a cell, in those of its plan (default: 1)")
    parser.add_argument("--only", default="", metavar="A;B", help=f"contenders, of: {'; '.join(NAMES)}")
    parser.add_argument("--works", default="", metavar="A;B", help=f"works, of: {'; '.join(PLANS)}")
    parser.add_argument("--python", default=sys.executable, help="run `ours again` with another interpreter")
    parser.add_argument("--against", type=Path, metavar="DIR", help="take `ours again` from another checkout")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every single measurement")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw each table, as SVG")
    return parser.parse_args()


def _chosen(given: str, known: Iterable[str]) -> Set[str]:
    chosen = {one.strip() for one in given.split(";") if one.strip()} or set(known)
    if unknown := chosen.difference(known):
        raise SystemExit(f"There is no {'; '.join(unknown)}; there are: {'; '.join(known)}")
    return chosen


def _write(cells: Sequence[Cell], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Cell)])
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in cells)


if __name__ == "__main__":
    main()
