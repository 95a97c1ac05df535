"""`make check-limits`: two edges keep one limit of each tenant, and go on without what counts.

It needs Redis or Valkey and envoyproxy/ratelimit, which `make ratelimit` builds with Go, and takes two minutes.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final

import grpc
import httpx
import psutil
import yaml

from tests.checks.table import Table
from tests.checks.waiting import wait_until
from tools.edge.run import command
from tools.mesh import processes
from tools.secrets import identity
from tools.topology import ROOT, Mesh

STATE: Final = ROOT / ".local" / "check-limits"
SECOND_EDGE: Final = 30
"""How far the ports of the second edge are from those of the first."""
LIST: Final = "/ameide.workflow.v1.WorkflowService/ListWorkflows"
TENANT, OFFERED, TOLERATED = 100, 300, 0.05
PRINCIPALS: Final = ("ada", "bob", "cleo", "dan")
OK, LIMITED = "OK", "RATE_LIMITED"


@contextmanager
def mesh_up() -> Iterator[Mesh]:
    mesh = Mesh(STATE / "mesh", int(os.environ.get("PORT_OFFSET") or 0))
    words = ["make", "--no-print-directory", f"PORT_OFFSET={mesh.port_offset}"]
    environment = {**os.environ, "AMEIDE_LOCAL_DIR": str(mesh.folder)}
    subprocess.run([*words, "up", "DETACH=1", "LIMITS=shared"], cwd=ROOT, env=environment, check=True)
    try:
        yield mesh
    finally:
        subprocess.run([*words, "down"], cwd=ROOT, env=environment, check=True)


@contextmanager
def second_edge(mesh: Mesh) -> Iterator[None]:
    """Runs the same edge again, on ports of its own."""
    folder = STATE / "second"
    shutil.copytree(mesh.envoy, folder, symlinks=True)
    built = yaml.load((folder / "envoy.yaml").read_text(), yaml.CSafeLoader)
    for one in (built["admin"], *built["static_resources"]["listeners"]):
        one["address"]["socket_address"]["port_value"] += SECOND_EDGE
    (folder / "envoy.yaml").write_text(yaml.dump(built, Dumper=yaml.CSafeDumper))
    with (STATE / "second.log").open("w") as log:
        process = subprocess.Popen(command(folder), stdout=log, stderr=log)
    try:
        wait_until(lambda: counts(mesh.ports["edge admin"] + SECOND_EDGE))
        yield
    finally:
        process.terminate()
        process.wait(60)


def counts(admin: int) -> bool:
    """Tells whether an edge sees a healthy service of the shared limits, and a workflows service."""
    with suppress(httpx.TransportError):
        lines = httpx.get(f"http://127.0.0.1:{admin}/clusters").text.splitlines()
        healthy = {line.partition("::")[0] for line in lines if line.endswith("::health_flags::healthy")}
        return {"limits", "workflows"} <= healthy
    return False


def allowed(mesh: Mesh) -> int:
    """Returns how many calls nobody could count."""
    ports = (mesh.ports["edge admin"], mesh.ports["edge admin"] + SECOND_EDGE)
    name = "^cluster.workflows.ratelimit.failure_mode_allowed$"
    answers = (httpx.get(f"http://127.0.0.1:{port}/stats?filter={name}").text for port in ports)
    return sum(int(answer.partition(":")[2] or 0) for answer in answers)


@dataclass
class Seen:
    """What became of calls, by the whole seconds of the clock in which they were answered."""

    reasons: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    of: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Answers by principal and reason."""
    slowest: float = 0

    def accepted(self) -> list[int]:
        """Returns the number of each second but the first and the last, which are no whole ones, and the one after."""
        return [self.reasons[second][OK] for second in sorted(self.reasons)[2:-1]]

    def failures(self) -> Counter[str]:
        found = sum(self.reasons.values(), Counter[str]())
        return Counter({reason: number for reason, number in found.items() if reason not in {OK, LIMITED}})


class Load:
    """Offers calls at a rate, through both edges in turn."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._tokens: dict[tuple[str, str], str] = {}

    def offer(self, seconds: float, *, tenant: str = "acme", rates: dict[str, int], at: Sequence[Any] = ()) -> Seen:
        """Offers each principal's calls a second; ``at`` holds what to do after how many seconds."""
        return asyncio.run(self._offer(seconds, tenant, rates, at))

    async def _offer(self, seconds: float, tenant: str, rates: dict[str, int], at: Sequence[Any]) -> Seen:
        seen = Seen()
        ports = (self._mesh.ports["edge http"], self._mesh.ports["edge http"] + SECOND_EDGE)
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
        methods = [one.unary_unary(LIST, request_serializer=bytes, response_deserializer=bytes) for one in channels]

        async def act(after: float, deed: Callable[[], Any]) -> None:
            await asyncio.sleep(after)
            await asyncio.to_thread(deed)

        async with asyncio.TaskGroup() as group:
            for after, deed in at:
                group.create_task(act(after, deed))
            for principal, rate in rates.items():
                token = self._token(tenant, principal)
                group.create_task(_pace(methods, principal, token, rate, seconds, seen))
        for channel in channels:
            await channel.close()
        return seen

    def _token(self, tenant: str, sub: str) -> str:
        if (tenant, sub) not in self._tokens:
            self._tokens[tenant, sub] = identity.mint(self._mesh.issuer, sub=sub, tenant=tenant, roles=["viewer"])
        return self._tokens[tenant, sub]


async def _pace(methods: Sequence[Any], principal: str, token: str, rate: int, seconds: float, seen: Seen) -> None:
    """Begins ``rate`` calls a second, whether those before have been answered or not."""

    async def call(method: Callable[..., Any]) -> None:
        began = time.monotonic()
        answer = method(b"", metadata=(("authorization", f"Bearer {token}"),), timeout=10)
        code = await answer.code()
        reason = dict(await answer.trailing_metadata() or ()).get("error-type", code.name)
        seen.reasons[int(time.time())][reason] += 1
        seen.of[principal, reason] += 1
        seen.slowest = max(seen.slowest, time.monotonic() - began)

    began, turn = time.monotonic(), cycle(methods)
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            group.create_task(call(next(turn)))


class Limits:
    """The one file of limits."""

    def __init__(self, mesh: Mesh) -> None:
        self._path = mesh.envoy / "limits" / "config" / "limits.yaml"
        self._common = yaml.safe_load(self._path.read_text())

    def write(self, rows: dict[str, tuple[int, int]]) -> None:
        """Adds rows of tenants: the calls a second that a tenant may read, and each principal of it."""
        changed = yaml.safe_load(yaml.safe_dump(self._common))
        (reads,) = (one for one in changed["descriptors"] if one["value"] == "READ")
        for tenant, (all_, each) in rows.items():
            principals = {"key": "/principal", "rate_limit": {"unit": "second", "requests_per_unit": each}}
            limit = {"unit": "second", "requests_per_unit": all_}
            row = {"key": "tenant", "value": tenant, "rate_limit": limit, "descriptors": [principals]}
            reads["descriptors"].append(row)
        self.write_text(yaml.safe_dump(changed))

    def write_text(self, text: str) -> None:
        draft = self._path.parents[1] / "draft"
        draft.write_text(text)
        draft.replace(self._path)


def among(limit: int, seen: Seen) -> str:
    """Asserts that each second accepted the limit, and no call failed; returns what to print."""
    accepted = seen.accepted()
    assert not seen.failures(), dict(seen.failures())
    assert len(accepted) >= 3, "too few whole seconds"
    assert all(abs(one - limit) <= limit * TOLERATED for one in accepted), f"accepted in each second: {accepted}"
    return f"accepted in each second: {min(accepted)} to {max(accepted)}, of {OFFERED} offered"


def spread(total: int) -> dict[str, int]:
    return {one: total // len(PRINCIPALS) for one in PRINCIPALS}


def check_limit(table: Table, load: Load, limits: Limits, mesh: Mesh) -> None:
    everybody = spread(OFFERED)
    with table.line("two edges keep one limit of a tenant") as seen:
        seen.append(among(TENANT, load.offer(12, rates=everybody)))
    with table.line("another tenant has the limit of every tenant") as seen:
        other = load.offer(3, tenant="other", rates=everybody)
        assert other.of.keys() == {(one, OK) for one in PRINCIPALS}, dict(other.of)
        seen.append(f"{other.of.total()} of {other.of.total()} accepted")
    with table.line("a greedy principal takes nothing from the others") as seen:
        found = load.offer(6, rates={"greedy": 200, "polite": 20})
        assert found.of["polite", LIMITED] == 0 and found.of["greedy", LIMITED] > 0, dict(found.of)
        seen.append(f"polite {found.of['polite', OK]} of {20 * 6}, greedy {found.of['greedy', OK]} of {200 * 6}")
    with table.line("who waits as told succeeds") as seen:
        limits.write({"acme": (TENANT, 60), "slow": (1, 1)})
        asked = f"http://127.0.0.1:{mesh.ports['edge http']}/v1/workflows"
        token = {"authorization": f"Bearer {identity.mint(mesh.issuer, sub='ada', tenant='slow', roles=['viewer'])}"}
        wait_until(lambda: httpx.get(asked, headers=token).status_code == 429)
        told = set()
        for _ in range(5):
            while (answer := httpx.get(asked, headers=token)).status_code != 429:
                pass
            told.add(answer.headers["retry-after"])
            assert answer.json()["details"][0]["reason"] == LIMITED
            time.sleep(int(answer.headers["retry-after"]))
            assert httpx.get(asked, headers=token).status_code == 200
        seen.append(f"Retry-After {', '.join(told)}, five times")


def check_rows(table: Table, load: Load, limits: Limits, mesh: Mesh) -> None:
    before = dict(processes.pids(mesh))["limits"].pid
    with table.line("a tenant's row changes without a restart") as seen:
        limits.write({"acme": (2 * TENANT, 120)})
        settle(lambda: load.offer(3, rates=spread(OFFERED)), lambda one: one.accepted()[-1] > 1.5 * TENANT)
        seen.append(among(2 * TENANT, load.offer(6, rates=spread(OFFERED))))
    with table.line("a file with a mistake changes nothing") as seen:
        limits.write_text("domain: ameide\ndescriptors: [{key: class, valu: READ}]\n")
        seen.append(among(2 * TENANT, load.offer(6, rates=spread(OFFERED))))
        limits.write({"acme": (TENANT, 60)})
        settle(lambda: load.offer(3, rates=spread(OFFERED)), lambda one: one.accepted()[-1] < 1.5 * TENANT)
    assert dict(processes.pids(mesh))["limits"].pid == before


def settle(offer: Callable[[], Seen], true: Callable[[Seen], bool]) -> None:
    wait_until(lambda: true(offer()), 60)


def check_outages(table: Table, load: Load, mesh: Mesh) -> None:
    def outage(name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
        with table.line(f"{name}: calls go on") as seen:
            before = allowed(mesh)
            found = load.offer(9, rates=spread(OFFERED), at=((2, begin), (7, end)))
            assert not found.failures(), dict(found.failures())
            more = [one for one in found.accepted() if one > 1.5 * TENANT]
            uncounted = allowed(mesh) - before
            assert more and uncounted, f"accepted in each second: {found.accepted()}, uncounted: {uncounted}"
            seen.append(
                f"{found.of.total()} calls, none failed, {uncounted} uncounted, the slowest {found.slowest:.2f} s"
            )
        with table.line(f"{name}: the limit is back afterwards") as seen:
            admin = mesh.ports["edge admin"]
            took = wait_until(lambda: counts(admin) and counts(admin + SECOND_EDGE), 60)
            settle(lambda: load.offer(4, rates=spread(OFFERED)), lambda one: one.accepted()[-1] < 1.5 * TENANT)
            seen.append(f"{among(TENANT, load.offer(7, rates=spread(OFFERED)))}; healthy {took:.1f} s after the end")

    def of(name: str) -> psutil.Process:
        return dict(processes.pids(mesh))[name]

    shells: list[psutil.Process] = []

    def kill(name: str) -> Callable[[], None]:
        def now() -> None:
            # Without the shell that starts it again, until the end.
            shell = of(name).parent()
            assert shell is not None
            shell.suspend()
            shells.append(shell)
            of(name).send_signal(signal.SIGKILL)

        return now

    outage("the store is killed and started again", kill("store"), lambda: shells.pop().resume())
    outage("the store is frozen", lambda: of("store").suspend(), lambda: of("store").resume())
    outage("the service is killed and started again", kill("limits"), lambda: shells.pop().resume())


def main() -> None:
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    table = Table(f"Two edges, {OFFERED} calls a second of a tenant that may make {TENANT}")
    with mesh_up() as mesh, second_edge(mesh):
        load, limits = Load(mesh), Limits(mesh)
        limits.write({"acme": (TENANT, 60)})
        settle(lambda: load.offer(3, rates=spread(OFFERED)), lambda one: one.accepted()[-1] < 1.5 * TENANT)
        check_limit(table, load, limits, mesh)
        check_rows(table, load, limits, mesh)
        check_outages(table, load, mesh)
    table.finish()


if __name__ == "__main__":
    main()
