"""Counts the instructions that Envoy needs for a call: `python -m bench.edge_instructions --without rbac`.

It measures the whole edge, the bare edge, which is its floor, and the edge without each named filter. Valgrind's
callgrind counts independently of the load of the machine: two runs differ by 1 % at most. Instructions of the kernel
are not counted.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from bench.contender import Contender, Program, await_all, started_edge, started_service
from bench.contenders import started_bare_edge
from bench.order import Order, Transport
from bench.rounds import Send, load_generator
from bench.stage import Stage, set_stage

_WORK: Final = "GetUser"
_CALLS: Final = 160
_TRANSPORTS: Final[tuple[Transport, ...]] = ("h1", "h2", "grpc")
_CALLGRIND: Final = (
    "valgrind",
    "--tool=callgrind",
    "--trace-children=yes",
    "--smc-check=all-non-file",
    "--instr-atstart=no",
)

Start = Callable[[Sequence[str]], AbstractContextManager[Program]]
"""Runs a proxy under a command."""


def main() -> None:
    """Prints a line per edge: thousands of instructions a call over REST (HTTP/1.1, HTTP/2) and gRPC."""
    parser = argparse.ArgumentParser(prog="python -m bench.edge_instructions")
    parser.add_argument(
        "--without", action="append", default=[], metavar="FILTER", help="how its name ends; repeatable"
    )
    given = parser.parse_args()
    if not shutil.which("valgrind"):
        raise SystemExit("It needs valgrind (Debian's package of that name).")
    print(_line("thousands of instructions a call", ("REST h1", "REST h2", "gRPC")))
    with set_stage() as stage, started_service("users", stage) as users, load_generator(stage) as send:
        await_all([users])

        def measure(name: str, start: Start) -> Sequence[float]:
            counts = Path(tempfile.mkdtemp(dir=stage.folder))
            with start((*_CALLGRIND, f"--callgrind-out-file={counts}/out")) as program:
                await_all([program])
                counted = [_count(send, program, users, transport, counts) for transport in _TRANSPORTS]
            print(_line(name, [f"{one / 1000:,.0f}" for one in counted]), flush=True)
            return counted

        whole = measure("the edge", partial(_simple_edge, stage, without=""))
        bare = measure("the bare edge", lambda under: started_bare_edge(stage, under=under))
        print(_line("the edge / the bare edge", [f"{one / floor:.2f}" for one, floor in zip(whole, bare, strict=True)]))
        for name in given.without:
            measure(f"without {name}", partial(_simple_edge, stage, without=name))


def _line(name: str, figures: Sequence[str]) -> str:
    return f"{name:<36}" + "".join(f"{one:>10}" for one in figures)


@contextmanager
def _simple_edge(stage: Stage, under: Sequence[str], *, without: str) -> Iterator[Program]:
    """Runs the edge without a filter, and without what it does beside calls."""

    def simplify(folder: Path) -> None:
        with _changed(folder / "envoy.yaml") as config:
            # Both listeners have the same one.
            manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
            kept = [one for one in manager["http_filters"] if not (without and one["name"].endswith(f".{without}"))]
            assert not without or len(kept) < len(manager["http_filters"]), f"there is no filter {without}"
            manager["http_filters"] = kept
        # Periodic work would count the more, the slower the machine is.
        with _changed(folder / "clusters.yaml") as clusters:
            for cluster in clusters["resources"]:
                cluster.pop("health_checks", None)

    with started_edge(stage, change=simplify, under=under) as program:
        yield program


@contextmanager
def _changed(path: Path) -> Iterator[Any]:
    content = yaml.load(path.read_text(), yaml.CSafeLoader)
    yield content
    path.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper))


def _count(send: Send, program: Program, users: Program, transport: Transport, counts: Path) -> float:
    contender = Contender(name="edge", transport=transport, programs={"users": users}, edge=program)
    order = Order(transport, program.address, _WORK, _CALLS)
    send(contender, order)
    _control(program, "--instr=on")
    send(contender, order)
    _control(program, "--zero")
    send(contender, order)
    _control(program, "--dump")
    _control(program, "--instr=off")
    totals = [
        int(found[1])
        for file in counts.iterdir()
        if (found := re.search(r"^totals: (\d+)", file.read_text(errors="replace"), re.MULTILINE))
    ]
    for file in counts.iterdir():
        file.unlink()
    return max(totals) / _CALLS


def _control(program: Program, option: str) -> None:
    subprocess.run(["callgrind_control", option, str(program.process.pid)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
