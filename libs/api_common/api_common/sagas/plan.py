"""What a saga is: work in several services that happens as a whole or is taken back (ADR 26).

A service declares a `Plan` of steps. A saga begins in the transaction of the call that wants it, and from then on a
worker of any replica carries it out (`saga_worker`), whatever crashes meanwhile. So that this holds, a step's effect
must be the same however often it is made for one saga, and its compensation must be able to come first: it then keeps
the effect from happening at all.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import uuid_utils

from api_common.call import CallContext
from api_common.db import Row, Transaction
from api_common.errors import FailedPreconditionError, NotFoundError, ResourceInfo
from api_common.sagas import store as saga_store


class SagaState(StrEnum):
    """How far a saga is."""

    RUNNING = "RUNNING"
    """Its steps are made, one after the other."""
    COMPENSATING = "COMPENSATING"
    """A step failed; those that may have happened are taken back, the last one first."""
    NEEDS_ATTENTION = "NEEDS_ATTENTION"
    """Something that must happen failed too often: it waits for `Sagas.resume`."""
    DONE = "DONE"
    """Every step happened."""
    FAILED = "FAILED"
    """Nothing is left of any step."""


class StepState(StrEnum):
    """How far a step is, or the compensation of one."""

    PENDING = "PENDING"
    """Not begun."""
    RUNNING = "RUNNING"
    """Begun, so it may have happened."""
    DONE = "DONE"
    """It happened."""
    FAILED = "FAILED"
    """Given up; it may have happened all the same."""


@dataclass(slots=True)
class Saga:
    """One saga, as it is stored."""

    tenant_id: str
    """Whose it is."""
    id: str
    """UUIDv7 in lower case; never used again."""
    kind: str
    """The name of its plan."""
    subject: str
    """For whom it is done: the `sub` of who began it."""
    state: SagaState
    steps: list[dict[str, Any]]
    """A note for each step: name, state, attempts, error, start_time, end_time, compensation (which is such a note)."""
    data: dict[str, Any]
    """What it began with and what its steps found out; JSON, no secrets."""
    fencing_token: int
    """Of the worker that has it: greater than that of every worker before."""

    @classmethod
    def of(cls, row: Row) -> "Saga":
        """Returns the saga of a row."""
        own = {name: row[name] for name in ("tenant_id", "id", "kind", "subject", "steps", "data", "fencing_token")}
        return cls(**own, state=SagaState(row["state"]))


@dataclass(frozen=True, slots=True)
class Effect:
    """What a step needs to do its part in another service."""

    saga: Saga
    key: str
    """Idempotency key: saga, step and worker. The saga's id is the same for all workers."""
    context: CallContext
    """In the name of who began the saga, until the step's time is up."""


Effecting = Callable[[Effect], Awaitable[Mapping[str, Any]]]
"""Makes an effect, and returns what is to be kept in `Saga.data`."""

Committing = Callable[[Transaction, Saga], Awaitable[None]]
"""Writes into this service's own database, in the transaction that notes the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan; refusals (a DomainError that no repetition cures) end the plan, other errors are retried."""

    name: str
    """Stored, and shown to clients: never rename it."""
    run: Effecting | None = None
    """The part in another service."""
    commit: Committing | None = None
    """The part in this service, which happens together with the note that the step is done."""
    compensate: Effecting | None = None
    """Takes the part in the other service back, also if it never happened; None if there is nothing to take back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often something is tried, and how long it rests in between: twice as long each time."""

    attempts: int
    """At most."""
    first_seconds: float = 0.2
    """The first rest."""
    longest_seconds: float = 30.0
    """No rest is longer."""

    def rest(self, attempts: int) -> float:
        """Returns how long to rest after so many attempts, in seconds; by chance up to half less: not all at once."""
        longest = min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempts - 1, 30))
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of one kind of saga."""

    kind: str
    """Stored: never rename it while sagas of it are under way."""
    steps: Sequence[Step]
    """In this order; a new one goes to the end while sagas are under way."""
    record: Committing
    """Shows the saga's progress in the aggregate, in the transaction of each note."""
    only_forward: bool = False
    """Whether there is no way back: a step that fails for good needs attention instead of compensation."""
    patience: RetryPolicy = field(default_factory=lambda: RetryPolicy(attempts=8))
    compensation_patience: RetryPolicy = field(default_factory=lambda: RetryPolicy(attempts=12, longest_seconds=60))


class Sagas:
    """Begins sagas. What is begun is carried out once the transaction is committed; the worker is told at once."""

    def __init__(self) -> None:
        self.begun: Final = asyncio.Event()

    async def begin(
        self, transaction: Transaction, plan: Plan, *, id: str = "", subject: str, data: Mapping[str, Any]
    ) -> Saga:
        """Stores a new saga and returns it.

        Args:
            id: chosen by the caller; without one, a new one.
            subject: for whom it is done.
        """
        steps = [_note(name=step.name, compensation=_note() if step.compensate else None) for step in plan.steps]
        saga = Saga(
            transaction.tenant_id,
            id or str(uuid_utils.uuid7()),
            plan.kind,
            subject,
            SagaState.RUNNING,
            steps,
            dict(data),
            fencing_token=0,
        )
        await saga_store.insert_new(transaction, saga)
        transaction.on_commit(self.begun.set)
        return saga

    async def resume(self, transaction: Transaction, plan: Plan, id: str) -> Saga:
        """Lets a saga that needs attention go on with what failed, as patiently as at first, and returns it.

        Raises:
            NotFoundError: the tenant has no such saga.
            FailedPreconditionError: it does not need attention.
        """
        row = await saga_store.lock(transaction, id)
        if row is None:
            raise NotFoundError("There is no such saga.", resource=ResourceInfo("saga", id))
        saga = Saga.of(row)
        if saga.state is not SagaState.NEEDS_ATTENTION:
            raise FailedPreconditionError(f"It is {saga.state} and needs no attention.")
        saga.state = SagaState.RUNNING if plan.only_forward else SagaState.COMPENSATING
        for note in saga.steps:
            stuck = note if plan.only_forward else note["compensation"]
            if stuck is not None and stuck["state"] == StepState.FAILED:
                stuck.update(state=StepState.PENDING, attempts=0)
        await saga_store.save(transaction, saga, due_seconds=0)
        await plan.record(transaction, saga)
        transaction.on_commit(self.begun.set)
        return saga


def _note(**own: Any) -> dict[str, Any]:
    return {"state": StepState.PENDING, "attempts": 0, "error": None, "start_time": None, "end_time": None, **own}
