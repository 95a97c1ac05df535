"""`make check-limits`: two edges keep one limit of each tenant, and go on without what counts.

It needs Redis or Valkey and envoyproxy/ratelimit, which `make ratelimit` builds with Go, and takes three minutes.
"""

import asyncio
import json
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
from ameide.workflow.v1 import workflow_pb2

from tests.checks.table import Table
from tests.checks.waiting import wait_until
from tools.edge.build import ENVOY
from tools.edge.run import command
from tools.mesh import processes
from tools.secrets import identity
from tools.topology import ROOT, Mesh

STATE: Final = ROOT / ".local" / "check-limits"
SECOND_EDGE: Final = 30
"""How far the ports of the second edge are from those of the first."""
GET: Final = "/ameide.workflow.v1.WorkflowService/GetWorkflow"
TENANT, PRINCIPAL, OFFERED, TOLERATED = 100, 60, 300, 0.05
EVERYBODY: Final = dict.fromkeys(("ada", "bob", "cleo", "dan"), OFFERED // 4)
OK, UNCOUNTED, LIMITED = "OK", "uncounted", "RATE_LIMITED"
RATES: Final = json.loads((ENVOY / "local" / "edge.json").read_text())["rates"]["READ"]
OF_THE_EDGE: Final = {str(2 * rate) for rate in RATES.values()}
"""What `x-ratelimit-limit` says where only the edge has counted."""
CLEAR_SECONDS, TRIES = 8, 12
Deed = tuple[float, Callable[[], Any]]


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


@dataclass
class Second:
    """What became of the calls that were answered in a whole second of the clock."""

    accepted: int = 0
    """And counted."""
    uncounted: int = 0
    """Who could not be counted in time passes with the edge's own limit. On a quiet machine nobody is."""
    limited: int = 0
    slowest: float = 0

    @property
    def is_clear(self) -> bool:
        """Tells whether the machine was quiet enough for this second to say something."""
        return self.accepted + self.limited >= 0.9 * OFFERED and self.slowest < 0.5


@dataclass
class Seen:
    """What became of calls."""

    seconds: defaultdict[int, Second] = field(default_factory=lambda: defaultdict(Second))
    of: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Answers by principal and reason."""

    def add(self, principal: str, reason: str, limit: str, took: float) -> None:
        second = self.seconds[int(time.time())]
        if reason == OK and limit in OF_THE_EDGE:
            reason = UNCOUNTED
        second.accepted += reason == OK
        second.uncounted += reason == UNCOUNTED
        second.limited += reason == LIMITED
        second.slowest = max(second.slowest, took)
        self.of[principal, reason] += 1

    def clear(self) -> list[Second]:
        """Returns the clear seconds, but for the first ones and the last."""
        return [self.seconds[one] for one in sorted(self.seconds)[2:-1] if self.seconds[one].is_clear]

    def count(self, *reasons: str) -> int:
        return sum(number for (_, reason), number in self.of.items() if reason in reasons)

    def none_failed(self) -> None:
        known = {OK, UNCOUNTED, LIMITED}
        assert {reason for _, reason in self.of} <= known, {key: n for key, n in self.of.items() if key[1] not in known}


class Load:
    """Offers reads of one workflow at a rate, through both edges in turn.

    The caller accepts an age, so that the answers cost the least: what is measured is the edge.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._asked: dict[str, bytes] = {}

    def headers(self, sub: str, tenant: str, role: str = "viewer") -> dict[str, str]:
        return {"authorization": f"Bearer {identity.mint(self.mesh.issuer, sub=sub, tenant=tenant, roles=[role])}"}

    def offer(self, seconds: float, rates: dict[str, int], *, tenant: str = "acme", at: Sequence[Deed] = ()) -> Seen:
        """Offers each principal's calls a second; ``at`` holds what to do after how many seconds."""
        if tenant not in self._asked:
            headers, url = self.headers("ada", tenant, "admin"), f"{self.mesh.url}/v1/workflows"
            made = httpx.post(url, headers=headers, json={"displayName": "Read often"}).raise_for_status()
            self._asked[tenant] = workflow_pb2.GetWorkflowRequest(id=made.json()["id"]).SerializeToString()
        return asyncio.run(self._offer(seconds, rates, tenant, at))

    async def _offer(self, seconds: float, rates: dict[str, int], tenant: str, at: Sequence[Deed]) -> Seen:
        seen = Seen()
        ports = (self.mesh.ports["edge http"], self.mesh.ports["edge http"] + SECOND_EDGE)
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
        methods = [one.unary_unary(GET, request_serializer=bytes, response_deserializer=bytes) for one in channels]

        async def act(after: float, deed: Callable[[], Any]) -> None:
            await asyncio.sleep(after)
            await asyncio.to_thread(deed)

        async def call(method: Any, principal: str, metadata: dict[str, str]) -> None:
            began = time.monotonic()
            answer = method(self._asked[tenant], metadata=tuple(metadata.items()), timeout=60)
            code = await answer.code()
            told = dict(await answer.initial_metadata()) | dict(await answer.trailing_metadata())
            limit = str(told.get("x-ratelimit-limit"))
            seen.add(principal, str(told.get("error-type", code.name)), limit, time.monotonic() - began)

        async def pace(principal: str, rate: int) -> None:
            """Begins calls, whether those before have been answered or not."""
            metadata = self.headers(principal, tenant) | {"cache-control": "max-age=30"}
            began, turn = time.monotonic(), cycle(methods)
            async with asyncio.TaskGroup() as calls:
                for number in range(int(rate * seconds)):
                    await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                    calls.create_task(call(next(turn), principal, metadata))

        async with asyncio.TaskGroup() as group:
            for deed in at:
                group.create_task(act(*deed))
            for principal, rate in rates.items():
                group.create_task(pace(principal, rate))
        for channel in channels:
            await channel.close()
        return seen

    def among(self, limit: int) -> str:
        """Asserts that every second accepts ``limit`` calls of many, and no call fails; returns what to print."""
        clear: list[Second] = []
        for _ in range(TRIES):
            found = self.offer(7, EVERYBODY)
            found.none_failed()
            clear += found.clear()
            least, most = (1 - TOLERATED) * limit, (1 + TOLERATED) * limit
            # What the store counted, and the edge learned too late, is uncounted.
            wrong = [one for one in clear if one.accepted > most or one.accepted + one.uncounted < least]
            assert not wrong, f"{wrong}"
            if len(clear) >= CLEAR_SECONDS:
                accepted, uncounted = [one.accepted for one in clear], sum(one.uncounted for one in clear)
                spread = f"{min(accepted)} to {max(accepted)} accepted in each of {len(clear)} seconds"
                return f"{spread}, {OFFERED} offered; {uncounted} uncounted"
        raise AssertionError(f"this machine is too busy: {len(clear)} clear seconds")

    def until(self, true: Callable[[int], bool]) -> None:
        """Offers calls until a clear second accepts as many as ``true`` says."""
        wait_until(lambda: any(true(one.accepted) for one in self.offer(4, EVERYBODY).clear()[-1:]), 120)


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


def check_limit(table: Table, load: Load, limits: Limits) -> None:
    with table.line("two edges keep one limit of a tenant") as seen:
        seen.append(load.among(TENANT))
    with table.line("another tenant has the limit of every tenant") as seen:
        other = load.offer(3, EVERYBODY, tenant="other")
        assert other.count(OK, UNCOUNTED) == other.of.total(), dict(other.of)
        seen.append(f"{other.of.total()} of {other.of.total()} accepted")
    with table.line("a greedy principal takes nothing from the others") as seen:
        found = load.offer(6, {"greedy": 200, "polite": 20})
        assert not found.of["polite", LIMITED], dict(found.of)
        # It had no more than its own, although seven seconds of the clock were touched.
        assert 0 < found.of["greedy", OK] <= 7 * PRINCIPAL, dict(found.of)
        seen.append(f"polite {found.of['polite', OK]} of {20 * 6}, greedy {found.of['greedy', OK]} of {200 * 6}")
    with table.line("who waits as told succeeds") as seen:
        limits.write({"acme": (TENANT, PRINCIPAL), "slow": (1, 1)})
        headers, told = load.headers("ada", "slow"), set()

        def ask() -> httpx.Response:
            return httpx.get(f"{load.mesh.url}/v1/workflows", headers=headers)

        for _ in range(5):
            answer = next(one for one in (ask() for _ in range(1000)) if one.status_code == 429)
            assert answer.json()["details"][0]["reason"] == LIMITED
            told.add(answer.headers["retry-after"])
            time.sleep(int(answer.headers["retry-after"]))
            assert ask().status_code == 200
        seen.append(f"Retry-After {', '.join(told)}, five times")


def check_rows(table: Table, load: Load, limits: Limits, mesh: Mesh) -> None:
    before = dict(processes.pids(mesh))["limits"].pid
    with table.line("a tenant's row changes without a restart") as seen:
        limits.write({"acme": (TENANT // 2, PRINCIPAL // 2)})
        load.until(lambda accepted: accepted < 0.75 * TENANT)
        seen.append(load.among(TENANT // 2))
    with table.line("a file with a mistake changes nothing") as seen:
        limits.write_text("domain: ameide\ndescriptors: [{key: class, valu: READ}]\n")
        seen.append(load.among(TENANT // 2))
        limits.write({"acme": (TENANT, PRINCIPAL)})
        load.until(lambda accepted: accepted > 0.75 * TENANT)
        assert dict(processes.pids(mesh))["limits"].pid == before


def check_outages(table: Table, load: Load, mesh: Mesh) -> None:
    def outage(name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
        with table.line(f"{name}: calls go on") as seen:
            found = load.offer(9, EVERYBODY, at=((2, begin), (7, end)))
            found.none_failed()
            assert found.count(UNCOUNTED) > OFFERED, dict(found.of)
            slowest = max(one.slowest for one in found.seconds.values())
            uncounted = found.count(UNCOUNTED)
            seen.append(f"{found.of.total()} calls, none failed, {uncounted} uncounted, the slowest {slowest:.2f} s")
        with table.line(f"{name}: the limit is back afterwards") as seen:
            admin = mesh.ports["edge admin"]
            took = wait_until(lambda: counts(admin) and counts(admin + SECOND_EDGE), 60)
            load.until(lambda accepted: accepted < 1.5 * TENANT)
            seen.append(f"{load.among(TENANT)}; healthy {took:.1f} s after the answers")

    def of(name: str) -> psutil.Process:
        return dict(processes.pids(mesh))[name]

    shells: list[psutil.Process] = []

    def kill(name: str) -> Callable[[], None]:
        def now() -> None:
            # The shell that starts it again has to wait until the end.
            shell = of(name).parent()
            assert shell is not None
            shell.suspend()
            shells.append(shell)
            of(name).send_signal(signal.SIGKILL)

        return now

    try:
        outage("the store is killed and started again", kill("store"), lambda: shells.pop().resume())
        outage("the store is frozen", lambda: of("store").suspend(), lambda: of("store").resume())
        outage("the service is killed and started again", kill("limits"), lambda: shells.pop().resume())
    finally:
        # What stands still could not be stopped.
        for one in shells:
            one.resume()
        with suppress(KeyError):
            of("store").resume()


def main() -> None:
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    table = Table(f"Two edges, {OFFERED} calls a second of a tenant that may make {TENANT}")
    with mesh_up() as mesh, second_edge(mesh):
        load, limits = Load(mesh), Limits(mesh)
        limits.write({"acme": (TENANT, PRINCIPAL)})
        load.until(lambda accepted: accepted < 1.5 * TENANT)
        check_limit(table, load, limits)
        check_rows(table, load, limits, mesh)
        check_outages(table, load, mesh)
    table.finish()


if __name__ == "__main__":
    main()
