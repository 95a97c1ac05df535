"""What every table of an aggregate has: named constraints, the standard columns, the walls around a tenant."""

from typing import Final

from sqlalchemy import BigInteger, Column, DateTime, MetaData, PrimaryKeyConstraint, Table, Text, Uuid, func, text
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
