"""A saga: work in several services that is completed as a whole or compensated (ADR 26).

A service declares a `Plan` of steps. A saga begins in the transaction of a call; a `SagaWorker` of any replica then
executes it and survives crashes. Therefore each effect must be idempotent per saga, and a compensation must also work
before its step: the step then has no effect.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from api_common.call import CallContext
from api_common.db import Row, Transaction


class SagaState(StrEnum):
    """How far a saga is."""

    RUNNING = "RUNNING"
    """Its steps are running, one after the other."""
    COMPENSATING = "COMPENSATING"
    """A step failed; the steps that may have run are compensated, the last one first."""
    NEEDS_ATTENTION = "NEEDS_ATTENTION"
    """A step or compensation that must succeed was given up: the saga waits for `Sagas.resume`."""
    DONE = "DONE"
    """Every step succeeded."""
    FAILED = "FAILED"
    """Every step that may have run was compensated."""
    CANCELLED = "CANCELLED"
    """Its caller ended it; another saga undoes what it did."""


class StepState(StrEnum):
    """How far a step is, or the compensation of one."""

    PENDING = "PENDING"
    """Not started."""
    RUNNING = "RUNNING"
    """Started, so it may have had its effect."""
    DONE = "DONE"
    """Succeeded."""
    FAILED = "FAILED"
    """Given up; it may have had its effect all the same."""


@dataclass(slots=True)
class Saga:
    """One saga, as it is stored."""

    tenant_id: str
    """The tenant."""
    id: str
    """UUIDv7 in lower case; never used again."""
    kind: str
    """The name of its plan."""
    subject: str
    """The `sub` of the caller who began it."""
    state: SagaState
    steps: list[dict[str, Any]]
    """A record of each step: name, state, attempts, error, start_time, end_time, and the same for its compensation."""
    data: dict[str, Any]
    """Its input and the results of its steps; JSON, no secrets."""
    fencing_token: int
    """The token of the worker that owns it; greater than that of every earlier owner."""
    deadline_time: int
    """Until when what may pass is attempted again, in microseconds since 1970."""
    next_attempt_time: int | None = None
    """When the step that failed is attempted again, in microseconds since 1970; None unless it waits."""

    @classmethod
    def of(cls, row: Row) -> "Saga":
        """Returns the saga of a row."""
        return cls(**{one.name: row[one.name] for one in fields(cls)} | {"state": SagaState(row["state"])})


@dataclass(frozen=True, slots=True)
class Effect:
    """The context of one attempt of a step or compensation."""

    saga: Saga
    key: str
    """Idempotency key: saga, step and worker. The saga's id is the same for all workers."""
    context: CallContext
    """Acts for the caller who began the saga; its deadline is the step's."""


StepAction = Callable[[Effect], Awaitable[Mapping[str, Any] | None]]
"""Has an effect in another service, and returns what to add to `Saga.data`, if anything."""

LocalWrite = Callable[[Transaction, Saga], Awaitable[None]]
"""Writes to the service's own database, in the transaction that stores the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan; what may pass is attempted again until the deadline, any other error ends the plan."""

    name: str
    """Stored and shown to clients: never rename it."""
    run: StepAction | None = None
    """The effect in another service."""
    commit: LocalWrite | None = None
    """The write in this service, committed together with the step's success."""
    compensate: StepAction | None = None
    """Undoes the effect, and works without one, too; None if there is nothing to undo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of one kind of saga."""

    kind: str
    """Stored: never rename it while sagas of it are running."""
    steps: Sequence[Step]
    """In this order; while sagas are running, new steps may only be appended."""
    record: LocalWrite
    """Shows the progress in the service's own resource, in the transaction that stores it."""
    deadline_seconds: float
    """How long what may pass is attempted again; a compensation has as long once more."""
    only_forward: bool = False
    """Whether there is no compensation: a step that is given up needs attention instead."""
    first_pause_seconds: float = 0.2
    """The pause after the first failed attempt; each further one is twice as long."""
    longest_pause_seconds: float = 30.0
    """No pause is longer."""

    def deadline_from(self, now: float) -> int:
        """Returns the deadline of what begins ``now`` (seconds since 1970), in microseconds since 1970."""
        return int((now + self.deadline_seconds) * 1e6)

    def pause_seconds(self, attempts: int) -> float:
        """Returns the pause after ``attempts`` failed attempts; the jitter shortens it by up to half."""
        longest = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(attempts - 1, 30))
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret
