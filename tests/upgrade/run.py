"""`make check-upgrade`: from the last release to this one and back, under load, without one failed call.

Services of both releases run as processes, two of each behind the real edge, on one Postgres. The client repeats
nothing by itself. A process that is told to stop drains as a pod does.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import uuid_utils
from ameide.ipa.v1 import ipa_pb2 as pb
from api_common import testing

from services.ipas.tests.factories import UNDER_WAY, activate_agent, an_ipa, publish_workflow
from tests.faults.callers import Caller
from tests.faults.load import Load, load
from tests.faults.stand import SECOND, Replica, Stand, standing
from tests.ports import reserved
from tests.upgrade.balancer import Balancer
from tests.upgrade.releases import Release, last_release
from tools.topology import ROOT, SAFE_OFFSETS, SERVICES, Mesh, Service

STEADY_SECONDS: Final = 3.0
"""How long each state of the upgrade lasts at least."""


GRACE_SECONDS: Final = 35
"""`terminationGracePeriodSeconds` of the chart."""


@dataclass
class Cluster:
    """Two replicas of every service."""

    stand: Stand
    balancers: dict[str, Balancer]
    replicas: dict[tuple[str, int], Replica] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    async def start(self, release: Release, service: Service) -> None:
        """Runs a replica of a release in the free place."""
        replica = await self.stand.start(service, release.environment)
        self.replicas[service.name, replica.move] = replica
        self._balance(service)

    async def replace(self, service: Service, move: int, release: Release) -> None:
        """Stops one replica while the other one serves, and starts one of ``release``."""
        replica = self.replicas.pop((service.name, move))
        self._balance(service)
        replica.process.terminate()
        try:
            await asyncio.wait_for(replica.process.wait(), GRACE_SECONDS)
        except TimeoutError:
            replica.process.kill()  # as a cluster does
            await replica.process.wait()
            self.killed.append(f"{service.name}, replaced by {release.name}")
            print("killed:", self.killed[-1], *replica.log.read_text().splitlines()[-3:], sep="\n", file=sys.stderr)
        await self.start(release, service)

    async def roll(self, release: Release) -> None:
        """Replaces every replica, all services at once."""
        for move in (0, SECOND):
            await asyncio.gather(*(self.replace(service, move, release) for service in SERVICES))

    def _balance(self, service: Service) -> None:
        places = [move for name, move in self.replicas if name == service.name]
        self.balancers[service.name].ready = [self.stand.mesh.ports[f"{service.name} grpc"] + move for move in places]


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """Runs Postgres, issuer, edge and balancers, and no service yet."""

    def ports(offset: int) -> list[int]:
        return [port + move for port in Mesh(Path(), offset).ports.values() for move in (0, SECOND)]

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upgrade")))
        offset = stack.enter_context(reserved(SAFE_OFFSETS, ports))
        stand = await stack.enter_async_context(standing(folder, offset))
        balancers = {service.name: await stack.enter_async_context(Balancer.open()) for service in SERVICES}
        stand.siblings.update({name: f"127.0.0.1:{one.port}" for name, one in balancers.items()})
        yield Cluster(stand, balancers)


async def play(old: Release, new: Release) -> list[str]:
    """Plays the upgrade; returns a row for each part, and raises if a call failed."""
    rows: list[str] = []
    async with cluster() as mesh:

        async def migrate(release: Release) -> None:
            for service in SERVICES:
                await asyncio.to_thread(release.migrate, service, mesh.stand.urls[service.name].owner)

        await migrate(old)
        for _ in (0, SECOND):
            await asyncio.gather(*(mesh.start(old, service) for service in SERVICES))
        async with mesh.stand.channel() as channel:
            caller = Client(channel, mesh.stand.metadata(f"t-{uuid_utils.uuid7()}"))
            await caller.prepare()
            async with load(caller.ask) as seen:

                @contextmanager
                def part(name: str) -> Iterator[None]:
                    asked, started = seen.asked, time.monotonic()
                    yield
                    failed = len(seen.failures_since(asked))
                    rows.append(f"{name:<44} {time.monotonic() - started:>6.1f} {seen.asked - asked:>7} {failed:>7}")
                    print(rows[-1], file=sys.stderr)

                with part(f"{old.name} on its own schema"):
                    await seen.go_on(STEADY_SECONDS)
                with part(f"the schema goes to {new.name}"):
                    await migrate(new)
                    await seen.go_on(STEADY_SECONDS)
                with part(f"every pod of {old.name} restarts"):
                    await mesh.roll(old)
                    await seen.go_on(STEADY_SECONDS)
                with part(f"{new.name} rolls in"):
                    await mesh.roll(new)
                    await seen.go_on(STEADY_SECONDS)
                with part(f"{old.name} rolls back in"):
                    await migrate(old)
                    await mesh.roll(old)
                    await seen.go_on(STEADY_SECONDS)
                with part(f"{new.name} again"):
                    await migrate(new)
                    await mesh.roll(new)
                    await seen.go_on(STEADY_SECONDS)
            rows.append(await caller.outcome())
            rows.append(f"did not end within {GRACE_SECONDS} s and were killed: {'; '.join(mesh.killed) or 'none'}")
            check(seen, mesh.stand)
    return rows


def check(seen: Load, stand: Stand) -> None:
    """Every call was answered with OK; otherwise says which were not, and what services had to say meanwhile."""
    warnings = [
        f"{log.stem}: {line}"
        for log in sorted(stand.mesh.folder.glob("*.log"))
        for line in log.read_text().splitlines()
        if '"level":"info"' not in line
    ]
    assert not seen.failures, "\n".join([f"call {n}: {text}" for n, text in seen.failures.items()] + warnings[-200:])


class Client(Caller):
    """Reads and writes everything in turn, and deploys."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        super().__init__(channel, metadata)
        self._ask_each = self.ask_each(SERVICES)
        self._made_of: dict[str, Any] = {}
        self._begun: list[pb.Deployment] = []

    async def prepare(self) -> None:
        """Makes the workflow and the agent of every deployment."""
        ((_, token),) = self._options["metadata"]
        caller = testing.Caller(token.removeprefix("Bearer "), "", "ada")
        workflow = await publish_workflow(self.workflows, caller, "ask")
        agent = await activate_agent(self._agents, caller)
        self._made_of = {"workflow_id": workflow.id, "agent_bindings": {"ask": agent.id}}

    async def ask(self, number: int) -> None:
        """Makes the call of this number; one in 25 deploys."""
        if number % 25:
            await self._ask_each(number)
        else:
            request = pb.CreateIpaRequest(ipa=an_ipa(**self._made_of))
            ipa = await self.ipas.CreateIpa(request, **self._options)
            self._begun.append(await self.ipas.DeployIpa(pb.DeployIpaRequest(id=ipa.id), **self._options))

    async def outcome(self) -> str:
        """Returns what became of the deployments, which releases began and others continued."""
        ends: Counter[str] = Counter()
        async with asyncio.timeout(120):
            for one in self._begun:
                request = pb.GetDeploymentRequest(ipa_id=one.ipa_id, id=one.id)
                while (found := await self.ipas.GetDeployment(request, **self._options)).state in UNDER_WAY:
                    await asyncio.sleep(0.1)
                ends[pb.Deployment.State.Name(found.state)] += 1
        assert set(ends) == {"DEPLOYED"}, ends
        return f"{len(self._begun)} deployments begun, all DEPLOYED"


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="release") as folder:
        old = Release.check_out(os.environ.get("FROM") or last_release(), Path(folder))
        rows = asyncio.run(play(old, Release("this tree", ROOT)))
    print(f"{'part':<44} {'s':>6} {'calls':>7} {'failed':>7}", *rows, sep="\n")


if __name__ == "__main__":
    main()
