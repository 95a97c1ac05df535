"""Carries sagas out: claims what is due, makes steps and compensations, notes each before and after (ADR 26)."""

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog

from api_common.authn import Principal
from api_common.call import CallContext
from api_common.db import Database, Transaction, UnitOfWork
from api_common.errors import (
    AbortedError,
    CallCancelledError,
    DeadlineExceededError,
    DomainError,
    ExternalServiceError,
    InternalError,
    RateLimitError,
    UnauthenticatedError,
)
from api_common.sagas import store as saga_store
from api_common.sagas.metrics import SagaMetrics
from api_common.sagas.plan import Committing, Effect, Effecting, Plan, Saga, Sagas, SagaState, Step, StepState
from api_common.telemetry import Trace

LEASE_SECONDS: Final = 10.0
"""How long a worker that keeps silent is believed to be alive; then another one takes over."""
STEP_SECONDS: Final = 10.0
"""How long one attempt of a step may take."""
POLL_SECONDS: Final = 1.0
"""Between two looks for what others left behind, about; what begins in this process is taken at once."""
CONCURRENCY: Final = 8
"""The sagas that one process works on at once; below the size of the pool, so that requests find a connection."""

_COUNT_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 2.0
_WRITE_SECONDS: Final = 5.0

# What a repetition may cure; every other error would only be repeated.
_PASSING: Final = (
    AbortedError,
    CallCancelledError,
    DeadlineExceededError,
    ExternalServiceError,
    InternalError,
    RateLimitError,
    UnauthenticatedError,
)

_NEVER_ENDED: Final = InternalError("No attempt came to an end.")

_log: Final = structlog.get_logger()


class LeaseLostError(Exception):
    """Another worker has the saga: whatever this one still wanted to do must not happen."""


class _RefusedError(Exception):
    """What a step wanted to write here is not allowed; unlike a database that does not answer, it ends the plan."""

    def __init__(self, error: DomainError) -> None:
        super().__init__(error.message)
        self.error = error


class SagaWorker:
    """Works on the sagas of one service, in every replica of it.

    Args:
        committed: is called when progress was written, for those who watch it.
        lease_seconds: `LEASE_SECONDS`, shorter in tests.
    """

    def __init__(
        self,
        database: Database,
        plans: Sequence[Plan],
        sagas: Sagas,
        metrics: SagaMetrics,
        *,
        committed: Callable[[], None],
        lease_seconds: float = LEASE_SECONDS,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self._database = database
        self._plans = {plan.kind: plan for plan in plans}
        self._wake = sagas.begun
        self._metrics = metrics
        self._committed = committed
        for plan in plans:
            metrics.expect(plan.kind, [step.name for step in plan.steps])
        self._lease = lease_seconds
        self._step_seconds = step_seconds
        self._stopping = False
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run_forever(self) -> None:
        """Works until `stop`; whatever the database does meanwhile. Never returns by itself."""
        counting = asyncio.create_task(self._count_forever())
        try:
            while True:
                self._wake.clear()
                try:
                    await self._take_due()
                except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed
                    _log.warning("due sagas stay for now", error=repr(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0.5, 1.5) * POLL_SECONDS):  # noqa: S311 - nothing secret
                        await self._wake.wait()
        finally:
            counting.cancel()

    async def stop(self) -> None:
        """Takes nothing new, lets what is under way come to the end of its step, and gives it back for others."""
        self._stopping = True
        if self._running:
            _, late = await asyncio.wait(self._running.values(), timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def work(self, tenant_id: str, id: str) -> None:
        """Takes a saga, if nobody else has it, and brings it to its end or to its next rest."""
        async with self._unit(tenant_id) as transaction:
            row = await saga_store.claim_saga(transaction, id, lease_seconds=self._lease)
        if row is None:
            return
        saga = Saga.of(row)
        heart = asyncio.create_task(self._keep(saga, asyncio.current_task()))
        try:
            await self._drive(saga, self._plans[saga.kind], heart)
        except LeaseLostError:
            _log.warning("saga was taken over", **_facts(saga))
        except DomainError as error:
            # The database does not answer: what became of the last write, whoever takes the saga next will read.
            _log.warning("saga waits for its lease to end", error=error.message, **_facts(saga))
        finally:
            heart.cancel()

    async def _take_due(self) -> None:
        free = CONCURRENCY - len(self._running)
        if self._stopping or free <= 0:
            return
        # More than are free: some are our own, whose leases are about to be prolonged.
        for row in await saga_store.find_due(self._database, list(self._plans), limit=free + len(self._running)):
            if row["id"] not in self._running and len(self._running) < CONCURRENCY:
                task = asyncio.create_task(self.work(row["tenant_id"], row["id"]))
                self._running[row["id"]] = task
                task.add_done_callback(partial(self._done, row["id"]))

    def _done(self, id: str, task: asyncio.Task[None]) -> None:
        del self._running[id]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("saga waits for its lease to end", saga=id, error=repr(error))

    async def _keep(self, saga: Saga, driving: "asyncio.Task[Any] | None") -> None:
        """Prolongs the lease for as long as somebody drives; who has lost it is stopped."""
        while True:
            await asyncio.sleep(self._lease / 3)
            with suppress(DomainError):
                async with self._unit(saga.tenant_id) as transaction:
                    kept = await saga_store.extend(transaction, saga, due_seconds=self._lease)
                if not kept and driving is not None:
                    driving.cancel()
                    return

    async def _drive(self, saga: Saga, plan: Plan, heart: "asyncio.Task[None]") -> None:
        """Makes one move after the other until there is none, or it is time to rest."""
        rest: float | None = 0.0
        try:
            while rest == 0.0:
                if self._stopping:
                    await self._give_back(saga, heart)
                    return
                rest = await (
                    self._run_next_step(saga, plan) if saga.state is SagaState.RUNNING else self._compensate(saga, plan)
                )
        except asyncio.CancelledError:
            if self._stopping:
                await self._give_back(saga, heart)
            raise
        if rest is not None:
            asyncio.get_running_loop().call_later(rest, self._wake.set)

    async def _run_next_step(self, saga: Saga, plan: Plan) -> float | None:
        """Makes the next step; returns how long to rest then, None at an end."""
        index = next(place for place, note in enumerate(saga.steps) if note["state"] != StepState.DONE)
        step, note = plan.steps[index], saga.steps[index]
        if note["attempts"] >= plan.patience.attempts:
            return await self._failed(saga, plan, note, _NEVER_ENDED)
        # Noted before it happens, and with it that it may have to be compensated.
        await self._begin(saga, plan, note)
        try:
            await self._make(saga, step, note, step.run)
        except DomainError as error:
            return await self._failed(saga, plan, note, error)
        if index == len(saga.steps) - 1:
            saga.state = SagaState.DONE
        try:
            await self._save(saga, plan, commit=step.commit)
        except _RefusedError as refusal:
            saga.state = SagaState.RUNNING
            return await self._failed(saga, plan, note, refusal.error)
        if saga.state is SagaState.DONE:
            _log.info("saga is done", **_facts(saga))
            return None
        return 0.0

    async def _compensate(self, saga: Saga, plan: Plan) -> float | None:
        """Takes the last step back that may have happened; returns how long to rest then, None at an end."""
        for step, note in zip(reversed(plan.steps), reversed(saga.steps), strict=True):
            undo = note["compensation"]
            if step.compensate is None or note["attempts"] == 0 or undo["state"] == StepState.DONE:
                continue
            if undo["attempts"] >= plan.compensation_patience.attempts:
                return await self._failed(saga, plan, undo, _NEVER_ENDED)
            await self._begin(saga, plan, undo)
            try:
                await self._make(saga, step, undo, step.compensate)
            except DomainError as error:
                return await self._failed(saga, plan, undo, error)
            await self._save(saga, plan)
            return 0.0
        saga.state = SagaState.FAILED
        await self._save(saga, plan)
        _log.warning("saga was taken back", **_facts(saga))
        return None

    async def _begin(self, saga: Saga, plan: Plan, note: dict[str, Any]) -> None:
        note.update(state=StepState.RUNNING, attempts=note["attempts"] + 1, start_time=note["start_time"] or _now())
        await self._save(saga, plan)

    async def _make(self, saga: Saga, step: Step, note: dict[str, Any], effect: Effecting | None) -> None:
        if effect is not None:
            try:
                async with asyncio.timeout(self._step_seconds):
                    found = await effect(self._effect(saga, step))
            except TimeoutError as error:
                raise DeadlineExceededError("The step took too long.") from error
            except DomainError:
                raise
            except Exception as error:
                _log.exception("saga met a defect", step=step.name, **_facts(saga))
                raise InternalError("Something went wrong on our side.") from error
            saga.data |= found
        note.update(state=StepState.DONE, error=None, end_time=_now())

    def _effect(self, saga: Saga, step: Step) -> Effect:
        # The roles stay behind: whether the step may be made was decided when the saga began.
        principal = Principal(saga.subject, saga.tenant_id, frozenset(), expires_at=float("inf"))
        deadline = asyncio.get_running_loop().time() + self._step_seconds
        trace = Trace(saga.id.replace("-", ""), parent_id="", sampled=False, span_id=secrets.token_hex(8))
        context = CallContext(principal, saga.id, deadline, trace)
        return Effect(saga, f"{saga.id}/{step.name}/{saga.fencing_token}", context)

    async def _failed(self, saga: Saga, plan: Plan, note: dict[str, Any], error: DomainError) -> float | None:
        """Notes a failure and decides: rest and try again, turn back, or wait for somebody to look."""
        back = saga.state is SagaState.COMPENSATING
        patience = plan.compensation_patience if back else plan.patience
        note.update(error={"reason": error.reason, "message": error.message}, end_time=_now())
        self._metrics.failures.labels(saga.kind, note.get("name", "compensation")).inc()
        must_happen = back or plan.only_forward
        passing = isinstance(error, _PASSING) or must_happen
        if passing and note["attempts"] < patience.attempts:
            note.update(state=StepState.RUNNING)
            rest = patience.rest(note["attempts"])
            await self._save(saga, plan, due_seconds=rest)
            return rest
        note.update(state=StepState.FAILED)
        if not must_happen:
            saga.state = SagaState.COMPENSATING
            await self._save(saga, plan)
            return 0.0
        saga.state = SagaState.NEEDS_ATTENTION
        await self._save(saga, plan)
        self._metrics.parked.labels(saga.kind).inc()
        _log.error("saga needs attention", reason=error.reason, error=error.message, **_facts(saga))
        return None

    async def _save(
        self, saga: Saga, plan: Plan, *, commit: Committing | None = None, due_seconds: float | None = None
    ) -> None:
        """Writes the progress, where it is seen, and what belongs to it: all of it or nothing."""
        working = saga.state in {SagaState.RUNNING, SagaState.COMPENSATING}
        due = (self._lease if due_seconds is None else due_seconds) if working else None
        async with self._unit(saga.tenant_id) as transaction:
            transaction.on_commit(self._committed)
            if not await saga_store.save(transaction, saga, due_seconds=due):
                raise LeaseLostError
            if commit is not None:
                await _commit(commit, transaction, saga)
            await plan.record(transaction, saga)

    async def _give_back(self, saga: Saga, heart: "asyncio.Task[None]") -> None:
        # A beat after this one would take the saga back.
        heart.cancel()
        with suppress(DomainError):
            async with self._unit(saga.tenant_id) as transaction:
                await saga_store.extend(transaction, saga, due_seconds=0)

    async def _count_forever(self) -> None:
        while True:
            try:
                self._metrics.show(await saga_store.count(self._database))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed
                _log.warning("sagas are not counted for now", error=repr(error))
            await asyncio.sleep(_COUNT_SECONDS)

    def _unit(self, tenant_id: str) -> UnitOfWork:
        return UnitOfWork(self._database, tenant_id, constraints={}, read_only=False, timeout_seconds=_WRITE_SECONDS)


async def _commit(commit: Committing, transaction: Transaction, saga: Saga) -> None:
    try:
        await commit(transaction, saga)
    except DomainError as error:
        if isinstance(error, _PASSING):
            raise
        raise _RefusedError(error) from error


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _facts(saga: Saga) -> dict[str, str]:
    return {"saga": saga.id, "kind": saga.kind, "state": saga.state, "tenant_id": saga.tenant_id}
