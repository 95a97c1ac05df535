"""The SQL of a watch: pages of existing rows and of changes, and the end of old changes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.sql.visitors import replacement_traverse

from api_common.db import Row, compile_statement, fitting
from api_common.listing import Fields, Filter
from api_common.watch.resume_token import Phase
from api_common.watch.tables import change_tables

PAGE_SIZE: Final = 100
"""The most changes in one page."""
MAX_PAGE_BYTES: Final = 1_000_000
"""The most bytes of rows in one page, as stored; a page holds at least one change."""

CHANGES, HORIZONS = change_tables(sa.MetaData(), "changes")

EVENT: Final = "change_event"
"""The column with the kind of a change; NULL in the only row of an empty page."""
SEQ: Final = "change_seq"
"""The column with the number of the change."""
XID: Final = "change_xid"
"""The column with the transaction of the change."""
NOW, WAS = "now", "was"
"""The row after a change and the row before it."""


SNAPSHOT: Final = sa.cast(sa.func.pg_current_snapshot(), sa.Text)
"""The snapshot of the statement."""

# A server that was restored to an earlier time, or that replaced another, has another timeline; a restored dump is
# another database.
_DATABASE: Final = sa.func.concat(
    sa.select(sa.literal_column("system_identifier")).select_from(sa.func.pg_control_system()).scalar_subquery(),
    "/",
    sa.literal_column("(SELECT oid FROM pg_database WHERE datname = current_database())", sa.Text),
    "/",
    sa.func.left(sa.func.pg_walfile_name(sa.func.pg_current_wal_insert_lsn()), 8),
)

CURRENT: Final = compile_statement(sa.select(SNAPSHOT.label("page_snapshot"), _DATABASE.label("page_database")))
"""Selects the current snapshot of the database."""

# The oldest by transaction, in the order of the index; by time they differ by the length of a transaction at most.
_oldest: Final = sa.select(CHANGES).order_by(CHANGES.c.xid).limit(sa.bindparam("batch")).cte("oldest")
_too_old: Final = sa.select(_oldest.c.tenant_id, _oldest.c.seq).where(
    _oldest.c.create_time < sa.func.now() - sa.bindparam("retention", type_=sa.Interval)
)
_gone: Final = (
    sa.delete(CHANGES)
    .where(sa.tuple_(CHANGES.c.tenant_id, CHANGES.c.seq).in_(_too_old))
    .returning(CHANGES.c.tenant_id, CHANGES.c.seq, CHANGES.c.xid)
    .cte("gone")
)
_horizons: Final = insert(HORIZONS).from_select(
    ["tenant_id", "seq", "xid"],
    sa.select(_gone.c.tenant_id, sa.func.max(_gone.c.seq), sa.func.max(_gone.c.xid)).group_by(_gone.c.tenant_id),
)
# The horizon tells a watch that has not seen the deleted changes that it must resync.
REAP_CHANGES: Final = compile_statement(
    _horizons.on_conflict_do_update(
        index_elements=["tenant_id"],
        set_={name: sa.func.greatest(HORIZONS.c[name], _horizons.excluded[name]) for name in ("seq", "xid")},
    ).returning(sa.select(sa.func.count()).select_from(_gone).scalar_subquery().label("deleted"))
)
"""Deletes the oldest changes, up to `batch`, that are older than `retention`, and tells how many."""


def unseen(seen: str) -> sa.ColumnElement[bool]:
    """Returns the condition for changes that the snapshot in parameter ``seen`` does not see; needs `xmin`, too."""
    return sa.and_(CHANGES.c.xid >= sa.bindparam("xmin", type_=sa.BigInteger), sa.not_(_visible(seen)))


def state_page(table: sa.Table, where: Filter) -> sa.Select[Any]:
    """Selects live rows of ``table`` in the order of their ids, after `id`."""
    columns = table.c
    clauses = [
        columns.tenant_id == sa.bindparam("tenant_id", type_=sa.Text),
        columns.id > sa.bindparam("id", type_=columns.id.type),
    ]
    if "delete_time" in columns:
        clauses.append(columns.delete_time.is_(None))
    if where.clause is not None:
        clauses.append(where.clause)
    found = sa.select(table).where(*clauses).order_by(columns.id).limit(PAGE_SIZE)
    fits = fitting(found.subquery("found"), lambda of: [of.id], MAX_PAGE_BYTES).cte("fitting")
    event = sa.literal_column("'created'", sa.Text).label(EVENT)
    held = sa.select(
        event, sa.null().label(SEQ), sa.null().label(XID), *(fits.c[one.name] for one in columns)
    ).subquery("page")
    return _with_header(fits, held, order_by="id")


def change_page(table: sa.Table, fields: Fields, *, phase: Phase, goes_on: bool) -> sa.Select[Any]:
    """Selects changes of ``table`` in a window, after `seq`, with the row after each change.

    What filters need of the rows before and after is in columns of their own (`operands_of`).

    Args:
        phase: LIVE for every change, SETTLING for the last one of each row.
        goes_on: whether the window already has an end, `upto`; else the snapshot of this statement is its end.
    """
    columns = CHANGES.c
    window = [
        columns.tenant_id == sa.bindparam("tenant_id", type_=sa.Text),
        columns.collection == sa.literal_column(f"'{table.name}'"),
        unseen("seen"),
    ]
    if goes_on:
        window.append(_visible("upto"))
    later = CHANGES.c.seq > sa.bindparam("seq", type_=sa.BigInteger)
    if phase is Phase.LIVE:
        found = sa.select(CHANGES).where(*window, later)
    else:
        newest_first = (columns.id, columns.seq.desc())
        last = sa.select(CHANGES).where(*window).order_by(*newest_first).ext(distinct_on(columns.id))
        inner = last.subquery("last")
        found = sa.select(inner).where(inner.c.seq > sa.bindparam("seq", type_=sa.BigInteger))
    seq = found.selected_columns.seq
    # Ordering by the key alone makes Postgres scan its index from the start; only a later page begins far into it.
    found = found.order_by(seq if goes_on else seq + sa.literal_column("0", sa.Integer)).limit(PAGE_SIZE)
    fits = fitting(found.subquery("found"), lambda of: [of.seq], MAX_PAGE_BYTES, _bytes_after).cte("fitting")
    now = _row(table, fits.c.after, "now")
    was = _row(table, fits.c.after.op("||")(sa.func.coalesce(fits.c.before, sa.literal_column("'{}'::jsonb"))), "was")
    held = sa.select(
        fits.c.kind.label(EVENT),
        fits.c.seq.label(SEQ),
        fits.c.xid.label(XID),
        *(now.c[one.name] for one in table.c),
        *(_about(operand, table, now).label(f"{NOW} {name}") for name, operand in fields.operands.items()),
        *(_about(operand, table, was).label(f"{WAS} {name}") for name, operand in fields.operands.items()),
    ).select_from(fits.join(now, sa.true()).join(was, sa.true()))
    return _with_header(fits, held.subquery("page"), order_by=SEQ)


def operands_of(row: Row, side: str, names: Sequence[str]) -> Mapping[str, Any]:
    """Returns what filters need of the row before (`WAS`) or after (`NOW`) the change of ``row``."""
    return {name: row[f"{side} {name}"] for name in names}


def _visible(parameter: str) -> sa.ColumnElement[bool]:
    # Postgres reads a text as a type that is called like a function; SQLAlchemy knows neither of these.
    xid = sa.func.xid8(sa.cast(CHANGES.c.xid, sa.Text))
    snapshot = sa.func.pg_snapshot(sa.bindparam(parameter, type_=sa.Text))
    return sa.func.pg_visible_in_snapshot(xid, snapshot, type_=sa.Boolean)


def _bytes_after(of: Any) -> sa.ColumnElement[int]:
    return sa.func.octet_length(sa.cast(of.after, sa.Text))


def _with_header(fits: Any, held: Any, *, order_by: str) -> sa.Select[Any]:
    """Joins the facts about the page to every row, or to no row: all from one snapshot."""
    horizon = HORIZONS.alias("horizon")
    mine = horizon.c.tenant_id == sa.bindparam("tenant_id", type_=sa.Text)
    oldest = sa.select(sa.func.min(fits.c.create_time)).scalar_subquery()
    header = sa.select(
        SNAPSHOT.label("page_snapshot"),
        _DATABASE.label("page_database"),
        sa.select(horizon.c.seq).where(mine).scalar_subquery().label("horizon_seq"),
        sa.select(horizon.c.xid).where(mine).scalar_subquery().label("horizon_xid"),
        sa.func.extract("epoch", sa.func.clock_timestamp() - oldest).label("page_age_seconds"),
        sa.select(sa.func.max(fits.c.total_bytes)).scalar_subquery().label("page_bytes"),
        sa.select(sa.func.max(fits.c.found)).scalar_subquery().label("page_found"),
        sa.select(sa.func.count()).select_from(fits).scalar_subquery().label("page_held"),
        sa.select(sa.func.max(fits.c["seq" if "seq" in fits.c else "place"])).scalar_subquery().label("page_last"),
    ).subquery("header")
    told = held.c[EVENT].is_not(None)
    return sa.select(header, held).select_from(header.outerjoin(held, told)).order_by(held.c[order_by])


def _row(table: sa.Table, value: sa.ColumnElement[Any], name: str) -> Any:
    """Returns ``value``, the JSON that the trigger stored, as a row of ``table``."""
    columns: Sequence[Any] = [sa.column(one.name, one.type) for one in table.c]
    return (
        sa.func.jsonb_populate_record(sa.literal_column(f"NULL::{table.name}", sa.Text), value)
        .table_valued(*columns, name=name)
        .lateral(name)
    )


def _about(operand: sa.ColumnElement[Any], table: sa.Table, row: Any) -> sa.ColumnElement[Any]:
    """Returns ``operand`` with the columns of ``row`` in place of those of ``table``."""

    def replace(element: Any, **_: Any) -> Any:
        return row.c[element.name] if isinstance(element, sa.Column) and element.table is table else None

    replaced: sa.ColumnElement[Any] = replacement_traverse(operand, {}, replace)
    return replaced
