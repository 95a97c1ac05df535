"""The tenant-bound transaction around a request: opened at the boundary, committed on return, rolled back otherwise."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, cast

from opentelemetry.trace import SpanKind

from api_common import errors
from api_common.database import (
    CONNECTION_ERRORS,
    DATABASE_FACTS,
    DRIVER_ERRORS,
    ConstraintErrors,
    Database,
    Statement,
    is_stale,
    reraise,
)
from api_common.pool import Connection
from api_common.tracing import Attributes, Trace

Row = Mapping[str, Any]
"""A row as the driver gives it: by column name."""

TENANT_SETTING: Final = "app.tenant_id"
"""The session setting that the row-level security policies compare with."""

TASK_SETTING: Final = "app.task"
"""The session setting of a transaction that is a task's and no tenant's; policies name the tasks that they serve."""

TENANT_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""What a tenant id looks like; it is written into SQL, so nothing else may pass."""

_ATTEMPTS: Final = 3
_ROLLBACK_SECONDS: Final = 1.0
"""A cancellation that reaches Postgres between two statements is lost, and ROLLBACK waits for what began after it."""


class Fate(Enum):
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
        connection = self._unit.connection or await self._unit.begin()
        self.wrote |= statement.writes
        started = time.time_ns()
        try:
            row = await connection.fetchrow(statement.sql, *statement.arguments(values))
        except DRIVER_ERRORS as error:
            reraise(error, self._constraints)
        finally:
            self._unit.note(statement.summary, started, statement.facts)
        return cast("Row | None", row)

    async def fetch_all(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Row]:
        """Returns all rows.

        Raises:
            DomainError: the database refused, by the constraint that was broken.
        """
        connection = self._unit.connection or await self._unit.begin()
        self.wrote |= statement.writes
        started = time.time_ns()
        try:
            rows = await connection.fetch(statement.sql, *statement.arguments(values))
        except DRIVER_ERRORS as error:
            reraise(error, self._constraints)
        finally:
            self._unit.note(statement.summary, started, statement.facts)
        return cast(Sequence[Row], rows)

    def refusal(self, constraint: str) -> errors.DomainError:
        """Returns what it means to the caller that ``constraint`` is broken, where that was found out by looking."""
        known = self._constraints.get(constraint)
        return known() if known else errors.ConflictError("A resource with this identity exists.")


class UnitOfWork:
    """`async with UnitOfWork(...) as transaction:` commits if the block ends, rolls back if it raises.

    Reads run in one, too: the tenant is a transaction-local setting, so that no pooled connection keeps it. It begins
    with its first statement: a handler that waits for another service holds no connection meanwhile (measured with
    40 callers and a sibling that takes 1 s: 35 calls a second instead of 11, none refused for want of a connection).

    Args:
        tenant_id: the tenant whose rows there are; empty for a task, which sees what a policy shows to it by name.
        read_only: Postgres refuses every write.
        timeout_seconds: after this the server ends the statement by itself, whether we still listen or not.
        task: the name of a background task, in place of a tenant.
        trace: where what it waits for is noted.
    """

    __slots__ = (
        *("_beginning", "_constraints", "_database", "_deadline", "_is_over", "_prologue", "_tenant", "_trace"),
        *("connection", "fate", "on_commit"),
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
        self.fate = Fate.NOTHING
        self.on_commit: list[Callable[[], None]] = []
        self._prologue = _prologue(tenant_id, task, read_only)
        self._deadline = asyncio.get_running_loop().time() + timeout_seconds

    async def __aenter__(self) -> Transaction:
        return Transaction(self, self._constraints, self._tenant)

    async def begin(self) -> Connection:
        """Takes a connection for the first statement: until then a handler that waits for others holds none."""
        if self._beginning:
            raise RuntimeError("statements of one transaction run one after the other: a handler must await each")
        self._beginning = True
        attempt = 0
        while True:
            attempt += 1
            started = time.time_ns()
            connection = await self._database.acquire()
            try:
                # BEGIN and both settings in one simple query: one round trip.
                remaining = self._deadline - asyncio.get_running_loop().time()
                await connection.execute(self._prologue + _limits(remaining))
            except BaseException as error:
                await self._give_back(connection, error)
                # A connection that died while idle; nothing ran yet, so another one may.
                if isinstance(error, CONNECTION_ERRORS) and attempt < _ATTEMPTS:
                    continue
                if isinstance(error, DRIVER_ERRORS):
                    reraise(error, self._constraints)
                raise
            self.note("BEGIN", started)
            if self._is_over:
                # It ran at once with a statement that was refused for it; nobody else would end what begins now.
                await _clean(self._database, connection)
                raise RuntimeError("the transaction ended before this statement began: a handler must await each")
            self.connection = connection
            return connection

    def note(self, name: str, started_ns: int, facts: Attributes = DATABASE_FACTS) -> None:
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
            self.fate = Fate.UNKNOWN
        started, verb = time.time_ns(), "COMMIT" if kind is None else "ROLLBACK"
        try:
            done = await (self.connection.execute(verb) if kind is None else _roll_back(self.connection))
        except BaseException as failure:
            if isinstance(failure, DRIVER_ERRORS) and not isinstance(failure, CONNECTION_ERRORS):
                self.fate = Fate.NOTHING
            await self._give_back(self.connection, failure)
            if kind is None:
                if isinstance(failure, DRIVER_ERRORS):
                    reraise(failure, self._constraints)
                raise
            return
        self.note(verb, started)
        self.fate = Fate.COMMITTED if done == "COMMIT" else Fate.NOTHING
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
        if isinstance(failure, asyncio.CancelledError):
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
def _prologue(tenant_id: str, task: str, read_only: bool) -> str:
    setting, name = (TASK_SETTING, task) if task else (TENANT_SETTING, tenant_id)
    if not TENANT_PATTERN.fullmatch(name):
        raise errors.UnauthenticatedError("The credential names no valid tenant.")
    mode = " READ ONLY" if read_only else ""
    return f"BEGIN{mode};SET LOCAL {setting}='{name}';"


def _limits(timeout_seconds: float) -> str:
    # Waiting for a lock ends a little earlier, so that the caller still hears why.
    milliseconds = max(10, int(timeout_seconds * 1000))
    waiting = milliseconds * 9 // 10
    return f"SET LOCAL statement_timeout={milliseconds};SET LOCAL lock_timeout={waiting}"
