"""The driver's side (ADR 0003): SQLAlchemy Core builds statements, asyncpg executes them, no other room sees it.

Rows hold ids as text, JSON parsed, and times as microseconds since 1970 in UTC. A row has two or three times, and most
are only passed on: a `datetime` of each, taken apart again, would cost 8,000 instructions a time, as much as all the
texts of a user (docs/performance.md). Code that calculates makes one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, cast

import asyncpg
import orjson
from sqlalchemy import TableClause
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import ClauseElement

from api_common import errors
from api_common.db.pool import Connection
from api_common.telemetry import Attributes

ConstraintErrors = Mapping[str, Callable[[], errors.DomainError]]
"""What a broken constraint means to the caller, by the constraint's name."""

CONNECTION_ERRORS: Final = (
    OSError,
    asyncpg.InterfaceError,
    # Raised on a connection whose end the server announced while no statement ran.
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

DATABASE_FACTS: Final[Attributes] = {"db.system.name": "postgresql"}
"""What traces say of every wait for the database. Source: OpenTelemetry semantic conventions for database clients."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Postgres counts from 2000 on.
_POSTGRES_EPOCH: Final = (datetime(2000, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
# The constraint that the trigger which counts rows names.
_QUOTA: Final = "quota"
_PLACEHOLDER: Final = re.compile(r"\$(\d+)")
_SPECIAL: Final = re.compile(r"[^A-Za-z0-9_./:@+ -]")
_DIALECT: Final = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]


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
    """Verb and table for traces: `SELECT users`. Values are never part of it."""
    facts: Attributes = field(default_factory=lambda: DATABASE_FACTS)
    """What else traces say of it."""
    writes: bool = True
    """Whether it may change a row; one that only locks rows does not."""
    alone: str = ""
    """Does the same as a transaction of its own; three more arguments bind it. Empty if it may change a row."""
    plan_for_values: bool = False
    """Postgres plans each run for its values: after five runs it may settle on one plan for all of them, which takes
    100 ms a page instead of 1 where a plan depends on values (ADR 20)."""

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Returns the driver's arguments for ``values``."""
        defaults = self.defaults
        return [values[name] if name in values else defaults[name] for name in self.names]

    def inlined(self, values: Mapping[str, Any]) -> str:
        """Returns SQL with ``values`` in it. None can end its literal: what is not a plain character is a number."""
        arguments = self.arguments(values)
        return _PLACEHOLDER.sub(lambda found: _literal(arguments[int(found[1]) - 1]), self.sql)


def compile_statement(clause: ClauseElement, *, plan_for_values: bool = False) -> Statement:
    """Compiles a Core expression; takes 0.6 to 10 ms, so compile once per expression and never per request."""
    compiled = cast(SQLCompiler, clause.compile(dialect=_DIALECT))
    sql, names = compiled.string, tuple(compiled.positiontup or ())
    defaults = {name: bind.value for bind, name in compiled.bind_names.items() if name in names and not bind.required}
    # Each part once: `iterate` of SQLAlchemy comes to the 263 parts of a page of changes 16,000 times.
    parts, known = list[Any]([clause]), {id(clause)}
    for part in parts:
        fresh = {id(one): one for one in part.get_children() if id(one) not in known}
        parts += fresh.values()
        known |= fresh.keys()
    change = next((part for part in parts if isinstance(part, UpdateBase)), None)
    return Statement(
        sql,
        names,
        defaults,
        summary=_summary(parts, change, sql),
        facts={**DATABASE_FACTS, "db.query.text": sql},
        writes=change is not None,
        alone="" if change is not None or plan_for_values else _bound(sql, len(names)),
        plan_for_values=plan_for_values,
    )


def _literal(value: object) -> str:
    if isinstance(value, bytes):
        return f"decode('{value.hex()}','hex')"
    escaped = _SPECIAL.sub(lambda found: f"\\U{ord(found[0]):08x}", str(value))
    return f"E'{escaped}'"


def _summary(parts: Sequence[object], change: UpdateBase | None, sql: str) -> str:
    if change is not None:
        return f"{change.__visit_name__.upper()} {cast(TableClause, change.table).name}"
    tables = [part.name for part in parts if isinstance(part, TableClause)]
    # The one that is read comes before those that it is joined with.
    return f"SELECT {min(tables, key=sql.index)}" if tables else "SELECT"


def _bound(sql: str, parameters: int) -> str:
    """Returns ``sql`` with parameters for a setting, its value and a transaction's milliseconds, set before it runs.

    The statement depends on the row of settings, so Postgres cannot run it first: it would see no tenant's rows.
    """
    setting, value, milliseconds = (f"${parameters + number}" for number in (1, 2, 3))
    return (
        f"SELECT own.* FROM (SELECT set_config({setting}, {value}, true) AS owner,"  # noqa: S608 - compiled, or ours
        f" set_config('transaction_timeout', {milliseconds}, true) AS milliseconds OFFSET 0) AS bound"
        f" CROSS JOIN LATERAL (SELECT * FROM ({sql}) AS shown WHERE bound.owner IS NOT NULL OFFSET 0) AS own"
    )


def to_micros(moment: datetime) -> int:
    """Returns ``moment``, which knows its time zone, as rows hold it."""
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(micros: int) -> datetime:
    """Returns the time of a row, in UTC.

    Raises:
        OverflowError: it is not in the years 1 to 9999.
    """
    return _EPOCH + timedelta(microseconds=micros)


async def set_codecs(connection: Connection) -> None:
    """Makes the rows of ``connection`` hold what repositories expect."""
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


def is_refusal(error: BaseException) -> bool:
    """Tells whether Postgres refused a statement: the connection still works."""
    return isinstance(error, DRIVER_ERRORS) and not isinstance(error, CONNECTION_ERRORS)


def is_stale(error: BaseException) -> bool:
    """Tells whether the schema changed under a prepared statement; the whole transaction may run again."""
    return isinstance(error.__cause__, asyncpg.InvalidCachedStatementError)


def raise_domain_error(error: Exception, constraints: ConstraintErrors) -> NoReturn:
    """Raises what a driver's error means to the caller, or the error itself if it is a defect of ours."""
    known: Exception | None = None
    match error:
        case asyncpg.InvalidCachedStatementError():
            known = errors.ExternalServiceError("The service is being changed; try again.", retry_after_seconds=1)
        case asyncpg.CheckViolationError() if error.constraint_name == _QUOTA:
            collection, limit = str(error.table_name), str(error.detail)
            known = errors.QuotaExceededError(
                f"The tenant may have {limit} {collection.replace('_', ' ')} at most.",
                metadata={"collection": collection, "limit": limit},
            )
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
