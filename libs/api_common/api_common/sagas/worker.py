"""Executes sagas: claims those that are due, runs steps and compensations, stores the progress of each (ADR 26)."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import grpc
import structlog
from opentelemetry.trace import SpanKind

from api_common import errors
from api_common.authn import Principal
from api_common.call import TRACEPARENT, CallContext, follow_trace
from api_common.db import Database, Row, Transaction
from api_common.sagas import store as saga_store
from api_common.sagas.metrics import SagaMetrics
from api_common.sagas.plan import Effect, LocalWrite, Plan, Saga, SagaState, Step, StepAction, StepState
from api_common.sagas.sagas import Sagas
from api_common.telemetry import SpanRecord, Trace, Tracer

LEASE_SECONDS: Final = 10.0
"""How long a worker owns a saga without a heartbeat; then another worker may claim it."""
STEP_SECONDS: Final = 10.0
"""The time-out of one attempt of a step."""
POLL_SECONDS: Final = 1.0
"""The mean time between two polls for due sagas; a saga begun in this process is claimed at once."""
CONCURRENCY: Final = 8
"""Sagas that one process executes at once; fewer than pool connections, so that requests find one."""
BATCH: Final = 64
"""Due sagas that are read at once; more than are executed at once, because to order all of them takes a while."""

_COUNT_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 2.0
_WRITE_SECONDS: Final = 5.0

# Errors that may pass.
_TRANSIENT: Final = (
    errors.AbortedError,
    errors.CallCancelledError,
    errors.DeadlineExceededError,
    errors.ExternalServiceError,
    errors.InternalError,
    errors.RateLimitError,
    errors.UnauthenticatedError,
)

_NEVER_ENDED: Final = {"reason": errors.InternalError.reason, "message": "No attempt came to an end."}

_log: Final = structlog.get_logger()


class LeaseLostError(Exception):
    """Another worker has claimed the saga, so this one must stop."""


class _AttemptFailedError(Exception):
    """A step's effect failed, or its local write was refused; a failure of the database is neither."""

    def __init__(self, error: errors.DomainError) -> None:
        super().__init__(error.message)
        self.error = error


class SagaWorker:
    """Executes the sagas of one service; every replica runs one.

    Args:
        committed: is called when progress is committed, to wake the watches.
        tracer: makes a span of each attempt.
        lease_seconds: `LEASE_SECONDS`, shorter in tests.
        now: the seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        plans: Sequence[Plan],
        sagas: Sagas,
        metrics: SagaMetrics,
        *,
        committed: Callable[[], None],
        tracer: Tracer | None = None,
        lease_seconds: float = LEASE_SECONDS,
        step_seconds: float = STEP_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._plans = {plan.kind: plan for plan in plans}
        self._wake = sagas.begun
        self._metrics = metrics
        self._committed = committed
        self._tracer = tracer
        for plan in plans:
            metrics.expect(plan.kind, [step.name for step in plan.steps])
        self._lease = lease_seconds
        self._step_seconds = step_seconds
        self._now = now
        self._stopping = False
        self._due: deque[Row] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run_forever(self) -> None:
        """Claims and executes due sagas. Never returns."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._count_forever())
            while True:
                self._wake.clear()
                try:
                    await self._take_due()
                except Exception as error:  # noqa: BLE001 - whatever it is, the next poll may succeed
                    _log.warning("due sagas stay for now", error=repr(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0.5, 1.5) * POLL_SECONDS):  # noqa: S311 - nothing secret
                        await self._wake.wait()

    async def stop(self) -> None:
        """Claims no more sagas, waits until running ones end their step, and releases them for other workers."""
        self._stopping = True
        if self._running:
            _, late = await asyncio.wait(self._running.values(), timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def work(self, tenant_id: str, id: str) -> None:
        """Claims a saga, unless another worker owns it, and executes it until it ends or pauses."""
        async with self._transaction(tenant_id) as transaction:
            saga = await saga_store.claim_saga(transaction, id, lease_seconds=self._lease)
        if saga is None:
            return
        plan = self._plans[saga.kind]
        saga.deadline_time = saga.deadline_time or plan.deadline_from(self._now())
        heartbeat = asyncio.create_task(self._extend_lease(saga, asyncio.current_task()))
        try:
            await self._run_until_pause(saga, plan, heartbeat)
        except LeaseLostError:
            _log.warning("saga was taken over", **_log_fields(saga))
        except errors.DomainError as error:
            # The database does not answer. The next worker reads whether the last write was committed.
            _log.warning("saga waits for its lease to end", error=error.message, **_log_fields(saga))
        finally:
            heartbeat.cancel()

    async def _take_due(self) -> None:
        if self._stopping or len(self._running) >= CONCURRENCY:
            return
        if not self._due:
            self._due.extend(await saga_store.find_due(self._database, list(self._plans), limit=BATCH))
        while self._due and len(self._running) < CONCURRENCY:
            row = self._due.popleft()
            if row["id"] not in self._running:
                task = asyncio.create_task(self.work(row["tenant_id"], row["id"]))
                self._running[row["id"]] = task
                task.add_done_callback(partial(self._forget, row["id"]))

    def _forget(self, id: str, task: asyncio.Task[None]) -> None:
        del self._running[id]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("saga waits for its lease to end", saga=id, error=repr(error))

    async def _extend_lease(self, saga: Saga, driving: "asyncio.Task[Any] | None") -> None:
        """Extends the lease while the saga runs, and cancels its task when the lease is lost."""
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                async with self._transaction(saga.tenant_id) as transaction:
                    kept = await saga_store.extend(transaction, saga, due_seconds=self._lease)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next heartbeat may succeed
                _log.warning("lease was not extended", error=repr(error), **_log_fields(saga))
                continue
            if not kept and driving is not None:
                driving.cancel()
                return

    async def _run_until_pause(self, saga: Saga, plan: Plan, heartbeat: "asyncio.Task[None]") -> None:
        """Runs steps or compensations until the saga ends or pauses."""
        pause: float | None = 0.0
        try:
            while pause == 0.0:
                if self._stopping:
                    await self._release_lease(saga, heartbeat)
                    return
                pause = await (
                    self._run_next_step(saga, plan) if saga.state is SagaState.RUNNING else self._compensate(saga, plan)
                )
        except asyncio.CancelledError:
            if self._stopping:
                await self._release_lease(saga, heartbeat)
            raise
        # After a longer one the poll is soon enough: nothing is held for a saga that waits.
        if pause is not None and pause < POLL_SECONDS:
            asyncio.get_running_loop().call_later(pause, self._wake.set)

    async def _run_next_step(self, saga: Saga, plan: Plan) -> float | None:
        """Runs the next step; returns the pause after it in seconds, None at the end of the saga."""
        index = next(place for place, note in enumerate(saga.steps) if note["state"] != StepState.DONE)
        step = plan.steps[index]
        pause = await self._attempt(saga, plan, step, saga.steps[index], step.run, commit=step.commit)
        if saga.state is SagaState.DONE:
            _log.info("saga is done", **_log_fields(saga))
            return None
        return pause

    async def _compensate(self, saga: Saga, plan: Plan) -> float | None:
        """Compensates the last step that may have run; returns the pause after it in seconds, None at the end."""
        for step, note in zip(reversed(plan.steps), reversed(saga.steps), strict=True):
            undo = note["compensation"]
            if step.compensate is None or note["attempts"] == 0 or undo["state"] == StepState.DONE:
                continue
            return await self._attempt(saga, plan, step, undo, step.compensate)
        saga.state = SagaState.FAILED
        await self._save(saga, plan)
        _log.warning("saga was taken back", **_log_fields(saga))
        return None

    async def _attempt(
        self,
        saga: Saga,
        plan: Plan,
        step: Step,
        note: dict[str, Any],
        effect: StepAction | None,
        *,
        commit: LocalWrite | None = None,
    ) -> float | None:
        """Attempts a step or compensation; returns the pause after it in seconds, None if an operator is needed."""
        # The last attempt begins at the deadline. An attempt that ends its process is followed by others until then.
        if note["attempts"] and self._now() > saga.deadline_time / 1e6 + self._lease:
            return await self._give_up(saga, plan, note, _NEVER_ENDED)
        note.update(state=StepState.RUNNING, attempts=note["attempts"] + 1)
        note["start_time"] = note["start_time"] or self._stamp()
        # Stored before it runs: from now on it may have to be compensated.
        await self._save(saga, plan)
        before = saga.state
        try:
            with self._span(saga, step, note) as trace:
                if effect is not None:
                    saga.data |= await self._perform(saga, step, effect, trace) or {}
                note.update(state=StepState.DONE, error=None, end_time=self._stamp())
                if note is saga.steps[-1]:
                    saga.state = SagaState.DONE
                await self._save(saga, plan, commit=commit, trace=trace)
        except _AttemptFailedError as failure:
            saga.state = before
            return await self._handle_failure(saga, plan, note, failure.error)
        return 0.0

    @contextmanager
    def _span(self, saga: Saga, step: Step, note: Mapping[str, Any]) -> Iterator[Trace]:
        """Makes an attempt a span below that of the call that began the saga."""
        # The release before stored no call's span: then the saga has a trace of its own.
        began = saga.data.get(TRACEPARENT)
        trace = follow_trace(began) if began else Trace(saga.id.replace("-", ""), parent_id="", sampled=False)
        if self._tracer is not None:
            self._tracer.begin(trace)
        started, code, outcome = time.time_ns(), grpc.StatusCode.CANCELLED, "INTERRUPTED"
        try:
            yield trace
            code, outcome = grpc.StatusCode.OK, StepState.DONE
        except _AttemptFailedError as failure:
            code, outcome = errors.spec_of(failure.error).code, failure.error.reason
            raise
        finally:
            if self._tracer is not None:
                facts = {f"ameide.{name}": value for name, value in saga.data.items() if name.endswith("_id")}
                facts |= {"ameide.tenant_id": saga.tenant_id, "ameide.request_id": saga.id}
                facts |= {"ameide.attempt": note["attempts"], "ameide.outcome": outcome}
                name = step.name if "name" in note else f"{step.name} compensation"
                record = SpanRecord(name, SpanKind.INTERNAL, started, time.time_ns(), facts, code, trace.span_id)
                self._tracer.end(trace, record)

    async def _perform(self, saga: Saga, step: Step, effect: StepAction, trace: Trace) -> Mapping[str, Any] | None:
        try:
            async with asyncio.timeout(self._step_seconds):
                return await effect(self._effect(saga, step, trace))
        except TimeoutError as error:
            raise _AttemptFailedError(errors.DeadlineExceededError("The step took too long.")) from error
        except errors.DomainError as error:
            raise _AttemptFailedError(error) from error
        except Exception as error:
            _log.exception("saga met a defect", step=step.name, **_log_fields(saga))
            raise _AttemptFailedError(errors.InternalError("Something went wrong on our side.")) from error

    def _effect(self, saga: Saga, step: Step, trace: Trace) -> Effect:
        # Without roles: the permission was checked when the saga began.
        principal = Principal(saga.subject, saga.tenant_id, frozenset(), expires_at=float("inf"))
        deadline = asyncio.get_running_loop().time() + self._step_seconds
        context = CallContext(principal, saga.id, deadline, trace)
        return Effect(saga, f"{saga.id}/{step.name}/{saga.fencing_token}", context)

    async def _handle_failure(
        self, saga: Saga, plan: Plan, note: dict[str, Any], error: errors.DomainError
    ) -> float | None:
        """Stores a failure; what may pass is attempted again after a pause, until the deadline."""
        found = {"reason": error.reason, "message": error.told()}
        note.update(end_time=self._stamp())
        self._metrics.failures.labels(saga.kind, note.get("name", "compensation")).inc()
        left = saga.deadline_time / 1e6 - self._now()
        if not isinstance(error, _TRANSIENT) or left <= 0:
            return await self._give_up(saga, plan, note, found)
        note.update(error=found)
        pause = min(plan.pause_seconds(note["attempts"]), left)
        await self._save(saga, plan, pause_seconds=pause)
        return pause

    async def _give_up(self, saga: Saga, plan: Plan, note: dict[str, Any], error: Mapping[str, str]) -> float | None:
        """Compensates what was done, or waits for an operator where nothing can be compensated."""
        note.update(state=StepState.FAILED, error=error)
        if saga.state is SagaState.RUNNING and not plan.only_forward:
            saga.state, saga.deadline_time = SagaState.COMPENSATING, plan.deadline_from(self._now())
            await self._save(saga, plan)
            return 0.0
        saga.state = SagaState.NEEDS_ATTENTION
        await self._save(saga, plan)
        self._metrics.parked.labels(saga.kind).inc()
        _log.error("saga needs attention", reason=error["reason"], error=error["message"], **_log_fields(saga))
        return None

    async def _save(
        self,
        saga: Saga,
        plan: Plan,
        *,
        commit: LocalWrite | None = None,
        pause_seconds: float | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Commits the progress, what it shows to clients, and the local write of a step, all in one transaction."""
        working = saga.state in {SagaState.RUNNING, SagaState.COMPENSATING}
        waits = pause_seconds is not None
        due = (pause_seconds if waits else self._lease) if working else None
        async with self._transaction(saga.tenant_id, trace) as transaction:
            transaction.on_commit(self._committed)
            if not await saga_store.save(transaction, saga, due_seconds=due, waits=waits):
                raise LeaseLostError
            if commit is not None:
                await _commit(commit, transaction, saga)
            await plan.record(transaction, saga)

    async def _release_lease(self, saga: Saga, heartbeat: "asyncio.Task[None]") -> None:
        # A later heartbeat would claim the saga again.
        heartbeat.cancel()
        with suppress(errors.DomainError):
            async with self._transaction(saga.tenant_id) as transaction:
                await saga_store.extend(transaction, saga, due_seconds=0)

    async def _count_forever(self) -> None:
        while True:
            try:
                self._metrics.show(await saga_store.count(self._database))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next count may succeed
                _log.warning("sagas are not counted for now", error=repr(error))
            await asyncio.sleep(_COUNT_SECONDS)

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat()

    def _transaction(self, tenant_id: str, trace: Trace | None = None) -> Transaction:
        return Transaction(self._database, tenant_id, read_only=False, timeout_seconds=_WRITE_SECONDS, trace=trace)


async def _commit(commit: LocalWrite, transaction: Transaction, saga: Saga) -> None:
    try:
        await commit(transaction, saga)
    except errors.DomainError as error:
        if isinstance(error, _TRANSIENT):
            raise
        raise _AttemptFailedError(error) from error


def _log_fields(saga: Saga) -> dict[str, str]:
    return {"saga": saga.id, "kind": saga.kind, "state": saga.state, "tenant_id": saga.tenant_id}
