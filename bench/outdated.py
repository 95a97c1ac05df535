"""Measures GetUser with a newer grpcio than the pinned one: `make outdated`, or with ARGS="--releases 1.86.0,1.87.1".

The users service runs with the pinned release and with each of the others, and all of them answer the same calls in
alternating rounds. It fails if another release costs less by more than noise: then the pin is outdated. A release older
than the generated code cannot be measured: that code refuses it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.contender import Contender, await_all, started_service
from bench.report import print_load
from bench.rounds import Cell, Ratio, load_generator, paired, pairs, run_rounds, warm_up
from bench.stage import set_stage

_WORK: Final = "GetUser"
_PINNED: Final = "pinned"


def main() -> None:
    """Prints the ratio of each release to the pinned one; exits with 1 if one of them costs less."""
    parser = argparse.ArgumentParser(prog="python -m bench.outdated")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--scale", type=float, default=1, help="calls of a round, in those of `make bench`")
    parser.add_argument("--releases", default="", metavar="A,B", help="releases to measure (default: the newest)")
    given = parser.parse_args()
    pin = version("grpcio")
    with tempfile.TemporaryDirectory() as folder:
        named = given.releases.split(",") if given.releases else [""]
        paths = dict(installed(release, Path(folder, str(place))) for place, release in enumerate(named))
        if not given.releases and pin in paths:
            print(f"grpcio {pin} is pinned, and no release is newer.")
            return
        print_load("before the run")
        ratios = measure(paths, rounds=given.rounds, scale=given.scale)
    print(f"CPU time of the users service for {_WORK}, divided by that with grpcio {pin}; median, 95 % interval")
    for release, ratio in ratios.items():
        print(f"grpcio {release:<10}{ratio}")
    if better := cheaper(ratios):
        sys.exit(f"The pin is outdated: grpcio {', '.join(better)} costs less than {pin}. Take it with `make lock`.")
    print(f"The pin stays: no other release costs less than {pin} by more than noise.")


def cheaper(ratios: Mapping[str, Ratio]) -> Sequence[str]:
    """Returns the releases that cost less than the pinned one by more than noise."""
    return [release for release, ratio in ratios.items() if ratio.high < 1]


def installed(release: str, folder: Path) -> tuple[str, Path]:
    """Installs a release of grpcio, or the newest if it has no name, and returns what Python then finds."""
    uv = str(Path(sys.executable).with_name("uv"))
    words = (uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(folder))
    subprocess.run([*words, f"grpcio=={release}" if release else "grpcio"], check=True)
    ask = [sys.executable, "-c", "import grpc; print(grpc.__version__)"]
    found = subprocess.run(ask, env=_environment(folder), check=True, capture_output=True, text=True).stdout.strip()
    return found, folder


def measure(paths: Mapping[str, Path], *, rounds: int, scale: float) -> Mapping[str, Ratio]:
    """Returns the ratio of each release, which are installed in ``paths``, to the pinned one."""
    with ExitStack() as stack:
        stage = stack.enter_context(set_stage())
        send = stack.enter_context(load_generator(stage))
        programs = {_PINNED: stack.enter_context(started_service("users", stage))}
        for release, path in paths.items():
            service = started_service("users", stage, label=f"grpcio {release}", environment=_environment(path))
            programs[release] = stack.enter_context(service)
        await_all(list(programs.values()))
        contenders = [Contender(name=name, transport="mtls", programs={"users": one}) for name, one in programs.items()]
        asked = pairs(contenders, [_WORK])
        warm_up(send, asked, scale=scale)
        cells = list(run_rounds(stage, send, asked, rounds=rounds, scale=scale))
    return {release: paired(_cpu(cells, release), _cpu(cells, _PINNED)) for release in paths}


def _environment(path: Path) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(path)}


def _cpu(cells: Sequence[Cell], name: str) -> Sequence[tuple[int, float]]:
    return [(cell.round, cell.cpu_us) for cell in cells if cell.contender == name]


if __name__ == "__main__":
    main()
