"""The tables of recorded changes, which a trigger on each watched table fills (ADR 24)."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

REAPER: Final = "reap"
"""The task that deletes changes that are too old."""
FOLLOWER: Final = "follow"
"""The task that finds which tenants have new changes."""


def change_tables(metadata: MetaData) -> tuple[Table, Table]:
    """Declares the tables of changes and of horizons, of a service with watched resources.

    A change has its own number and that of its transaction. Neither is the order in which changes become visible,
    because transactions commit in another order. A horizon says up to which number a tenant's changes were deleted.
    """
    changes = Table(
        "changes",
        metadata,
        Column("tenant_id", Text, nullable=False),
        Column("seq", BigInteger, Identity(), nullable=False),
        Column("xid", BigInteger, nullable=False),
        Column("collection", Text, nullable=False),
        Column("id", Uuid(as_uuid=False), nullable=False),
        Column("kind", Text, nullable=False),
        Column("after", JSONB, nullable=False),
        Column("before", JSONB),
        Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
        PrimaryKeyConstraint("tenant_id", "seq"),
        # A poll reads the few new changes of all tenants, so the transaction comes first.
        Index(None, "xid", "tenant_id"),
    )
    horizons = Table(
        "change_horizons",
        metadata,
        Column("tenant_id", Text, nullable=False),
        Column("seq", BigInteger, nullable=False),
        Column("xid", BigInteger, nullable=False),
        PrimaryKeyConstraint("tenant_id"),
    )
    return changes, horizons
