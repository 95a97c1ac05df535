"""The SQL of a watch: pages of existing rows and of changes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
)
from sqlalchemy import types as sql_types
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.sql.visitors import replacement_traverse

from api_common.db import Row, compile_statement, text_bytes
from api_common.listing import Fields, Filter
from api_common.watch.resume_token import Phase
from api_common.watch.tables import change_tables

PAGE_SIZE: Final = 100
"""The most changes in one page."""
MAX_PAGE_BYTES: Final = 1_000_000
"""The most bytes of rows in one page, as stored; a page holds at least one change."""

CHANGES, HORIZONS = change_tables(MetaData())

EVENT: Final = "change_event"
"""The column with the kind of a change; NULL in the only row of an empty page."""
SEQ: Final = "change_seq"
"""The column with the number of the change."""
XID: Final = "change_xid"
"""The column with the transaction of the change."""
NOW, WAS = "now", "was"
"""The row after a change and the row before it."""


class _PostgresType(sql_types.UserDefinedType[str]):
    """A type that SQLAlchemy does not know."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


SNAPSHOT: Final = cast(func.pg_current_snapshot(), Text)
"""The snapshot of the statement."""

# A server that was restored to an earlier time, or that replaced another, has another timeline; a restored dump is
# another database.
_DATABASE: Final = func.concat(
    select(literal_column("system_identifier")).select_from(func.pg_control_system()).scalar_subquery(),
    "/",
    literal_column("(SELECT oid FROM pg_database WHERE datname = current_database())", Text),
    "/",
    func.left(func.pg_walfile_name(func.pg_current_wal_insert_lsn()), 8),
)

CURRENT: Final = compile_statement(select(SNAPSHOT.label("page_snapshot"), _DATABASE.label("page_database")))
"""Selects the current snapshot of the database."""


def unseen(seen: str) -> ColumnElement[bool]:
    """Returns the condition for changes that the snapshot in parameter ``seen`` does not see; needs `xmin`, too."""
    return and_(CHANGES.c.xid >= bindparam("xmin", type_=BigInteger), not_(_visible(seen)))


def state_page(table: Table, where: Filter) -> Select[Any]:
    """Selects live rows of ``table`` in the order of their ids, after `id`."""
    columns = table.c
    clauses = [
        columns.tenant_id == bindparam("tenant_id", type_=Text),
        columns.id > bindparam("id", type_=columns.id.type),
    ]
    if "delete_time" in columns:
        clauses.append(columns.delete_time.is_(None))
    if where.clause is not None:
        clauses.append(where.clause)
    found = select(table, text_bytes(columns).label("row_bytes")).where(*clauses).order_by(columns.id).limit(PAGE_SIZE)
    fitting = _fitting(found.subquery("found"), "id")
    event = literal_column("'created'", Text).label(EVENT)
    held = select(event, null().label(SEQ), null().label(XID), *(fitting.c[one.name] for one in columns)).subquery(
        "page"
    )
    return _with_header(fitting, held, order_by="id")


def change_page(table: Table, fields: Fields, *, phase: Phase, goes_on: bool) -> Select[Any]:
    """Selects changes of ``table`` in a window, after `seq`, with the row after each change.

    What filters need of the rows before and after is in columns of their own (`operands_of`).

    Args:
        phase: LIVE for every change, SETTLING for the last one of each row.
        goes_on: whether the window already has an end, `upto`; else the snapshot of this statement is its end.
    """
    columns = CHANGES.c
    window = [
        columns.tenant_id == bindparam("tenant_id", type_=Text),
        columns.collection == literal_column(f"'{table.name}'"),
        unseen("seen"),
    ]
    if goes_on:
        window.append(_visible("upto"))
    later = CHANGES.c.seq > bindparam("seq", type_=BigInteger)
    if phase is Phase.LIVE:
        found = select(CHANGES).where(*window, later)
    else:
        newest_first = (columns.id, columns.seq.desc())
        last = select(CHANGES).where(*window).order_by(*newest_first).ext(distinct_on(columns.id))
        inner = last.subquery("last")
        found = select(inner).where(inner.c.seq > bindparam("seq", type_=BigInteger))
    seq = found.selected_columns.seq
    # Ordering by the key alone makes Postgres scan its index from the start; only a later page begins far into it.
    found = found.order_by(seq if goes_on else seq + literal_column("0", Integer)).limit(PAGE_SIZE)
    chosen = found.subquery("chosen")
    sized = select(chosen, func.octet_length(cast(chosen.c.after, Text)).label("row_bytes")).subquery("sized")
    fitting = _fitting(sized, "seq")
    now = _row(table, fitting.c.after, "now")
    was = _row(table, fitting.c.after.op("||")(func.coalesce(fitting.c.before, literal_column("'{}'::jsonb"))), "was")
    held = select(
        fitting.c.kind.label(EVENT),
        fitting.c.seq.label(SEQ),
        fitting.c.xid.label(XID),
        *(now.c[one.name] for one in table.c),
        *(_about(operand, table, now).label(f"{NOW} {name}") for name, operand in fields.operands.items()),
        *(_about(operand, table, was).label(f"{WAS} {name}") for name, operand in fields.operands.items()),
    ).select_from(fitting.join(now, true()).join(was, true()))
    return _with_header(fitting, held.subquery("page"), order_by=SEQ)


def operands_of(row: Row, side: str, names: Sequence[str]) -> Mapping[str, Any]:
    """Returns what filters need of the row before (`WAS`) or after (`NOW`) the change of ``row``."""
    return {name: row[f"{side} {name}"] for name in names}


def _visible(parameter: str) -> ColumnElement[bool]:
    xid = cast(cast(CHANGES.c.xid, Text), _PostgresType("XID8"))
    snapshot = cast(bindparam(parameter, type_=Text), _PostgresType("PG_SNAPSHOT"))
    return func.pg_visible_in_snapshot(xid, snapshot, type_=Boolean)


def _fitting(found: Any, order_by: str) -> Any:
    """Keeps the rows that fit into a page, at least one, each with the number of rows found."""
    by = found.c[order_by]
    measured = select(
        found,
        func.count().over().label("found"),
        func.row_number().over(order_by=by).label("place"),
        func.sum(found.c.row_bytes).over(order_by=by, rows=(None, 0)).label("total_bytes"),
    ).subquery("measured")
    fits = or_(measured.c.total_bytes <= MAX_PAGE_BYTES, measured.c.place == 1)
    return select(measured).where(fits).cte("fitting")


def _with_header(fitting: Any, held: Any, *, order_by: str) -> Select[Any]:
    """Joins the facts about the page to every row, or to no row: all from one snapshot."""
    horizon = HORIZONS.alias("horizon")
    mine = horizon.c.tenant_id == bindparam("tenant_id", type_=Text)
    header = select(
        SNAPSHOT.label("page_snapshot"),
        _DATABASE.label("page_database"),
        select(horizon.c.seq).where(mine).scalar_subquery().label("horizon_seq"),
        select(horizon.c.xid).where(mine).scalar_subquery().label("horizon_xid"),
        _age(fitting).label("page_age_seconds"),
        select(func.max(fitting.c.total_bytes)).scalar_subquery().label("page_bytes"),
        select(func.max(fitting.c.found)).scalar_subquery().label("page_found"),
        select(func.count()).select_from(fitting).scalar_subquery().label("page_held"),
        select(func.max(fitting.c["seq" if "seq" in fitting.c else "place"])).scalar_subquery().label("page_last"),
    ).subquery("header")
    told = held.c[EVENT].is_not(None)
    return select(header, held).select_from(header.outerjoin(held, told)).order_by(held.c[order_by])


def _age(fitting: Any) -> ColumnElement[Any]:
    """Returns the age of the oldest change in the page, in seconds; NULL for existing rows."""
    oldest = select(func.min(fitting.c.create_time)).scalar_subquery()
    return func.extract("epoch", func.clock_timestamp() - oldest)


def _row(table: Table, value: ColumnElement[Any], name: str) -> Any:
    """Returns ``value``, the JSON that the trigger stored, as a row of ``table``."""
    columns: Sequence[Any] = [column(one.name, one.type) for one in table.c]
    return (
        func.jsonb_populate_record(literal_column(f"NULL::{table.name}", Text), value)
        .table_valued(*columns, name=name)
        .lateral(name)
    )


def _about(operand: ColumnElement[Any], table: Table, row: Any) -> ColumnElement[Any]:
    """Returns ``operand`` with the columns of ``row`` in place of those of ``table``."""

    def replace(element: Any, **_: Any) -> Any:
        return row.c[element.name] if isinstance(element, Column) and element.table is table else None

    replaced: ColumnElement[Any] = replacement_traverse(operand, {}, replace)
    return replaced
