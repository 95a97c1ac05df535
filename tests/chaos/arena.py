"""Real services over a real Postgres, whose deployments are carried out by processes that may be killed."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self, TypeVar

import asyncpg
import grpc
from agents_service.service import SERVICE as AGENTS
from ameide.agent.v1.agent_pb2_grpc import AgentServiceStub
from ameide.ipa.v1 import ipa_pb2 as pb
from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceStub
from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceStub
from api_common.authz import Directory
from api_common.testing import (
    Caller,
    Identity,
    NoStoredUsers,
    TestDatabase,
    create_database,
    guarded_service,
    postgres_server,
    running_service,
    settings_for,
    tls_of,
)
from ipas_service.service import SERVICE as IPAS
from workflows_service.service import SERVICE as WORKFLOWS

from libs.api_common.tests.proxy import Proxy
from services.ipas.tests.factories import UNDER_WAY, activate_agent, an_ipa, create_agent, publish_workflow
from tests.chaos.worker import live
from tools.secrets.certificates import ensure
from tools.topology import NAMED

T = TypeVar("T")

LEASE_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 120
_S = grpc.StatusCode
AGAIN: Final = {_S.UNAVAILABLE, _S.DEADLINE_EXCEEDED, _S.ABORTED, _S.RESOURCE_EXHAUSTED}


async def patiently(connect: Callable[[], Awaitable[T]]) -> T:
    """Connects to Postgres as soon as it has recovered."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await connect()
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.1)


# Processes that are copied from one which has loaded everything begin in no time.
_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.chaos.worker"])


class Worker:
    """One process of tests.chaos.worker."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._works = _PROCESSES.Event()
        self._process = _PROCESSES.Process(target=live, args=(settings, self._works), daemon=True)
        self._process.start()

    async def works(self) -> Self:
        """Returns once it looks for sagas."""
        assert await asyncio.to_thread(self._works.wait, PATIENCE_SECONDS)
        return self

    def send(self, number: signal.Signals) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    async def died(self) -> int | None:
        """Waits for its end; returns the exit code."""
        await asyncio.to_thread(self._process.join, PATIENCE_SECONDS)
        return self._process.exitcode

    def end(self) -> None:
        self._process.kill()
        self._process.join()


class Arena:
    """Makes IPAs, has them deployed, and counts what is held for them."""

    def __init__(
        self, databases: dict[str, TestDatabase], settings: dict[str, Any], identity: Identity, agents_door: Proxy
    ) -> None:
        self.agents_door: Final = agents_door
        self._databases = databases
        self._settings = settings
        self.caller: Final[Caller] = identity.caller("chaos", "admin")
        self.ipas: Any = None
        self.ready: dict[str, Any] = {}
        self.unfit: dict[str, Any] = {}
        self._key = 0

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="chaos")))
            ensure(folder / "certificates")
            admin_url = stack.enter_context(postgres_server())
            services = {service.name: service for service in (IPAS, WORKFLOWS, AGENTS)}
            # In a thread, because migrations run a loop of their own.
            databases = {
                name: await asyncio.to_thread(create_database, admin_url, name, service.migrations)
                for name, service in services.items()
            }
            identity = Identity(folder)
            siblings: dict[str, str] = {}
            for name in ("workflows", "agents"):
                settings = settings_for(
                    databases[name],
                    identity,
                    tls=tls_of(folder / "certificates", name),
                    internal_callers=NAMED[name].callers,
                )
                guarded = guarded_service(services[name], settings, directory=Directory(NoStoredUsers()))
                siblings[name] = await stack.enter_async_context(guarded)
            door = await stack.enter_async_context(Proxy.before(f"tcp://{siblings['agents']}"))
            siblings["agents"] = f"127.0.0.1:{door.port}"
            told = {"siblings": siblings, "certificates": str(folder / "certificates"), "lease_seconds": LEASE_SECONDS}
            arena = cls(databases, {"url": databases["ipas"].url, **told}, identity, door)
            channels = {}
            for name, service in services.items():
                settings = settings_for(databases[name], identity, siblings=siblings)
                # Its sagas are worked on by processes that may be killed, and by no others.
                opened = running_service(
                    replace(service, plans=None), settings, caller_tls=tls_of(folder / "certificates", "ipas")
                )
                channels[name] = (await stack.enter_async_context(opened)).channel
            await arena.furnish(channels)
            yield arena

    async def furnish(self, channels: dict[str, grpc.aio.Channel]) -> None:
        self.ipas = IpaServiceStub(channels["ipas"])
        workflow = await publish_workflow(WorkflowServiceStub(channels["workflows"]), self.caller, "ask")
        agents = AgentServiceStub(channels["agents"])
        for fields, agent in (
            (self.ready, await activate_agent(agents, self.caller)),
            (self.unfit, await create_agent(agents, self.caller)),
        ):
            fields |= {"workflow_id": workflow.id, "agent_bindings": {"ask": agent.id}}

    @contextmanager
    def worker(self, *, die_at: int = -1) -> Any:
        worker = Worker({**self._settings, "die_at": die_at})
        try:
            yield worker
        finally:
            worker.end()

    async def call(self, method: Callable[..., Awaitable[T]], request: Any) -> T:
        """Calls until there is an answer, as a client does: with a key, so that it happens once."""
        self._key += 1
        metadata = (*self.caller.metadata, ("idempotency-key", f"chaos-{self._key}"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await method(request, metadata=metadata, timeout=10)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in AGAIN:
                        raise
                    await asyncio.sleep(0.2)

    async def deploy(self, fields: dict[str, Any]) -> pb.Deployment:
        """Creates an IPA and begins to deploy it."""
        return await self.begin(await self.create(fields))

    async def create(self, fields: dict[str, Any]) -> str:
        """Creates an IPA; returns its id."""
        ipa: pb.Ipa = await self.call(self.ipas.CreateIpa, pb.CreateIpaRequest(ipa=an_ipa(**fields)))
        return ipa.id

    async def begin(self, ipa_id: str) -> pb.Deployment:
        """Begins to deploy an IPA."""
        found: pb.Deployment = await self.call(self.ipas.DeployIpa, pb.DeployIpaRequest(id=ipa_id))
        return found

    async def retire(self, deployment: pb.Deployment) -> pb.Deployment:
        found: pb.Deployment = await self.call(self.ipas.RetireIpa, pb.RetireIpaRequest(id=deployment.ipa_id))
        return found

    async def settled(self, deployment: pb.Deployment) -> str:
        """Returns the state in which a deployment comes to rest."""
        request = pb.GetDeploymentRequest(ipa_id=deployment.ipa_id, id=deployment.id)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found: pb.Deployment = await self.call(self.ipas.GetDeployment, request)
                if found.state not in UNDER_WAY:
                    return pb.Deployment.State.Name(found.state)
                await asyncio.sleep(0.05)

    async def held(self, deployment: pb.Deployment) -> tuple[int, int]:
        """Counts what workflows and agents hold for a deployment."""
        counts = []
        for name in ("workflows", "agents"):
            async with self.admin(name) as connection:
                query = "SELECT count(*) FROM reservations WHERE holder_id = $1"
                counts.append(await connection.fetchval(query, deployment.id))
        return counts[0], counts[1]

    @asynccontextmanager
    async def admin(self, name: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
        connection = await patiently(lambda: asyncpg.connect(self._databases[name].admin_url))
        try:
            yield connection
        finally:
            connection.terminate()

    async def crash_postgres(self) -> None:
        """Kills a process of Postgres, which then ends all others and recovers from its log, as after a power cut."""
        async with self.admin("ipas") as connection:
            os.kill(await connection.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
