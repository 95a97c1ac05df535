"""A mesh whose parts a test may stop, freeze and kill: services as processes, a Postgres of its own, the real edge."""

import asyncio
import itertools
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc
import httpx
import psutil
import yaml
from api_common.db import DatabaseUrls
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.edge.plugin import Edge, publishing
from tests.e2e.edge.plugin import running as running_edge
from tools.edge import layout as edge
from tools.mesh import postgres, preparation
from tools.secrets import identity
from tools.secrets.issuer import IssuerServer
from tools.topology import ROOT, SERVICES, Mesh, Service

SECOND: Final = 10
"""How far the ports of the second replica of a service are from those of the first."""
PATIENCE_SECONDS: Final = 60
_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Replica:
    """A process of a service."""

    service: Service
    move: int
    """How far its ports are moved: 0 or `SECOND`."""
    process: asyncio.subprocess.Process
    operations: str
    log: Path

    @property
    def lives(self) -> bool:
        return self.process.returncode is None

    async def until_ready(self, ready: bool = True) -> None:
        """Returns once the probe says so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while await self._is_ready() is not ready:
            assert self.lives, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _is_ready(self) -> bool:
        async with httpx.AsyncClient(base_url=self.operations, verify=False) as http:
            try:
                return (await http.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False  # it does not listen yet, or not any more

    async def metrics(self) -> Mapping[str, float]:
        """Returns what it counts, by name and labels as a scrape writes them."""
        async with httpx.AsyncClient(base_url=self.operations, verify=False) as http:
            text = (await http.get("/metrics")).text
        samples = itertools.chain.from_iterable(family.samples for family in text_string_to_metric_families(text))
        return {
            f"{one.name}{json.dumps(one.labels, sort_keys=True) if one.labels else ''}": one.value for one in samples
        }

    async def until_idle(self) -> None:
        """Returns once nobody uses or waits for a database connection: no place in the pool was lost."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                now = await self.metrics()
                waiting = now["db_client_connection_pending_requests"]
                if (now['db_client_connection_count{"state": "used"}'], waiting) == (0, 0):
                    return
                await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self) -> int:
        """Asks it to end, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Returns its exit code, 30 s after it was asked to end at the latest (DR-1)."""
        return await asyncio.wait_for(self.process.wait(), 30)

    def records(self) -> list[dict[str, Any]]:
        """Returns what it logged; every line is one JSON object."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@dataclass
class Stand:
    """Where everything is."""

    mesh: Mesh
    urls: Mapping[str, DatabaseUrls]
    edge: Edge
    siblings: dict[str, str] = field(default_factory=dict)
    """The addresses that services are told of others; by default those of the first replicas."""
    _replicas: list[Replica] = field(default_factory=list)
    _migrated: set[str] = field(default_factory=set)
    _migrating: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def running(self, service: Service) -> Replica:
        """Returns a replica of ``service``, the only one there is."""
        found = self._living(service) or [await self.start(service)]
        for surplus in found[:-1]:
            await surplus.stop()
        return found[-1]

    async def known(self, service: Service) -> Replica:
        """Returns the replica of ``service`` that its siblings are told of, the only one there is."""
        living = {replica.move: replica for replica in self._living(service)}
        result = living.get(0) or await self.start(service)
        if SECOND in living:
            await living[SECOND].stop()
        return result

    async def start(self, service: Service, environment: Mapping[str, str] | None = None) -> Replica:
        """Runs one replica more; returns when the edge asks it.

        Args:
            environment: what else its process is told; who tells it something has migrated the schema.
        """
        move = next(n for n in (0, SECOND) if n not in {replica.move for replica in self._living(service)})
        ports = {name: self.mesh.ports[f"{service.name} {name}"] + move for name in ("grpc", "operations")}
        settings = {
            "SERVER_GRPC_PORT": ports["grpc"],
            "SERVER_OPERATIONS_PORT": ports["operations"],
            # Kubernetes gives half a minute; a test waits for it.
            "SERVER_DRAIN_DELAY_SECONDS": 2,
            "SERVER_DRAIN_SECONDS": 4,
        }
        changed = {f"{service.name.upper()}_{name}": str(value) for name, value in settings.items()}
        changed |= environment or {}
        # One after the other: Alembic keeps in one global what it works on.
        async with self._migrating:
            if service.name not in self._migrated and environment is None:
                await asyncio.to_thread(preparation.migrate, dict(self.urls), service)
                self._migrated.add(service.name)
        log = self.mesh.folder / f"{service.name}-{len(self._replicas)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *self._command(service), env=self._environment(service) | changed, stdout=output, stderr=output
            )
        replica = Replica(service, move, process, f"http://127.0.0.1:{ports['operations']}", log)
        self._replicas.append(replica)
        await replica.until_ready()
        await self.until_served(replica)
        return replica

    async def refusal_to_start(self, service: Service, **environment: str) -> tuple[int, str]:
        """Runs a process of ``service`` that cannot start; returns its exit code and what it said on stderr."""
        process = await asyncio.create_subprocess_exec(
            *self._command(service), env=self._environment(service) | environment, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        return process.returncode or 0, said.decode()

    async def until_served(self, replica: Replica) -> None:
        """Returns once the edge sends requests to ``replica``."""
        name = replica.service.name
        healthy = f"{name}::127.0.0.1:{self.mesh.ports[f'{name} grpc'] + replica.move}::health_flags::healthy"
        async with httpx.AsyncClient(base_url=self.edge.admin) as admin, asyncio.timeout(PATIENCE_SECONDS):
            while healthy not in (await admin.get("/clusters")).text:
                await asyncio.sleep(_LOOK_SECONDS)

    def metadata(self, tenant: str) -> tuple[tuple[str, str], ...]:
        """Returns what an administrator of ``tenant`` sends along."""
        token = identity.mint(self.mesh.issuer, sub="ada", tenant=tenant, roles=["admin"])
        return (("authorization", f"Bearer {token}"),)

    def channel(self) -> grpc.aio.Channel:
        """Opens a channel to the edge, which repeats nothing by itself."""
        options = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.edge.port}", options=options)

    def client(self, tenant: str, **headers: str) -> httpx.AsyncClient:
        """Opens a REST client for an administrator of ``tenant``."""
        sent = {**dict(self.metadata(tenant)), **headers}
        return httpx.AsyncClient(base_url=self.edge.url, headers=sent, timeout=PATIENCE_SECONDS, verify=False)

    @asynccontextmanager
    async def operator(self, service: Service) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Opens a superuser's connection to the database of ``service``."""
        connection = await asyncpg.connect(self.urls[service.name].owner, user="postgres")
        try:
            yield connection
        finally:
            await connection.close()

    async def crash_postgres(self) -> None:
        """Ends Postgres as a crash does: the recovery is left to the next start."""
        # Not by pg_ctl: the fork that it takes crashes now and then in a process in which gRPC has threads.
        processes = self._postgres()
        processes[0].send_signal(signal.SIGQUIT)
        _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=10)
        assert alive == []

    async def start_postgres(self) -> None:
        """Starts Postgres again."""
        program = "import pathlib, sys; from tools.mesh import postgres; postgres.start(pathlib.Path(sys.argv[1]))"
        starting = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(self.mesh.postgres), cwd=ROOT
        )
        assert await starting.wait() == 0

    @contextmanager
    def frozen_postgres(self) -> Iterator[None]:
        """Stops every process of Postgres in its tracks until the block ends."""
        processes = self._postgres()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    async def end(self, *services: Service) -> None:
        """Ends all processes of ``services``, at once."""
        for replica in itertools.chain.from_iterable(map(self._living, services)):
            replica.process.kill()
            await replica.process.wait()

    def _living(self, service: Service) -> list[Replica]:
        return [replica for replica in self._replicas if replica.service is service and replica.lives]

    @staticmethod
    def _command(service: Service) -> list[str]:
        return [sys.executable, "-m", service.module]

    def _environment(self, service: Service) -> dict[str, str]:
        told = {name: address for name, address in self.siblings.items() if name in service.siblings}
        return preparation.environment(self.mesh, service, dict(self.urls)) | {
            f"{service.name.upper()}_CLIENTS_{name.upper()}_ADDRESS": address for name, address in told.items()
        }

    def _postgres(self) -> list[psutil.Process]:
        number = postgres.pid(self.mesh.postgres)
        assert number is not None
        postmaster = psutil.Process(number)
        return [postmaster, *postmaster.children(recursive=True)]


@asynccontextmanager
async def standing(folder: Path, port_offset: int) -> AsyncIterator[Stand]:
    """Runs Postgres, issuer and edge; services are a test's."""
    mesh = Mesh(folder, port_offset)
    preparation.ensure_secrets(mesh)
    urls = await asyncio.to_thread(preparation.ensure_databases, mesh)
    edge.lay_out(mesh.envoy, certs=mesh.certificates, port_offset=port_offset)
    add_second_endpoints(mesh.envoy / "clusters.yaml")
    stand = Stand(mesh, urls, Edge(mesh.envoy, port_offset, ""))
    try:
        with publishing(IssuerServer(mesh.issuer, mesh.ports["issuer"])):
            async with running_edge(stand.edge, alone=True):
                yield stand
    finally:
        await stand.end(*SERVICES)
        await stand.crash_postgres()


def add_second_endpoints(path: Path) -> None:
    """Gives every service a second endpoint, as a deployment of two replicas has."""
    clusters = yaml.load(path.read_text(), yaml.CSafeLoader)
    for cluster in clusters["resources"]:
        if cluster["name"] in {service.name for service in SERVICES}:
            endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            second = json.loads(json.dumps(endpoints[0]))
            second["endpoint"]["address"]["socket_address"]["port_value"] += SECOND
            endpoints.append(second)
    path.write_text(yaml.dump(clusters, Dumper=yaml.CSafeDumper))
