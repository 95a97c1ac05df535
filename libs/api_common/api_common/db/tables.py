"""What every table of an aggregate has: named constraints, the standard columns, the walls around a tenant."""

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Integer,
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

NAMING_CONVENTION: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""The constraint's name is the key of a service's error map."""

_LONGEST_NUMBER: Final = 40
"""Bytes of an id, a time or a number as text at most: a UUID has 36."""


def metadata() -> MetaData:
    """Returns the collection of tables of one service."""
    return MetaData(naming_convention=NAMING_CONVENTION)


def resource_table(name: str, metadata: MetaData, *own: SchemaItem) -> Table:
    """Declares the table of a resource: the standard columns of the contract around its ``own``."""
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
    )


def text_bytes(columns: Iterable[ColumnElement[Any]]) -> ColumnElement[int]:
    """Returns how many bytes a row has as texts, or a few more.

    The size of a text Postgres knows without reading it; documents and lists it has to write out. To write the others
    out, too, as `row::text` does, costs more than all of that (docs/performance.md), and they are small.
    """
    columns = list(columns)
    sizes = [
        func.coalesce(func.octet_length(one if isinstance(one.type, Text) else cast(one, Text)), literal_column("0"))
        for one in columns
        if isinstance(one.type, Text | JSONB | ARRAY)
    ]
    others = (len(columns) - len(sizes)) * _LONGEST_NUMBER
    return reduce(add, sizes, literal_column(str(others), Integer))
