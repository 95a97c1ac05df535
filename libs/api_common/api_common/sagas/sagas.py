"""Begins sagas, cancels them, and resumes those that need attention."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from api_common.call import TRACEPARENT, RequestContext
from api_common.db import Transaction
from api_common.errors import FailedPreconditionError, NotFoundError, ResourceInfo
from api_common.sagas import store as saga_store
from api_common.sagas.plan import Plan, Saga, SagaState, StepState


class Sagas:
    """Begins sagas; the commit of the transaction wakes the worker of this process."""

    def __init__(self) -> None:
        self.begun: Final = asyncio.Event()

    async def begin(self, ctx: RequestContext, plan: Plan, *, id: str, data: Mapping[str, Any]) -> Saga:
        """Stores a new saga for the caller of ``ctx`` and returns it; its attempts become spans of the call's trace."""
        transaction, traceparent = ctx.transaction, ctx.trace.parent_of(ctx.trace.span_id)
        steps = [_note(name=step.name, compensation=_note() if step.compensate else None) for step in plan.steps]
        saga = Saga(
            transaction.tenant_id,
            id,
            plan.kind,
            ctx.principal.subject,
            SagaState.RUNNING,
            steps,
            {**data, TRACEPARENT: traceparent},
            fencing_token=0,
            deadline_time=plan.deadline_from(time.time()),
        )
        await saga_store.insert_new(transaction, saga)
        transaction.on_commit(self.begun.set)
        return saga

    async def resume(self, transaction: Transaction, plan: Plan, id: str) -> None:
        """Retries what failed in a saga that needs attention, for as long as at first.

        Raises:
            NotFoundError: the tenant has no such saga.
            FailedPreconditionError: it does not need attention.
        """
        saga = await saga_store.lock(transaction, id)
        if saga is None:
            raise NotFoundError("There is no such saga.", resource=ResourceInfo("saga", id))
        if saga.state is not SagaState.NEEDS_ATTENTION:
            raise FailedPreconditionError(f"It is {saga.state} and needs no attention.")
        saga.state = SagaState.RUNNING if plan.only_forward else SagaState.COMPENSATING
        saga.deadline_time = plan.deadline_from(time.time())
        for note in saga.steps:
            stuck = note if plan.only_forward else note["compensation"]
            if stuck is not None and stuck["state"] == StepState.FAILED:
                stuck.update(state=StepState.PENDING, attempts=0)
        await saga_store.save(transaction, saga, due_seconds=0)
        await plan.record(transaction, saga)
        transaction.on_commit(self.begun.set)

    async def cancel(self, transaction: Transaction, id: str) -> None:
        """Ends a saga that is not at its end: its worker writes nothing more, and another saga must undo what it did.

        A saga that begins after the commit gets a greater fencing token, so what is still under way has no effect.
        """
        saga = await saga_store.lock(transaction, id)
        if saga is not None:
            saga.state = SagaState.CANCELLED
            await saga_store.save(transaction, saga, due_seconds=None)


def _note(**own: Any) -> dict[str, Any]:
    return {"state": StepState.PENDING, "attempts": 0, "error": None, "start_time": None, "end_time": None, **own}
