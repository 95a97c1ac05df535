"""Tables: named constraints, the tables that every service has, the standard columns of a resource."""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    cast,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem

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


def metadata() -> MetaData:
    """Returns the tables of a service: at first those that every service has."""
    tables = MetaData(naming_convention=_NAMING_CONVENTION)
    Table(
        "idempotency_keys",
        tables,
        Column("tenant_id", Text, nullable=False),
        Column("principal", Text, nullable=False),
        Column("method", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("request_hash", LargeBinary, nullable=False),
        Column("response", LargeBinary),
        Column("expire_time", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("tenant_id", "principal", "method", "key"),
        Index(None, "expire_time"),
    )
    # The trigger on each counted table writes it (ADR 37).
    Table(
        "quota_counts",
        tables,
        Column("tenant_id", Text, nullable=False),
        Column("collection", Text, nullable=False),
        Column("shard", Integer, nullable=False),
        Column("live", BigInteger, nullable=False),
        PrimaryKeyConstraint("tenant_id", "collection", "shard"),
    )
    return tables


def resource_table(name: str, metadata: MetaData, *own: SchemaItem) -> Table:
    """Declares the table of a resource: the standard columns around its ``own``, and the indexes of lists over them."""
    return Table(
        name,
        metadata,
        Column("tenant_id", Text, nullable=False),
        Column("id", Uuid(as_uuid=False), nullable=False),
        Column("display_name", Text, nullable=False),
        Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
        Column("state", Text, nullable=False),
        *own,
        Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("delete_time", DateTime(timezone=True)),
        Column("created_by", Text, nullable=False),
        Column("version", BigInteger, nullable=False, server_default=text("1")),
        PrimaryKeyConstraint("tenant_id", "id"),
        *(Index(None, "tenant_id", name, "id") for name in ("create_time", "update_time", "display_name")),
        *(Index(None, "tenant_id", name, "create_time", "id") for name in ("state", "created_by")),
        Index(None, "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    )


def text_bytes(columns: Iterable[ColumnElement[Any]]) -> ColumnElement[int]:
    """Returns how many bytes a row has as texts, or a few more.

    Postgres knows the size of a text without reading it; it has to write out documents and lists. Writing out the other
    columns, too, as `row::text` does, costs more than all of that (docs/performance.md), and they are small.
    """
    columns = list(columns)
    sizes = [
        func.coalesce(func.octet_length(one if isinstance(one.type, Text) else cast(one, Text)), literal_column("0"))
        for one in columns
        if isinstance(one.type, Text | JSONB | ARRAY)
    ]
    others = (len(columns) - len(sizes)) * _LONGEST_NUMBER
    return sum(sizes, start=literal_column(str(others), Integer))
