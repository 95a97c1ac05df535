"""Tables: named constraints, the tables that every service has, the standard columns of a resource."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

# The constraint's name is the key of a service's error map.
_NAMING_CONVENTION: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
# Bytes of an id, a time or a number as text at most: a UUID has 36.
_LONGEST_NUMBER: Final = 40


def metadata() -> sa.MetaData:
    """Returns the tables of a service: at first those that every service has."""
    tables = sa.MetaData(naming_convention=_NAMING_CONVENTION)
    sa.Table(
        "idempotency_keys",
        tables,
        *(sa.Column(name, sa.Text, nullable=False) for name in ("tenant_id", "principal", "method", "key")),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "principal", "method", "key"),
        sa.Index(None, "expire_time"),
    )
    # The trigger on each counted table writes it (ADR 37).
    sa.Table(
        "quota_counts",
        tables,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("live", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "collection", "shard"),
    )
    return tables


def resource_table(name: str, metadata: sa.MetaData, *own: sa.schema.SchemaItem) -> sa.Table:
    """Declares the table of a resource: the standard columns around its ``own``, and the indexes of lists over them."""
    return sa.Table(
        name,
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("labels", JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("state", sa.Text, nullable=False),
        *own,
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("delete_time", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
        *(sa.Index(None, "tenant_id", name, "id") for name in ("create_time", "update_time", "display_name")),
        *(sa.Index(None, "tenant_id", name, "create_time", "id") for name in ("state", "created_by")),
        sa.Index(None, "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    )


def text_bytes(columns: Iterable[sa.ColumnElement[Any]]) -> sa.ColumnElement[int]:
    """Returns how many bytes a row has as texts, or a few more.

    Postgres knows the size of a text without reading it; it has to write out documents and lists. Writing out the other
    columns, too, as `row::text` does, costs more than all of that (docs/performance.md), and they are small.
    """
    columns = list(columns)
    sizes = [
        sa.func.coalesce(
            sa.func.octet_length(one if isinstance(one.type, sa.Text) else sa.cast(one, sa.Text)),
            sa.literal_column("0"),
        )
        for one in columns
        if isinstance(one.type, sa.Text | JSONB | sa.ARRAY)
    ]
    others = (len(columns) - len(sizes)) * _LONGEST_NUMBER
    return sum(sizes, start=sa.literal_column(str(others), sa.Integer))


def fitting(
    rows: sa.FromClause,
    order: Callable[[Any], Sequence[sa.ColumnElement[Any]]],
    max_bytes: int,
    measure: Callable[[Any], sa.ColumnElement[int]] | None = None,
) -> sa.Select[Any]:
    """Selects the first of ``rows`` that are ``max_bytes`` at most, and one at least.

    Postgres measures them one after the other and stops after the first that does not fit (`beyond` is its run
    condition): to write out fifty agents of half a megabyte takes ten times as long as to show the one that fits.
    Each has its `place`, the `total_bytes` up to it, and how many rows were `found`.

    Args:
        order: returns what orders the rows, of columns of their names.
        measure: returns the size of a row, in bytes, of columns of their names; that of its texts by default.
    """
    measure = measure or (lambda of: text_bytes(of[one.name] for one in rows.c))
    counted = sa.select(rows, sa.func.count().over().label("found")).order_by(*order(rows.c)).subquery("counted")
    so_far: dict[str, Any] = {"order_by": order(counted.c), "rows": (None, 0)}
    measured = sa.select(
        counted,
        sa.func.row_number().over(**so_far).label("place"),
        sa.func.sum(measure(counted.c)).over(**so_far).label("total_bytes"),
    ).subquery("measured")
    too_much = sa.case((sa.and_(measured.c.total_bytes > max_bytes, measured.c.place > 1), 1))
    beyond = sa.func.count(too_much).over(order_by=order(measured.c), rows=(None, 0))
    stopped = sa.select(measured, beyond.label("beyond")).subquery("stopped")
    return sa.select(stopped).where(stopped.c.beyond < 1)
