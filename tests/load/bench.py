"""Measures what a call costs the server: `make bench`, or `python -m tests.load.bench --rounds 40 --against ../before`.

The unit is the CPU time of the server's process per call, which survives sharing the machine with the load generator;
calls per second do not, and are printed for orientation only. docs/performance.md says how to read the table.
"""

import argparse
import csv
import importlib.metadata
import os
import platform
import signal
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Final

from tests.load.contender import Contender, ContenderError, started
from tests.load.contenders.driver import DRIVER
from tests.load.contenders.echo import ECHO
from tests.load.contenders.users import USERS
from tests.load.generator import CONNECTIONS, IN_FLIGHT
from tests.load.rounds import Cell, Ratio, paired_ratio, run_rounds
from tests.load.stage import set_stage

GOAL: Final = 2.5
"""What GetUser may cost, in echoes."""

_ECHO_AGAIN: Final = replace(ECHO, name="echo again")
_PACKAGES: Final = ("grpcio", "protobuf", "asyncpg", "uvloop", "protovalidate")


def main() -> None:
    """Prints the table; exits with 1 if a contender fails, or if the goal is missed by more than noise."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _options()
    contenders = [ECHO, _ECHO_AGAIN, DRIVER, USERS]
    if options.against:
        contenders.append(_other_checkout(options.against))
    cells: list[Cell] = []
    try:
        with ExitStack() as stack:
            stage = stack.enter_context(set_stage())
            servers = [stack.enter_context(started(one, stage, number=number)) for number, one in enumerate(contenders)]
            cells.extend(run_rounds(stage, servers, rounds=options.rounds, count=options.count))
    except ContenderError as error:
        raise SystemExit(str(error)) from None
    if options.csv:
        _write(cells, options.csv)
    _print_table(cells, contenders, options)
    goal = paired_ratio(cells, USERS.name, ECHO.name)
    verdict = "reached" if goal.median <= GOAL else "missed" if goal.low > GOAL else "missed within noise"
    print(f"Goal: users at most {GOAL} × echo: {verdict}.")
    sys.exit(1 if verdict == "missed" else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.bench", description="CPU per GetUser of the server.")
    parser.add_argument("--rounds", type=int, default=20, help="how often each contender is measured (default: 20)")
    parser.add_argument("--count", type=int, default=600, help="calls per contender and round (default: 600)")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="measure the users service of another checkout, too"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every single measurement")
    return parser.parse_args()


def _other_checkout(folder: Path) -> Contender:
    root = folder.resolve()
    packages = [root / "libs" / "api_common", root / "services" / "users", Path("libs/ameide_protos").resolve()]
    return replace(USERS, name="users before", environment={"PYTHONPATH": os.pathsep.join(map(str, packages))})


def _print_table(cells: Sequence[Cell], contenders: Sequence[Contender], options: argparse.Namespace) -> None:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    print(f"GetUser over mTLS, {CONNECTIONS} connections × {IN_FLIGHT} in flight, every answer checked.")
    print(f"Medians of {options.rounds} rounds of {options.count} calls, in shuffled order.")
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores.\n")
    print(f"{'':<14}{'CPU µs/call':>12}{'× echo':>8}{'95 %':>14}{'Postgres µs':>13}{'calls/s':>9}")
    for contender in contenders:
        own = [cell for cell in cells if cell.contender == contender.name]
        cpu, postgres, speed = (
            statistics.median(getattr(cell, name) for cell in own)
            for name in ("cpu_us", "postgres_us", "calls_per_second")
        )
        against_echo = _shown(paired_ratio(cells, contender.name, ECHO.name)) if contender is not ECHO else ""
        print(f"{contender.name:<14}{cpu:>12,.0f}{against_echo:>22}{postgres:>13,.0f}{speed:>9,.0f}")
    print()
    if options.against:
        print(f"users / users before: {_shown(paired_ratio(cells, USERS.name, 'users before'))}")


def _shown(ratio: Ratio) -> str:
    return f"{ratio.median:.2f}  {ratio.low:.2f} – {ratio.high:.2f}"


def _write(cells: Sequence[Cell], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Cell)])
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in cells)


if __name__ == "__main__":
    main()
