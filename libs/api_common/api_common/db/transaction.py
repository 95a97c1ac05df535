"""The tenant-bound transaction: committed when its block ends, rolled back when its block raises."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeVar, TypeVarTuple

import asyncpg
from opentelemetry.trace import SpanKind

from api_common import errors
from api_common.authn import TENANT_PATTERN
from api_common.db.database import Database
from api_common.db.driver import (
    CONNECTION_ERRORS,
    DATABASE_FACTS,
    DRIVER_ERRORS,
    ConstraintErrors,
    Statement,
    is_refusal,
    is_stale,
    raise_domain_error,
)
from api_common.db.pool import Connection, ShareTimeoutError
from api_common.telemetry import Attributes, Trace

ResultT = TypeVar("ResultT")
_Given = TypeVarTuple("_Given")
_Fetch = Callable[..., Awaitable[Any]]

Row = Mapping[str, Any]
"""A row as the driver gives it: by column name."""

# The setting that the row-level security policies compare with.
_TENANT_SETTING: Final = "app.tenant_id"
# The setting of a transaction that belongs to a task and to no tenant; policies name the tasks that they serve.
_TASK_SETTING: Final = "app.task"
_NO_CONSTRAINTS: Final[ConstraintErrors] = MappingProxyType({})
_PLAN_FOR_VALUES: Final = "SET LOCAL plan_cache_mode=force_custom_plan"
_ATTEMPTS: Final = 3
# How many changes of the schema, one after the other, a transaction lives through.
_SCHEMA_CHANGES: Final = 3
# The server ends a late read together with its connection, so the caller cancels the read before.
_GRACE_MILLISECONDS: Final = 500


class TransactionOutcome(Enum):
    """What became of the work of a transaction."""

    NOTHING = auto()
    """Nothing was written, or it was rolled back."""
    COMMITTED = auto()
    """The work is stored."""
    UNKNOWN = auto()
    """COMMIT was sent and its answer never arrived."""


class Transaction:
    """`async with Transaction(...) as transaction:` commits if the block ends, rolls back if it raises.

    Reads run in one, too: the tenant is a transaction-local setting, so that no pooled connection keeps it. It begins
    with its first statement: a handler that waits for another service holds no connection meanwhile (measured with
    40 callers and a sibling that takes 1 s: 35 calls a second instead of 11, none refused for want of a connection).

    Where nothing may be written, each statement is a transaction of its own, in one round trip instead of three: each
    sees what is committed when it begins, as it would in one transaction of all (READ COMMITTED; ADR 30).

    Args:
        tenant_id: the tenant whose rows it sees; empty for a task, which sees the rows that policies show to it.
        read_only: Postgres refuses every write.
        timeout_seconds: after this the server ends the statement by itself, whether we still listen or not.
        constraints: the errors of broken constraints.
        task: the name of a background task, in place of a tenant.
        trace: where its waits are noted.

    Raises:
        UnauthenticatedError: ``tenant_id`` is malformed.
    """

    def __init__(
        self,
        database: Database,
        tenant_id: str = "",
        *,
        read_only: bool,
        timeout_seconds: float,
        constraints: ConstraintErrors = _NO_CONSTRAINTS,
        task: str = "",
        trace: Trace | None = None,
    ) -> None:
        self._database = database
        self._constraints = constraints
        self._read_only = read_only
        self._binding = _binding(tenant_id, task)
        self._deadline = asyncio.get_running_loop().time() + timeout_seconds
        self._trace = trace if trace is not None and trace.steps is not None else None
        self._connection: Connection | None = None
        self._beginning = False
        self._is_over = False
        self._plans_for_values = False
        self._on_commit: list[Callable[[], None]] = []
        self.tenant_id: Final = tenant_id
        self.wrote = False
        """Whether a statement ran that may have changed a row."""
        self.effects: Final[list[object]] = []
        """What repositories report of their writes; it counts once this is committed."""
        self.outcome = TransactionOutcome.NOTHING
        self.first = self.last = ""
        """SQL that runs in the round trip of BEGIN, and of COMMIT."""
        self.on_begin: Callable[[Awaitable[str]], Awaitable[None]] | None = None
        """Awaits the status of ``first``, each time the transaction begins."""
        self.released = False
        """Whether `let_go` has given up what was read and locked, and no statement has run since."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        if self._connection is None:
            return
        if error is None:
            await self._commit(self._connection)
        else:
            await self._abandon(self._connection, error)

    async def begin(self, *, plan_for_values: bool = False) -> Connection:
        """Begins at once instead of with the first statement."""
        if self._beginning:
            raise RuntimeError("statements of one transaction run one after the other: a handler must await each")
        self._beginning = True
        self._plans_for_values = plan_for_values
        begun = self._send_prologue()
        await (begun if self.on_begin is None else self.on_begin(begun))
        assert self._connection is not None  # it has begun
        return self._connection

    async def let_go(self) -> None:
        """Gives connection and locks back while the handler waits for another service; the next statement begins anew.

        Raises:
            RuntimeError: something is written that would be lost.
        """
        connection = self._connection
        if connection is None:
            return
        if self.wrote:
            raise RuntimeError("a handler must call other services before it writes")
        self._connection, self._beginning, self.released = None, False, True
        await self._database.clean(connection)

    def on_commit(self, told: Callable[[], None]) -> None:
        """Calls ``told``, which must not raise, after the commit. It may be lost: fit for wake-ups only."""
        self._on_commit.append(told)

    async def fetch_one(self, statement: Statement, values: Mapping[str, Any]) -> Row | None:
        """Returns the first row, or None.

        Raises:
            DomainError: the database refused, by the constraint that was broken.
        """
        row: Row | None = await self._run(asyncpg.Connection.fetchrow, statement, values)
        return row

    async def fetch_all(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Row]:
        """Returns all rows.

        Raises:
            DomainError: the database refused, by the constraint that was broken.
        """
        rows: Sequence[Row] = await self._run(asyncpg.Connection.fetch, statement, values)
        return rows

    def refusal(self, constraint: str) -> errors.DomainError:
        """Returns the error of ``constraint``, for a caller that found by a query that it would be broken."""
        known = self._constraints.get(constraint)
        return known() if known else errors.ConflictError("A resource with this identity exists.")

    async def _run(self, fetch: _Fetch, statement: Statement, values: Mapping[str, Any]) -> Any:
        arguments = statement.arguments(values)
        if self._read_only and statement.alone and self._connection is None and self._database.limits_transactions:
            return await self._run_alone(fetch, statement, arguments)
        connection = self._connection or await self.begin(plan_for_values=statement.plan_for_values)
        self.wrote |= statement.writes
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

    async def _run_alone(self, fetch: _Fetch, statement: Statement, arguments: Sequence[Any]) -> Any:
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

    async def _send_prologue(self) -> str:
        started = time.time_ns()
        # BEGIN, its settings and what comes first in one simple query: one round trip.
        connection, status = await self._run_first(lambda connection: connection.execute(self._prologue()))
        self._note("BEGIN", started)
        if self._is_over:
            # This statement ran beside one that was refused for it, and the block has ended meanwhile.
            await self._database.clean(connection)
            raise RuntimeError("the transaction ended before this statement began: a handler must await each")
        self._connection, self.released = connection, False
        return status

    async def _run_first(self, work: Callable[[Connection], Awaitable[ResultT]]) -> tuple[Connection, ResultT]:
        """Runs the first work of a transaction, again if the connection died while it was idle."""
        attempt = 0
        while True:
            attempt += 1
            connection = await self._acquire()
            try:
                return connection, await work(connection)
            except BaseException as error:
                await self._database.reclaim(connection, error)
                if isinstance(error, CONNECTION_ERRORS):
                    if asyncio.get_running_loop().time() >= self._deadline:
                        # The server has ended the statement, and the connection with it.
                        raise errors.DeadlineExceededError("The deadline passed before the work was done.") from error
                    if attempt < _ATTEMPTS:
                        continue
                if isinstance(error, DRIVER_ERRORS):
                    raise_domain_error(error, self._constraints)
                raise

    async def _acquire(self) -> Connection:
        try:
            return await self._database.acquire(self.tenant_id)
        except ShareTimeoutError as error:
            raise errors.TooManyCallsError(
                "The calls of this tenant hold its share of the database's connections.", retry_after_seconds=1
            ) from error
        except TimeoutError as error:
            raise errors.ExternalServiceError("The database is busy.", retry_after_seconds=1) from error
        except DRIVER_ERRORS as error:
            raise errors.ExternalServiceError("The database does not answer.", retry_after_seconds=1) from error

    async def _commit(self, connection: Connection) -> None:
        self.outcome = TransactionOutcome.UNKNOWN
        started = time.time_ns()
        try:
            answer = await connection.execute(f"{self.last};COMMIT")
        except BaseException as failure:
            if is_refusal(failure):
                self.outcome = TransactionOutcome.NOTHING
            await self._database.reclaim(connection, failure)
            if isinstance(failure, DRIVER_ERRORS):
                raise_domain_error(failure, self._constraints)
            raise
        self._note("COMMIT", started)
        self._database.release(connection)
        if answer != "COMMIT":
            # Postgres answers so, and not with an error, if a statement was refused and the handler went on.
            self.outcome = TransactionOutcome.NOTHING
            raise RuntimeError("the transaction was not committed: a handler must let the errors of statements pass")
        self.outcome = TransactionOutcome.COMMITTED
        for told in self._on_commit:
            told()

    async def _abandon(self, connection: Connection, error: BaseException) -> None:
        started = time.time_ns()
        try:
            await self._database.roll_back(connection)
        except BaseException as failure:  # noqa: BLE001 - the caller hears of `error`
            await self._database.reclaim(connection, failure)
            return
        self._note("ROLLBACK", started)
        if is_stale(error):
            self._database.renew(connection)
        self._database.release(connection)

    def _prologue(self) -> str:
        milliseconds = self._milliseconds_left()
        # Waiting for a lock ends a little earlier, so that the caller still hears why.
        limits = f"SET LOCAL statement_timeout={milliseconds};SET LOCAL lock_timeout={milliseconds * 9 // 10};"
        planning = _PLAN_FOR_VALUES if self._plans_for_values else ""
        (setting, name), mode = self._binding, " READ ONLY" if self._read_only else ""
        quotas = f"SET LOCAL app.quotas='{self._database.quotas_of(name)}';" if not self._read_only else ""
        return f"BEGIN{mode};SET LOCAL {setting}='{name}';{quotas}{limits}{planning};{self.first}"

    def _milliseconds_left(self) -> int:
        return max(10, int((self._deadline - asyncio.get_running_loop().time()) * 1000))

    def _note(self, name: str, started_ns: int, facts: Attributes = DATABASE_FACTS) -> None:
        """Notes that the call waited for the database, until now."""
        if self._trace is not None:
            self._trace.note(name, SpanKind.CLIENT, started_ns, facts)


async def repeat_if_stale(work: Callable[[*_Given], Awaitable[ResultT]], *given: *_Given) -> ResultT:
    """Runs ``work``, one whole transaction, again if the schema changed under it: nothing was committed.

    Once per change: the first transaction that meets a change has all connections renewed.
    """
    for _ in range(_SCHEMA_CHANGES):
        try:
            return await work(*given)
        except errors.ExternalServiceError as error:
            if not is_stale(error):
                raise
    return await work(*given)


@lru_cache(maxsize=4096)
def _binding(tenant_id: str, task: str) -> tuple[str, str]:
    """Returns the setting that a transaction is bound by, and its value."""
    setting, name = (_TASK_SETTING, task) if task else (_TENANT_SETTING, tenant_id)
    if not TENANT_PATTERN.fullmatch(name):
        raise errors.UnauthenticatedError("The credential names no valid tenant.")
    return setting, name
