"""Checks that memory stays flat: `make soak MINUTES=30` makes mixed calls and streams to the running mesh.

It measures anonymous memory, because leaks are made of it. Pages of files do not count, nor do shared buffers of
Postgres, which fill (and which USS attributes to one process until another touches them). For the edge it takes what
Envoy has allocated, because its allocator keeps a varying reserve. Most memory of Postgres belongs to connections, so
their number must stay constant: once a minute each client makes many calls at once, which keeps the pool at its size.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc
import psutil
from api_common.authn import channel_credentials
from api_common.testing import tls_of

from bench.churn import HABITS, Churn
from tools.mesh import postgres, processes
from tools.mesh.commands import running_mesh
from tools.secrets import identity
from tools.topology import SERVICES, Mesh

ALLOWED: Final = 0.05
"""The largest allowed change of memory after the warm-up, as a share."""

_SAMPLE_SECONDS: Final = 5
_PART: Final = 5
"""The time after the warm-up has this many parts; the first and the last are compared."""
_CROWD: Final = 20
"""Simultaneous updates of a client, more than the pool has connections: each update occupies one while it waits."""
_CROWD_SECONDS: Final = 60
"""Between two crowds; the pool closes connections that are idle for five minutes."""
_TOKEN_SECONDS: Final = 24 * 3600
_MIB: Final = 1024 * 1024


@dataclass
class Soak:
    """The calls that were made, and the memory samples of the processes."""

    calls: Counter[str] = field(default_factory=Counter)
    """By kind of call."""
    failures: Counter[str] = field(default_factory=Counter)
    """Calls that went wrong."""
    samples: list[tuple[int, Mapping[str, int]]] = field(default_factory=list)
    """The number of calls so far, and the bytes of each process."""


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one process after the warm-up."""

    process: str
    before: float
    """Bytes in the first part."""
    after: float
    """Bytes in the last part."""
    calls: int
    """Calls made in between."""

    @property
    def is_flat(self) -> bool:
        return abs(self.after / self.before - 1) <= ALLOWED

    def __str__(self) -> str:
        growth = (self.after - self.before) / max(1, self.calls)
        sizes = f"{self.before / _MIB:>14.1f}{self.after / _MIB:>14.1f}{self.after / self.before - 1:>+10.1%}"
        return f"{self.process:<12}{sizes}{growth:>16.0f}  {'' if self.is_flat else 'CHANGES'}"


def changes(samples: Sequence[tuple[int, Mapping[str, int]]]) -> Iterator[Change]:
    """Compares the first part with the last, process by process."""
    part = max(1, len(samples) // _PART)
    first, last = samples[:part], samples[-part:]
    calls = last[0][0] - first[0][0]
    for process in samples[0][1]:
        before, after = (statistics.fmean(sizes[process] for _, sizes in some) for some in (first, last))
        yield Change(process, before, after, calls)


def memory(mesh: Mesh) -> Mapping[str, int]:
    """Returns the private bytes of each process of the mesh; Postgres counts as one."""
    found = {name: _own(process) for name, process in processes.pids(mesh) if name not in {"mesh", "edge"}}
    with urllib.request.urlopen(f"http://127.0.0.1:{mesh.ports['edge admin']}/memory") as answer:
        found["edge"] = int(json.load(answer)["allocated"])
    postmaster = postgres.pid(mesh.postgres)
    if postmaster is not None:
        server = psutil.Process(postmaster)
        found["postgres"] = sum(map(_own, (server, *server.children(recursive=True))))
    return found


def _own(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        resident = process.memory_info()
        return int(resident.rss - resident.shared)
    return 0


async def churn(mesh: Mesh, soak: Soak, *, rate: float, ends: float, number: int) -> None:
    """Runs one client: ``rate`` calls a second until the end, and once a minute many at once."""
    token = identity.mint(mesh.issuer, sub=f"soak-{number}", tenant="soak", roles=["admin"], ttl_seconds=_TOKEN_SECONDS)
    own = (("grpc.use_local_subchannel_pool", 1),)
    service = f"127.0.0.1:{mesh.ports[f'{SERVICES[0].name} grpc']}"
    credentials = channel_credentials(tls_of(mesh.certificates, "edge"))
    chance = random.Random(number)
    names = list(HABITS)
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['edge http']}", options=own) as edge,
        grpc.aio.secure_channel(service, credentials, options=own) as streams,
        asyncio.TaskGroup() as group,
    ):
        client = await Churn(edge, streams, (("authorization", f"Bearer {token}"),)).prepare()
        due = time.monotonic()
        crowded = due + chance.uniform(0, _CROWD_SECONDS)
        while due < ends:
            habits = [chance.choice(names)]
            if due >= crowded:
                crowded, habits = due + _CROWD_SECONDS, ["update"] * _CROWD
            for habit in habits:
                group.create_task(_one(client, habit, soak))
            due += chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _one(client: Churn, habit: str, soak: Soak) -> None:
    soak.calls[habit] += 1
    try:
        await HABITS[habit](client)
    except (grpc.aio.AioRpcError, AssertionError) as error:
        what = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
        soak.failures[f"{habit}: {what}"] += 1


async def run(mesh: Mesh, *, minutes: float, rate: float, clients: int) -> Soak:
    """Makes the calls and takes the samples."""
    soak = Soak()
    ends = time.monotonic() + minutes * 60
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(churn(mesh, soak, rate=rate / clients, ends=ends, number=number))
        while time.monotonic() < ends:
            await asyncio.sleep(_SAMPLE_SECONDS)
            soak.samples.append((soak.calls.total(), memory(mesh)))
    return soak


def main() -> None:
    """Prints a line per process; exits with 1 if one grows or more than one call in a thousand went wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Memory under churn.")
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: 30)")
    parser.add_argument("--warm-up", type=float, metavar="MINUTES", help="not judged (default: a third)")
    parser.add_argument("--rate", type=float, default=100, help="calls a second (default: 100)")
    parser.add_argument("--clients", type=int, default=8, help="connections to the edge (default: 8)")
    options = parser.parse_args()
    mesh = running_mesh(Mesh.from_environment())
    if mesh is None:
        raise SystemExit("No mesh is running: make up DETACH=1")
    soak = asyncio.run(run(mesh, minutes=options.minutes, rate=options.rate, clients=options.clients))
    warm_up = options.minutes / 3 if options.warm_up is None else options.warm_up
    judged = soak.samples[int(warm_up * 60 / _SAMPLE_SECONDS) :]
    print(f"{soak.calls.total():,} calls in {options.minutes:g} minutes, the first {warm_up:.0f} not judged.")
    print(", ".join(f"{habit} {count:,}" for habit, count in soak.calls.items()))
    print(f"\n{'':<12}{'before, MiB':>14}{'after, MiB':>14}{'change':>10}{'bytes a call':>16}")
    found = list(changes(judged))
    print(*found, sep="\n")
    print(f"\nWent wrong: {dict(soak.failures) or 'nothing'}.")
    flat = all(one.is_flat for one in found)
    print(f"Goal: every process within ± {ALLOWED:.0%}: {'reached' if flat else 'missed'}.")
    sys.exit(0 if flat and soak.failures.total() * 1000 <= soak.calls.total() else 1)


if __name__ == "__main__":
    main()
