"""The statements over many rows of one table.

Items travel as one JSON document, so that their number is not in the SQL and rows with lists need no arrays of arrays.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from api_common.db import Statement, compile_statement, fitting

MAX_ROWS_BYTES: Final = 10 * 1024 * 1024
"""The rows of an answer are at most this large together, as texts; larger ones are not read."""

POSITION: Final = "position"
"""The index of a document's item in the request."""
WRITTEN: Final = "written"
"""The names of the columns that an item writes; items may write different columns."""

TAKE_TURN: Final = compile_statement(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtextextended(sa.bindparam("subject", type_=sa.Text), sa.literal_column("0"))
        )
    )
)
"""Locks `subject` until the transaction ends."""

_ONE: Final[sa.ColumnElement[int]] = sa.literal_column("1", sa.Integer)
_NAME: Final = re.compile(r"\w+")


def named(tenant_id: str, ids: Sequence[str]) -> dict[str, str]:
    """Returns the parameters that name a tenant's rows.

    The ids are one text: for each item of an array the driver checks several times whether it is an array (5,300
    instructions an id).
    """
    return {"tenant_id": tenant_id, "ids": ",".join(ids)}


class BatchStatements:
    """The statements of `BatchRepository` on ``table``, each compiled once."""

    def __init__(self, table: sa.Table) -> None:
        self._table = table
        columns = table.c
        ids = sa.cast(
            sa.func.string_to_array(sa.bindparam("ids", type_=sa.Text), sa.literal_column("','")),
            sa.ARRAY(columns.id.type),
        )
        self._named = sa.and_(columns.tenant_id == sa.bindparam("tenant_id"), columns.id == sa.func.any(ids))
        self._keys = sorted((key for key in table.indexes if key.unique), key=lambda key: str(key.name))
        self.get: Final = self._fit(sa.select(table).where(self._named).subquery("found"))
        self.find: Final = compile_statement(sa.select(columns.id).where(self._named))
        self.delete: Final = self._compile_delete()
        self.lock: Final = lru_cache(maxsize=8)(self._compile_lock)
        self.insert: Final = lru_cache(maxsize=8)(self._compile_insert)
        self.update: Final = lru_cache(maxsize=64)(self._compile_update)
        self.taken: Final = lru_cache(maxsize=8)(self._compile_taken)

    def keys_written(self, names: Sequence[str]) -> list[sa.Index]:
        """Returns the unique indexes that values of the columns ``names`` may break; generated ids break none."""
        return [key for key in self._keys if not self._sources(key).isdisjoint(names)]

    def _compile_delete(self) -> Statement:
        columns = self._table.c
        values = {"version": columns.version + _ONE, "update_time": sa.func.now(), "delete_time": sa.func.now()}
        return self._fit(sa.update(self._table).where(self._named).values(values).returning(*columns).cte("found"))

    def _compile_lock(self, names: Sequence[str]) -> Statement:
        columns = [self._table.c[name] for name in dict.fromkeys(("id", "version", "delete_time", *names))]
        # All batches lock in this order: two batches over the same rows never wait for each other.
        return compile_statement(sa.select(*columns).where(self._named).order_by(self._table.c.id).with_for_update())

    def _compile_insert(self, names: Sequence[str]) -> Statement:
        items = self._items(names)
        # In no order: sorting large rows took as long as storing them, and ids are made in the order of the request.
        rows = sa.select(*(items.c[name] for name in names))
        # A row that is refused does not come back; an error would end the transaction and name no row.
        statement = insert(self._table).from_select(list(names), rows).on_conflict_do_nothing()
        return compile_statement(statement.returning(*self._table.c))

    def _compile_update(self, names: Sequence[str]) -> Statement:
        columns, items = self._table.c, self._items(("id", *names, WRITTEN))
        values: dict[str, Any] = {
            name: sa.case((_writes(items, name), items.c[name]), else_=columns[name]) for name in names
        }
        any_change = sa.func.cardinality(items.c[WRITTEN]) > sa.literal_column("0")
        values["version"] = columns.version + sa.cast(any_change, sa.Integer)
        values["update_time"] = sa.case((any_change, sa.func.now()), else_=columns.update_time)
        statement = sa.update(self._table).where(
            columns.tenant_id == sa.bindparam("tenant_id"), columns.id == items.c.id
        )
        return self._fit(statement.values(values).returning(*columns).cte("found"))

    def _compile_taken(self, key: sa.Index) -> Statement:
        """Finds the first item whose values of ``key`` belong to another live row or to an earlier item."""
        columns, sources = self._table.c, sorted(self._sources(key))
        items = self._items(("id", *sources, POSITION, WRITTEN))
        parts = {part.name: _computed(part, items) for part in key.columns if part.name != "tenant_id"}
        place = sa.func.row_number().over(partition_by=list(parts.values()), order_by=items.c[POSITION])
        own = [value.label(name) for name, value in parts.items()]
        wanted = (
            sa.select(items.c.id, items.c[POSITION], place.label("place"), *own)
            .where(sa.or_(items.c[WRITTEN].is_(None), *(_writes(items, name) for name in sources)))
            .subquery("wanted")
        )
        rival = sa.select(_ONE).where(
            columns.tenant_id == sa.bindparam("tenant_id"),
            key.dialect_options["postgresql"]["where"],
            columns.id != wanted.c.id,
            *(columns[name] == wanted.c[name] for name in parts),
        )
        taken = sa.or_(wanted.c.place > _ONE, rival.exists())
        return compile_statement(sa.select(wanted.c[POSITION]).where(taken).order_by(wanted.c[POSITION]).limit(_ONE))

    def _items(self, names: Sequence[str]) -> sa.TableValuedAlias:
        """Returns the documents of the parameter `items` as rows with these columns."""
        special: dict[str, sa.types.TypeEngine[Any]] = {POSITION: sa.Integer(), WRITTEN: sa.ARRAY(sa.Text)}
        typed = [sa.column(name, special.get(name) or self._table.c[name].type) for name in names]
        documents = sa.func.jsonb_to_recordset(sa.bindparam("items", type_=JSONB))
        return documents.table_valued(*typed).render_derived("item", with_types=True)

    def _fit(self, found: sa.FromClause) -> Statement:
        """Returns all rows of ``found``, or none if they are too large together; it measures few more than fit."""
        fits = fitting(found, lambda of: [of.id], MAX_ROWS_BYTES).cte("fits")
        rows = sa.select(*(fits.c[one.name] for one in self._table.c))
        return compile_statement(rows.where(fits.c.found == sa.select(sa.func.max(fits.c.place)).scalar_subquery()))

    def _sources(self, key: sa.Index) -> set[str]:
        """Returns the columns that callers write and that ``key`` is computed from."""
        written = [part for part in key.columns if part.name != "tenant_id"]
        texts = [str(part.computed.sqltext) if part.computed is not None else part.name for part in written]
        return {name for text in texts for name in _NAME.findall(text) if name in self._table.c}


def _writes(items: sa.TableValuedAlias, name: str) -> sa.ColumnElement[bool]:
    return sa.literal_column(f"'{name}'", sa.Text) == sa.func.any(items.c[WRITTEN])


def _computed(part: sa.Column[Any], items: sa.TableValuedAlias) -> sa.ColumnElement[Any]:
    """Returns the value of a column for an item, by the same expression if the table computes it."""
    return items.c[part.name] if part.computed is None else sa.literal_column(str(part.computed.sqltext), part.type)
