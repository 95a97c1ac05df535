"""The bridge: SQLAlchemy Core builds the statements, asyncpg executes them (ADR 0003). Nobody else sees the driver.

The async engine's layers cost more than two round trips (docs/performance.md), so statements are compiled once with the
asyncpg dialect and run on the driver's connections, whose codecs make rows ready for protobuf.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Self, TypeVar, TypeVarTuple, cast

import asyncpg
import orjson
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from api_common import errors
from api_common.db.pool import Connection, Pool
from api_common.db.timestamps import to_micros
from api_common.settings import DatabaseSettings
from api_common.telemetry import Attributes, Occupancy

ResultT = TypeVar("ResultT")
_Given = TypeVarTuple("_Given")

ConstraintErrors = Mapping[str, Callable[[], errors.DomainError]]
"""What a broken constraint means to the caller, by the constraint's name."""

DATABASE_FACTS: Final[Attributes] = {"db.system.name": "postgresql"}
"""What traces say of every wait for the database. Source: OpenTelemetry semantic conventions for database clients."""

# The verb and its table.
_SUMMARY: Final = re.compile(r"\b(?:(SELECT)\b.*?\bFROM|(INSERT) INTO|(UPDATE)|(DELETE) FROM)\s+(\w+)", re.DOTALL)
# One that locks rows (`FOR UPDATE`) changes nothing.
_WRITES: Final = re.compile(r"\b(?:INSERT INTO|DELETE FROM|UPDATE \w+ (?:AS \w+ )?SET)\b")
_DIALECT: Final = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]

MAX_STATEMENT_SECONDS: Final = 60
"""How long a statement runs at most where no request sets a shorter time: as long as a call may take."""
_CONNECT_SECONDS: Final = 10
# How many changes of the schema, one after the other, a transaction lives through.
_SCHEMA_CHANGES: Final = 3
_POSTGRES_EPOCH: Final = to_micros(datetime(2000, 1, 1, tzinfo=UTC))
_FIRST_THAT_LIMITS_TRANSACTIONS: Final = 17
_SESSION: Final = {
    # Ends what a request left behind even if this process is frozen or cut off.
    "statement_timeout": f"{MAX_STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": "60s",
    "client_connection_check_interval": "5s",
    "lock_timeout": "0",
    # One request occupies one core: a filter that reads a whole tenant must not take those of everybody else (ADR 20).
    "max_parallel_workers_per_gather": "0",
    # Compiling such a query would take longer than running it.
    "jit": "off",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement ready for the driver."""

    sql: str
    """SQL with `$n` placeholders."""
    names: tuple[str, ...]
    """The parameter behind each placeholder, in order."""
    defaults: Mapping[str, Any]
    """Values that the expression itself carries."""
    summary: str = "SELECT"
    """What it does to what, for traces: `SELECT users`. Values are never part of it."""
    facts: Attributes = field(default_factory=lambda: DATABASE_FACTS)
    """What else traces say of it."""
    writes: bool = True
    """Whether it may change a row."""
    alone: str = ""
    """Does the same as a transaction of its own; three more arguments bind it. Empty if it may change a row."""
    plan_for_values: bool = False
    """Postgres plans each run for its values: after five runs it may settle on one plan for all of them, which is
    100 ms a page instead of 1 where a plan depends on values (ADR 20)."""

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Returns the driver's arguments for ``values``."""
        defaults = self.defaults
        return [values[name] if name in values else defaults[name] for name in self.names]


def compile_statement(clause: ClauseElement, *, plan_for_values: bool = False) -> Statement:
    """Compiles a Core expression; about 600 µs, so once per expression and never per request."""
    compiled = cast(SQLCompiler, clause.compile(dialect=_DIALECT))
    names = tuple(compiled.positiontup or ())
    defaults = {name: bind.value for bind, name in compiled.bind_names.items() if name in names and not bind.required}
    found = _SUMMARY.search(compiled.string)
    summary = " ".join(filter(None, found.groups())) if found else "SELECT"
    facts = {**DATABASE_FACTS, "db.query.text": compiled.string}
    writes = bool(_WRITES.search(compiled.string))
    alone = "" if writes or plan_for_values else _bound(compiled.string, len(names))
    return Statement(compiled.string, names, defaults, summary, facts, writes, alone, plan_for_values)


def _bound(sql: str, parameters: int) -> str:
    """Returns ``sql`` with parameters for a setting, its value and a transaction's milliseconds, set before it begins.

    It depends on what setting returns, so Postgres cannot run it first. If it did, nobody's rows would be seen.
    """
    setting, value, milliseconds = (f"${parameters + number}" for number in (1, 2, 3))
    return (
        f"SELECT own.* FROM (SELECT set_config({setting}, {value}, true) AS owner,"  # noqa: S608 - compiled, or ours
        f" set_config('transaction_timeout', {milliseconds}, true) AS milliseconds OFFSET 0) AS bound"
        f" CROSS JOIN LATERAL (SELECT * FROM ({sql}) AS shown WHERE bound.owner IS NOT NULL OFFSET 0) AS own"
    )


Fetch = Callable[..., Awaitable[Any]]
"""How a statement is run: on a connection, with the SQL and its arguments."""
fetch_one: Final[Fetch] = asyncpg.Connection.fetchrow
"""The first row, or None."""
fetch_all: Final[Fetch] = asyncpg.Connection.fetch
"""All rows."""


class Database:
    """The connections of one process to its service's database."""

    def __init__(self, settings: DatabaseSettings, *, application_name: str) -> None:
        self._url = settings.url.get_secret_value()
        self._acquire_timeout = settings.acquire_timeout_seconds
        self._session = {**_SESSION, "application_name": application_name}
        self._pool = Pool(self._open, size=settings.pool_size)
        self._probe: asyncpg.Connection[asyncpg.Record] | None = None
        self.limits_transactions = False
        """Whether the server ends a transaction at a time that is set within it: Postgres 17 and later."""

    @classmethod
    async def connect(cls, settings: DatabaseSettings, *, application_name: str) -> Self:
        """Opens one connection at once, so that a wrong URL is noticed at start."""
        database = cls(settings, application_name=application_name)
        database.release(await database._pool.acquire(timeout_seconds=_CONNECT_SECONDS))
        return database

    async def acquire(self) -> Connection:
        """Takes a connection out of the pool.

        Raises:
            ExternalServiceError: none is free in time, or the server does not answer.
        """
        try:
            return await self._pool.acquire(timeout_seconds=self._acquire_timeout)
        except TimeoutError as error:
            raise errors.ExternalServiceError("The database is busy.", retry_after_seconds=1) from error
        except DRIVER_ERRORS as error:
            raise errors.ExternalServiceError("The database does not answer.", retry_after_seconds=1) from error

    def release(self, connection: Connection, *, is_outdated: bool = False) -> None:
        """Gives a connection back for the next transaction.

        Args:
            is_outdated: a prepared statement was of an earlier schema, as may be those of all connections till now.
        """
        if is_outdated:
            self._pool.renew(connection)
        self._pool.release(connection)

    def discard(self, connection: Connection) -> None:
        """Ends a connection whose session is in an unknown state; another one takes its place when it is needed."""
        connection.terminate()
        self._pool.release(connection)

    async def dedicated(self) -> Connection:
        """Opens a connection beside the pool, for who listens; the caller ends it."""
        name = f"{self._session['application_name']} listener"
        settings = {**self._session, "application_name": name}
        return await asyncpg.connect(self._url, server_settings=settings, timeout=_CONNECT_SECONDS)

    async def ping(self, *, timeout_seconds: float) -> bool:
        """Tells whether the server answers in time; on its own connection, so that a busy pool is not an outage."""
        try:
            async with asyncio.timeout(timeout_seconds):
                if self._probe is None or self._probe.is_closed():
                    self._probe = await asyncpg.connect(self._url, timeout=timeout_seconds)
                await self._probe.execute("SELECT 1")
        except (TimeoutError, *DRIVER_ERRORS):
            if self._probe is not None:
                self._probe.terminate()
                self._probe = None
            return False
        return True

    async def fetch_value(self, sql: str) -> Any:
        """Runs one query outside any tenant; for the checks at start."""
        connection = await self.acquire()
        try:
            return await connection.fetchval(sql)
        finally:
            self.release(connection)

    @property
    def occupancy(self) -> Occupancy:
        """How full the pool is."""
        return self._pool.occupancy

    async def close(self) -> None:
        """Waits for the connections in use, then closes all; after 2 s it does not wait any longer."""
        if self._probe is not None:
            self._probe.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._pool.close()

    async def _open(self) -> Connection:
        connection = await asyncpg.connect(self._url, server_settings=self._session, timeout=_CONNECT_SECONDS)
        try:
            await set_codecs(connection)
            self.limits_transactions = connection.get_server_version().major >= _FIRST_THAT_LIMITS_TRANSACTIONS
        except BaseException:
            connection.terminate()
            raise
        return connection


CONNECTION_ERRORS: Final = (
    OSError,
    asyncpg.InterfaceError,
    # What it says of a connection whose end was announced while nobody listened.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,
)
"""The connection or the server is gone; another connection may work."""

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Everything that the driver raises."""


def is_stale(error: BaseException | None) -> bool:
    """Tells whether the schema changed under a prepared statement; the whole transaction may be run again."""
    return error is not None and isinstance(error.__cause__, asyncpg.InvalidCachedStatementError)


async def repeat_if_stale(work: Callable[[*_Given], Awaitable[ResultT]], *given: *_Given) -> ResultT:
    """Runs one whole transaction, ``work`` on ``given``, again if the schema changed under it: nothing was committed.

    Once per change: what met it first has all connections renewed.
    """
    for _ in range(_SCHEMA_CHANGES):
        try:
            return await work(*given)
        except errors.ExternalServiceError as error:
            if not is_stale(error):
                raise
    return await work(*given)


def raise_domain_error(error: Exception, constraints: ConstraintErrors) -> NoReturn:
    """Raises what a driver's error means to the caller, or the error itself if it is a defect of ours."""
    known: Exception | None = None
    match error:
        case asyncpg.InvalidCachedStatementError():
            known = errors.ExternalServiceError("The service is being changed; try again.", retry_after_seconds=1)
        case asyncpg.IntegrityConstraintViolationError() if (name := error.constraint_name or "") in constraints:
            known = constraints[name]()
        case asyncpg.UniqueViolationError():
            known = errors.ConflictError("A resource with this identity exists.")
        case asyncpg.SerializationError() | asyncpg.DeadlockDetectedError() | asyncpg.LockNotAvailableError():
            known = errors.AbortedError("Another request changed the same data; try again.")
        case asyncpg.QueryCanceledError():
            known = errors.DeadlineExceededError("The deadline passed before the work was done.")
        case asyncpg.CharacterNotInRepertoireError() | asyncpg.UntranslatableCharacterError():
            known = errors.ValidationError("A text holds a character that cannot be stored.")
        case _ if isinstance(error, CONNECTION_ERRORS):
            known = errors.ExternalServiceError("The database does not answer.", retry_after_seconds=1)
    if known is None:
        raise error
    raise known from error


async def set_codecs(connection: Connection) -> None:
    """Has rows come as repositories know them: ids as texts, JSON as what it says, times as microseconds since 1970."""
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str, format="text")
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_dump_json, decoder=orjson.loads, format="text"
    )
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_dump_time, decoder=_load_time, format="tuple"
    )


def _dump_json(value: object) -> str:
    return orjson.dumps(value).decode()


def _dump_time(value: datetime | int) -> tuple[int]:
    micros = to_micros(value) if isinstance(value, datetime) else value
    return (micros - _POSTGRES_EPOCH,)


def _load_time(parts: tuple[int]) -> int:
    return parts[0] + _POSTGRES_EPOCH
