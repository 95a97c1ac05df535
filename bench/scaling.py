"""Measures whether two processes of a service carry twice the calls: `python -m bench.scaling`, GetUser by the edge.

Two cores cannot show twice as many calls a second, because load generator, edge and Postgres need them, too. The CPU
time per process decides: the busiest process is full first, and with a core of its own it carries as many calls as fit
into one second of CPU time. Each process gets the same number of calls a second, however many processes there are. With
a fixed number of calls in flight each of two processes would batch fewer calls at once, and pay more for each.
"""

import argparse
import json
import random
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from bench.contender import Contender, ContenderError, Program, await_all, started_edge, started_service
from bench.order import Order
from bench.rounds import Send, load_generator, paired, postgres_cpu_ns
from bench.stage import Stage, set_stage

FACTOR: Final = 1.7
"""The goal: how many times the calls of one process two must carry."""
EQUAL: Final = 1.1
"""The goal: what a call may cost with two processes, relative to one."""
CALLS_PER_SECOND: Final = 1000
P95_MS: Final = 100
LOAD: Final = 0.6
"""The share of saturation at which latency is measured."""

EACH: Final = 250
"""Calls a second of each process, so that two leave room on two cores."""

_WORK: Final = "GetUser"
_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Cell:
    """One round with a number of processes, in microseconds of CPU time per call."""

    round: int
    processes: int
    busiest_us: float
    """The CPU time of the busiest process, divided by all calls."""
    all_us: float
    edge_us: float
    postgres_us: float
    calls_per_second: float


class Bench:
    """Two processes of the users service behind one edge, which is configured with one or both."""

    def __init__(self, stage: Stage, edge: Program, services: Sequence[Program], send: Send) -> None:
        self._stage = stage
        self._edge = edge
        self._services = services
        self._send = send
        self._clusters: Path = stage.mesh.envoy / "clusters.yaml"
        self._admin = f"http://127.0.0.1:{stage.mesh.ports['edge admin']}"

    def use(self, processes: int) -> None:
        """Configures the edge, and waits until it finds the processes healthy.

        Raises:
            ContenderError: it does not in time.
        """
        document = yaml.load(self._clusters.read_text(), yaml.CSafeLoader)
        users = next(one for one in document["resources"] if one["name"] == "users")
        ports = [service.port for service in self._services[:processes]]
        users["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": _address(port)}}} for port in ports]}
        ]
        draft = self._clusters.with_suffix(".new")
        draft.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))
        # Envoy watches for moved files, not for writes.
        draft.replace(self._clusters)
        deadline = time.monotonic() + _SECONDS
        while self._serving() != set(ports):
            if time.monotonic() > deadline:
                raise ContenderError(f"the edge has not found {ports}, but {self._serving()}")
            time.sleep(0.05)

    def measure(self, number: int, processes: int, count: int, *, rate: int = 0) -> Cell:
        """Makes ``count`` calls at a rate, or as fast as answers arrive."""
        services = self._services[:processes]
        meters: list[Callable[[], int]] = [service.cpu_ns for service in services]
        meters += [self._edge.cpu_ns, lambda: postgres_cpu_ns(self._stage)]
        before = [read() for read in meters]
        seconds = self._call(count=count, rate=rate).seconds
        *own, edge, postgres = ((read() - then) / count / 1000 for read, then in zip(meters, before, strict=True))
        return Cell(number, processes, max(own), sum(own), edge, postgres, count / seconds)

    def latencies(self, rate: int) -> list[float]:
        """Returns latencies in milliseconds, at a rate that does not depend on answers."""
        return sorted(self._call(count=rate * _SECONDS, rate=rate).latencies_ms)

    def _call(self, *, count: int, rate: int = 0) -> Any:
        edge = Contender(name="edge", transport="grpc", programs={"users": self._services[0]}, edge=self._edge)
        return self._send(edge, Order("grpc", edge.address("users"), _WORK, count, rate))

    def _serving(self) -> set[int]:
        with urllib.request.urlopen(f"{self._admin}/clusters?format=json") as answer:
            clusters = json.load(answer)["cluster_statuses"]
        hosts: list[Any] = next((one.get("host_statuses", []) for one in clusters if one["name"] == "users"), [])
        return {
            host["address"]["socket_address"]["port_value"]
            for host in hosts
            if host["health_status"] == {"eds_health_status": "HEALTHY"}
        }


def _address(port: int) -> dict[str, object]:
    return {"address": "127.0.0.1", "port_value": port}


def rounds(bench: Bench, number: int, count: int) -> Iterator[Cell]:
    """Measures one and two processes in alternating order; the first round only fills caches."""
    chance = random.Random(1)
    for current in range(-1, number):
        for processes in chance.sample((1, 2), 2):
            bench.use(processes)
            cell = bench.measure(current, processes, count * processes, rate=EACH * processes)
            if current >= 0:
                yield cell


def report(cells: Sequence[Cell]) -> bool:
    """Prints what one and two processes cost, and whether the goals are reached."""
    names = ("busiest_us", "all_us", "edge_us", "postgres_us", "calls_per_second")
    print(f"{'processes':<12}{'busiest µs':>12}{'all µs':>10}{'edge µs':>10}{'Postgres µs':>13}{'calls/s':>10}")
    for processes in (1, 2):
        own = [cell for cell in cells if cell.processes == processes]
        shown = [statistics.median(getattr(cell, name) for cell in own) for name in names]
        print(
            f"{processes:<12}{shown[0]:>12,.0f}{shown[1]:>10,.0f}{shown[2]:>10,.0f}{shown[3]:>13,.0f}{shown[4]:>10,.0f}"
        )
    one, two = ([cell for cell in cells if cell.processes == processes] for processes in (1, 2))
    factor = paired([(cell.round, cell.busiest_us) for cell in one], [(cell.round, cell.busiest_us) for cell in two])
    equal = paired([(cell.round, cell.all_us) for cell in two], [(cell.round, cell.all_us) for cell in one])
    print(f"\nTwo carry, with a core each:  {factor} of one; the goal is {FACTOR}")
    print(f"A call costs them together:   {equal} of one; the goal is {EQUAL} at most")
    return factor.high >= FACTOR and equal.low <= EQUAL


def main() -> None:
    """Prints the figures; exits with 1 if a goal is missed by more than noise."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description="One process and two.")
    parser.add_argument("--rounds", type=int, default=12, help="how often each is measured (default: 12)")
    parser.add_argument("--count", type=int, default=1000, help="calls per round and process (default: 1,000)")
    options = parser.parse_args()
    with ExitStack() as stack:
        stage = stack.enter_context(set_stage())
        first = stack.enter_context(started_service("users", stage))
        second = stack.enter_context(started_service("users", stage, label="users again"))
        edge = stack.enter_context(started_edge(stage))
        await_all([first, second, edge])
        bench = Bench(stage, edge, [first, second], stack.enter_context(load_generator(stage)))
        cells = list(rounds(bench, options.rounds, options.count))
        reached = report(cells)
        bench.use(1)
        full = [bench.measure(number, 1, 2 * options.count) for number in range(options.rounds)]
        held = 1e6 / statistics.median(cell.all_us for cell in full)
        print(f"A core of one process holds:  {held:,.0f} calls a second; the goal is {CALLS_PER_SECOND:,}")
        saturated = statistics.median(cell.calls_per_second for cell in full)
        rate = int(LOAD * saturated)
        taken = bench.latencies(rate)
        p95 = taken[int(0.95 * len(taken))]
        print(f"p95 at {rate:,} calls a second ({LOAD:.0%} of saturation): {p95:.1f} ms; the goal is {P95_MS}")
    sys.exit(0 if reached and p95 < P95_MS else 1)


if __name__ == "__main__":
    main()
