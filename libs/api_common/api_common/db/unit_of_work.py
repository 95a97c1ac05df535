"""The tenant-bound transaction around a request: opened at the boundary, committed on return, rolled back otherwise."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, TypeVar, cast

from opentelemetry.trace import SpanKind

from api_common import errors
from api_common.authn import TENANT_PATTERN
from api_common.db.database import (
    CONNECTION_ERRORS,
    DATABASE_FACTS,
    DRIVER_ERRORS,
    ConstraintErrors,
    Database,
    Fetch,
    Statement,
    fetch_all,
    fetch_one,
    is_stale,
    raise_domain_error,
)
from api_common.db.pool import Connection
from api_common.telemetry import Attributes, Trace

ResultT = TypeVar("ResultT")

Row = Mapping[str, Any]
"""A row as the driver gives it: by column name."""

TENANT_SETTING: Final = "app.tenant_id"
"""The session setting that the row-level security policies compare with."""

TASK_SETTING: Final = "app.task"
"""The session setting of a transaction that is a task's and no tenant's; policies name the tasks that they serve."""

_PLAN_FOR_VALUES: Final = "SET LOCAL plan_cache_mode=force_custom_plan"
_ATTEMPTS: Final = 3
_GRACE_MILLISECONDS: Final = 500
"""The server ends a read that is late together with its connection, so whoever waits for it cancels it before."""
_ROLLBACK_SECONDS: Final = 1.0
"""A cancellation that reaches Postgres between two statements is lost, and ROLLBACK waits for what began after it."""


class TransactionOutcome(Enum):
    """What became of the work of a transaction."""

    NOTHING = auto()
    """Nothing was written, or it was rolled back."""
    COMMITTED = auto()
    """It is there to stay."""
    UNKNOWN = auto()
    """COMMIT was sent and its answer never seen."""


@dataclass(frozen=True, slots=True)
class RoleChange:
    """What a transaction did to the roles of somebody."""

    resource: str
    """The resource's name in messages, e.g. `user`."""
    id: str
    """Its id."""
    before: tuple[str, ...]
    """The roles it had, sorted."""
    after: tuple[str, ...]
    """The roles it has now, sorted."""


class Transaction:
    """What repositories see of the database: one tenant's rows, until the unit of work ends."""

    __slots__ = ("_constraints", "_unit", "role_changes", "tenant_id", "wrote")

    def __init__(self, unit: "UnitOfWork", constraints: ConstraintErrors, tenant: str):
        self._unit = unit
        self._constraints = constraints
        self.tenant_id: Final = tenant
        self.role_changes: Final[list[RoleChange]] = []
        self.wrote = False

    def on_commit(self, told: Callable[[], None]) -> None:
        """Has ``told``, which must not raise, called once this is committed. It may be lost: fit for wake-ups only."""
        self._unit.on_commit.append(told)

    async def fetch_one(self, statement: Statement, values: Mapping[str, Any]) -> Row | None:
        """Returns the first row, or None.

        Raises:
            DomainError: the database refused, by the constraint that was broken.
        """
        self.wrote |= statement.writes
        return cast("Row | None", await self._unit.run(fetch_one, statement, values))

    async def fetch_all(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Row]:
        """Returns all rows.

        Raises:
            DomainError: the database refused, by the constraint that was broken.
        """
        self.wrote |= statement.writes
        return cast(Sequence[Row], await self._unit.run(fetch_all, statement, values))

    def refusal(self, constraint: str) -> errors.DomainError:
        """Returns what it means to the caller that ``constraint`` is broken, where that was found out by looking."""
        known = self._constraints.get(constraint)
        return known() if known else errors.ConflictError("A resource with this identity exists.")


class UnitOfWork:
    """`async with UnitOfWork(...) as transaction:` commits if the block ends, rolls back if it raises.

    Reads run in one, too: the tenant is a transaction-local setting, so that no pooled connection keeps it. It begins
    with its first statement: a handler that waits for another service holds no connection meanwhile (measured with
    40 callers and a sibling that takes 1 s: 35 calls a second instead of 11, none refused for want of a connection).

    Where nothing may be written, each statement is a transaction of its own, in one round trip instead of three: each
    sees what is committed when it begins, as it would in one transaction of all (READ COMMITTED).

    Args:
        tenant_id: the tenant whose rows there are; empty for a task, which sees what a policy shows to it by name.
        read_only: Postgres refuses every write.
        timeout_seconds: after this the server ends the statement by itself, whether we still listen or not.
        task: the name of a background task, in place of a tenant.
        trace: where what it waits for is noted.
    """

    __slots__ = (
        *("_beginning", "_binding", "_constraints", "_database", "_deadline", "_is_over", "_plans_for_values"),
        *("_read_only", "_tenant", "_trace", "connection", "outcome", "on_commit"),
    )

    def __init__(
        self,
        database: Database,
        tenant_id: str,
        *,
        constraints: ConstraintErrors,
        read_only: bool,
        timeout_seconds: float,
        task: str = "",
        trace: Trace | None = None,
    ) -> None:
        self._database = database
        self._constraints = constraints
        self._tenant = tenant_id
        self._trace = trace if trace is not None and trace.steps is not None else None
        self.connection: Connection | None = None
        self._beginning = False
        self._is_over = False
        self._plans_for_values = False
        self.outcome = TransactionOutcome.NOTHING
        self.on_commit: list[Callable[[], None]] = []
        self._binding = _binding(tenant_id, task)
        self._read_only = read_only
        self._deadline = asyncio.get_running_loop().time() + timeout_seconds

    async def __aenter__(self) -> Transaction:
        return Transaction(self, self._constraints, self._tenant)

    async def run(self, fetch: Fetch, statement: Statement, values: Mapping[str, Any]) -> Any:
        """Runs a statement and returns what ``fetch`` does."""
        arguments = statement.arguments(values)
        if self._read_only and statement.alone and self.connection is None and self._database.limits_transactions:
            return await self._run_alone(fetch, statement, arguments)
        connection = self.connection or await self._begin(plan_for_values=statement.plan_for_values)
        started = time.time_ns()
        try:
            if statement.plan_for_values and not self._plans_for_values:
                await connection.execute(_PLAN_FOR_VALUES)
                self._plans_for_values = True
            return await fetch(connection, statement.sql, *arguments)
        except DRIVER_ERRORS as error:
            raise_domain_error(error, self._constraints)
        finally:
            self._note(statement.summary, started, statement.facts)

    async def _run_alone(self, fetch: Fetch, statement: Statement, arguments: Sequence[Any]) -> Any:
        async def read(connection: Connection) -> Any:
            started = time.time_ns()
            try:
                limit = f"{self._milliseconds_left() + _GRACE_MILLISECONDS}"
                return await fetch(connection, statement.alone, *arguments, *self._binding, limit)
            finally:
                self._note(statement.summary, started, statement.facts)

        connection, result = await self._run_first(read)
        self._database.release(connection)
        return result

    async def _begin(self, *, plan_for_values: bool) -> Connection:
        """Takes a connection for the first statement: until then a handler that waits for others holds none."""
        if self._beginning:
            raise RuntimeError("statements of one transaction run one after the other: a handler must await each")
        self._beginning = True
        self._plans_for_values = plan_for_values
        started = time.time_ns()
        # BEGIN and its settings in one simple query: one round trip.
        connection, _ = await self._run_first(lambda connection: connection.execute(self._prologue()))
        self._note("BEGIN", started)
        if self._is_over:
            # It ran at once with a statement that was refused for it; nobody else would end what begins now.
            await _clean(self._database, connection)
            raise RuntimeError("the transaction ended before this statement began: a handler must await each")
        self.connection = connection
        return connection

    async def _run_first(self, work: Callable[[Connection], Awaitable[ResultT]]) -> tuple[Connection, ResultT]:
        """Runs what nothing ran before, so that it may begin anew: a connection may have died while it was idle."""
        attempt = 0
        while True:
            attempt += 1
            connection = await self._database.acquire()
            try:
                return connection, await work(connection)
            except BaseException as error:
                await self._give_back(connection, error)
                if isinstance(error, CONNECTION_ERRORS):
                    if asyncio.get_running_loop().time() >= self._deadline:
                        # The server has ended it, and the connection with it.
                        raise errors.DeadlineExceededError("The deadline passed before the work was done.") from error
                    if attempt < _ATTEMPTS:
                        continue
                if isinstance(error, DRIVER_ERRORS):
                    raise_domain_error(error, self._constraints)
                raise

    def _prologue(self) -> str:
        milliseconds = self._milliseconds_left()
        # Waiting for a lock ends a little earlier, so that the caller still hears why.
        limits = f"SET LOCAL statement_timeout={milliseconds};SET LOCAL lock_timeout={milliseconds * 9 // 10};"
        planning = _PLAN_FOR_VALUES if self._plans_for_values else ""
        return _opening(*self._binding, self._read_only) + limits + planning

    def _milliseconds_left(self) -> int:
        return max(10, int((self._deadline - asyncio.get_running_loop().time()) * 1000))

    def _note(self, name: str, started_ns: int, facts: Attributes = DATABASE_FACTS) -> None:
        """Notes that something was waited for, until now."""
        if self._trace is not None:
            self._trace.note(name, SpanKind.CLIENT, started_ns, facts)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        if self.connection is None:
            return
        if kind is None:
            self.outcome = TransactionOutcome.UNKNOWN
        started, verb = time.time_ns(), "COMMIT" if kind is None else "ROLLBACK"
        try:
            done = await (self.connection.execute(verb) if kind is None else _roll_back(self.connection))
        except BaseException as failure:
            if isinstance(failure, DRIVER_ERRORS) and not isinstance(failure, CONNECTION_ERRORS):
                self.outcome = TransactionOutcome.NOTHING
            await self._give_back(self.connection, failure)
            if kind is None:
                if isinstance(failure, DRIVER_ERRORS):
                    raise_domain_error(failure, self._constraints)
                raise
            return
        self._note(verb, started)
        self.outcome = TransactionOutcome.COMMITTED if done == "COMMIT" else TransactionOutcome.NOTHING
        self._database.release(self.connection, is_outdated=is_stale(error))
        # Postgres answers so, and not with an error, if a statement was refused and the handler went on.
        if kind is None and done != "COMMIT":
            raise RuntimeError("the transaction was not committed: a handler must let the errors of statements pass")
        if kind is None:
            for told in self.on_commit:
                told()

    async def _give_back(self, connection: Connection, failure: BaseException) -> None:
        """Gives back a connection whose session is in an unknown state: a caller that has left is no reason to end it.

        A new one costs several milliseconds, here and in Postgres, and callers leave by the hundred.
        """
        refused = isinstance(failure, DRIVER_ERRORS) and not isinstance(failure, CONNECTION_ERRORS)
        if refused or isinstance(failure, asyncio.CancelledError):
            # Who is cancelled once more, by gRPC and by our own deadline at the same time, does not wait for it.
            await asyncio.shield(asyncio.create_task(_clean(self._database, connection)))
        else:
            self._database.discard(connection)


async def _clean(database: Database, connection: Connection) -> None:
    try:
        # Without a transaction Postgres only warns.
        await _roll_back(connection)
    except (TimeoutError, *DRIVER_ERRORS):
        database.discard(connection)
    except BaseException:
        database.discard(connection)
        raise
    else:
        database.release(connection)


async def _roll_back(connection: Connection) -> str:
    async with asyncio.timeout(_ROLLBACK_SECONDS):
        return await connection.execute("ROLLBACK")


@lru_cache(maxsize=4096)
def _binding(tenant_id: str, task: str) -> tuple[str, str]:
    """Returns the setting that a transaction is bound by, and its value."""
    setting, name = (TASK_SETTING, task) if task else (TENANT_SETTING, tenant_id)
    if not TENANT_PATTERN.fullmatch(name):
        raise errors.UnauthenticatedError("The credential names no valid tenant.")
    return setting, name


@lru_cache(maxsize=4096)
def _opening(setting: str, name: str, read_only: bool) -> str:
    mode = " READ ONLY" if read_only else ""
    return f"BEGIN{mode};SET LOCAL {setting}='{name}';"
