"""Deployments whose sagas nobody works on but the test, and workers that die when they are told to.

The worker of the service leaves these sagas alone, because their kinds are not known to it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import pytest
from api_common.authn import Principal
from api_common.call import RequestContext
from api_common.db import Database, Row, Transaction
from api_common.listing import PageTokens
from api_common.sagas import Effect, Plan, SagaMetrics, Sagas, SagaWorker, Step, StepAction
from api_common.siblings import Siblings
from api_common.telemetry import Trace, Tracer
from api_common.testing import Caller
from cryptography.fernet import Fernet
from ipas_service.deployments import Deployments, _retirement
from ipas_service.repository import DeploymentRepository, IpaRepository
from ipas_service.rollout import Rollout
from prometheus_client import CollectorRegistry

from services.ipas.tests.factories import create_ipa

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub

DEADLINE_SECONDS: Final = 900.0
"""Of the plans here. No test outlives it: time passes when a `Clock` says so."""
ALL: Final = {"workflows": 1, "agents": 1}
NOTHING: Final = {"workflows": 0, "agents": 0}
FOR_EVER: Final = 1000.0
"""A lease that no test outlives: time passes when `Stage.expire` says so."""


class Cast:
    """What IPAs are made of."""

    def __init__(
        self, ipas: IpaServiceAsyncStub, caller: Caller, workflow_id: str, *, active_agent: str, idle_agent: str
    ) -> None:
        self._ipas = ipas
        self.caller = caller
        self._workflow_id = workflow_id
        self._agents = {True: active_agent, False: idle_agent}

    async def ipa(self, *, fit: bool = True) -> str:
        """Makes an IPA that may be deployed or, because its agent is not ACTIVE, is taken back after its workflow."""
        parts = {"workflow_id": self._workflow_id, "agent_bindings": {"ask": self._agents[fit]}}
        return (await create_ipa(self._ipas, self.caller, **parts)).id


class Clock:
    """The clock of a worker, which a test sets forward."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


class Crash(BaseException):
    """The process is gone: nobody catches this, nothing is given back."""


class Instants:
    """Counts the instants of a worker's life, and ends it at one of them."""

    def __init__(self, fatal: int = -1) -> None:
        self.count = 0
        self._fatal = fatal

    def pass_by(self) -> None:
        self.count += 1
        if self.count - 1 == self._fatal:
            raise Crash

    def around(self, effect: StepAction) -> StepAction:
        async def run(work: Effect) -> Mapping[str, Any] | None:
            self.pass_by()
            found = await effect(work)
            self.pass_by()
            return found

        return run


class MortalWorker(SagaWorker):
    """A worker that may die before and after each of its writes and effects."""

    instants = Instants()

    async def _save(self, *args: Any, **kwargs: Any) -> None:
        self.instants.pass_by()
        await super()._save(*args, **kwargs)
        self.instants.pass_by()


class Gate:
    """Stops every effect before it begins, until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    def __call__(self, effect: StepAction) -> StepAction:
        async def run(work: Effect) -> Mapping[str, Any] | None:
            self.reached.set()
            await self.opened.wait()
            return await effect(work)

        return run


def with_effects(
    plan: Plan,
    change: Callable[[StepAction], StepAction],
    *,
    steps: bool = True,
    compensations: bool = True,
) -> Plan:
    """Returns ``plan`` with every effect, or only those of steps or of compensations, as ``change`` makes it."""

    def changed(step: Step) -> Step:
        run = change(step.run) if step.run and steps else step.run
        undo = change(step.compensate) if step.compensate and compensations else step.compensate
        return replace(step, run=run, compensate=undo)

    return replace(plan, steps=[changed(step) for step in plan.steps])


def pausing(plan: Plan, seconds: float) -> Plan:
    """Returns ``plan`` with pauses of up to ``seconds``."""
    return replace(plan, first_pause_seconds=seconds, longest_pause_seconds=seconds)


class Stage:
    """Deployments whose sagas nobody works on but the test."""

    def __init__(self, database: Database, siblings: Siblings, admins: Mapping[str, asyncpg.Connection[Any]]) -> None:
        self.database = database
        self._admins = admins
        tokens = PageTokens([Fernet.generate_key().decode()])
        self._deployments = Deployments(
            IpaRepository(tokens),
            DeploymentRepository(tokens),
            Sagas(),
            Rollout(siblings),
            deadline_seconds=DEADLINE_SECONDS,
        )
        deploy, retire = self._deployments.plans
        self.deploy_plan = replace(pausing(deploy, 0.002), kind="deploy_in_test")
        self.retire_plan = replace(pausing(retire, 0.002), kind="retire_in_test")
        self._deployments._deploy, self._deployments._retire = self.deploy_plan, self.retire_plan  # type: ignore[misc]
        self.trace = Trace("1" * 32, "", sampled=False)
        """Of every call that begins something here."""
        self.registry = CollectorRegistry()
        self._metrics = SagaMetrics(self.registry)

    async def deploy(self, caller: Caller, ipa_id: str) -> Row:
        return await self._call(caller, lambda ctx: self._deployments.deploy(ctx, ipa_id, etag=""))

    async def retire(self, caller: Caller, ipa_id: str) -> str:
        """Begins to retire an IPA; returns the id of the saga that does it."""
        deployment = await self._call(caller, lambda ctx: self._deployments.retire(ctx, ipa_id, etag=""))
        return _retirement(deployment["id"])

    async def resume(self, caller: Caller, deployment: Row) -> Row:
        ids = deployment["ipa_id"], deployment["id"]
        return await self._call(caller, lambda ctx: self._deployments.resume(ctx.transaction, *ids))

    async def _call(self, caller: Caller, work: Callable[[RequestContext], Awaitable[Row]]) -> Row:
        unit = Transaction(self.database, caller.tenant_id, constraints={}, read_only=False, timeout_seconds=5)
        principal = Principal(caller.subject, caller.tenant_id, frozenset())
        async with unit as transaction:
            return await work(RequestContext(principal, "", 0.0, self.trace, "", transaction=transaction))

    def worker(
        self,
        *plans: Plan,
        instants: Instants | None = None,
        step_seconds: float = 10,
        now: Callable[[], float] = time.time,
        tracer: Tracer | None = None,
    ) -> MortalWorker:
        worker = MortalWorker(
            self.database,
            plans,
            Sagas(),
            self._metrics,
            committed=lambda: None,
            lease_seconds=FOR_EVER,
            step_seconds=step_seconds,
            now=now,
            tracer=tracer,
        )
        worker.instants = instants or Instants()
        return worker

    async def work(self, worker: SagaWorker, saga: str) -> None:
        """Lets ``worker`` take a saga, even from another worker."""
        await self.expire(saga)
        await worker.work(await self._of(saga, "tenant_id"), saga)

    async def finish(self, worker: SagaWorker, saga: str) -> str:
        """Lets ``worker`` work, as often as it takes; returns the state in which the saga then stays."""
        for _ in range(20):
            if await self._of(saga, "due_time") is None:
                return await self.state(saga)
            await self.work(worker, saga)
        pytest.fail("the saga does not come to an end")

    async def pass_deadline(self, saga: str) -> None:
        """Lets the deadline of a saga pass."""
        await self._admins["ipas"].execute("UPDATE sagas SET deadline_time = now() WHERE id = $1", saga)

    async def forget_call(self, saga: str) -> None:
        """Makes a saga what the release before began: it stored no trace of the call."""
        await self._admins["ipas"].execute("UPDATE sagas SET data = data - 'traceparent' WHERE id = $1", saga)

    async def forget_deadline(self, saga: str) -> None:
        """Makes a saga and its deployment what the release before began: it knew no deadlines."""
        for table in ("sagas", "deployments"):
            await self._admins["ipas"].execute(f"UPDATE {table} SET deadline_time = NULL WHERE id = $1", saga)

    async def state(self, saga: str) -> str:
        return str(await self._of(saga, "state"))

    async def expire(self, saga: str) -> None:
        """Lets the time pass after which another worker may take the saga."""
        await self._admins["ipas"].execute("UPDATE sagas SET due_time = now() WHERE id = $1", saga)

    async def deployment(self, id: str) -> asyncpg.Record:
        """Returns the row of a deployment."""
        row: asyncpg.Record | None = await self._admins["ipas"].fetchrow("SELECT * FROM deployments WHERE id = $1", id)
        assert row
        return row

    async def _of(self, saga: str, column: str) -> Any:
        return await self._admins["ipas"].fetchval(f"SELECT {column} FROM sagas WHERE id = $1", saga)

    async def notes(self, id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            await self._admins["ipas"].fetchval("SELECT steps::text FROM sagas WHERE id = $1", id)
        )
        return found

    async def held(self, deployment: str) -> dict[str, int]:
        """Counts what each service keeps for a deployment."""
        query = "SELECT count(*) FROM reservations WHERE holder_id = $1"
        return {name: await self._admins[name].fetchval(query, deployment) for name in ("workflows", "agents")}

    async def ipa(self, id: str) -> tuple[str, int]:
        row = await self._admins["ipas"].fetchrow("SELECT state, version FROM ipas WHERE id = $1", id)
        assert row
        return row["state"], row["version"]


StageBeside = Callable[[dict[str, str]], AbstractAsyncContextManager[Stage]]
"""Opens a stage whose workers call these addresses."""
