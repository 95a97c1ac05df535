"""Where changes are recorded: one table per service, filled by a trigger on each watched table (ADR 24)."""

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
"""The task that learns which tenants have new changes."""


def change_tables(metadata: MetaData) -> tuple[Table, Table]:
    """Declares the table of changes and that of horizons; every service whose resources are watched has them.

    A change has the number of its transaction and its own. Neither alone is an order to follow: transactions commit in
    another one. A horizon is how far the changes of a tenant were deleted.
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
        # What is new is new for all tenants, and little of it; so the tenant comes second.
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
