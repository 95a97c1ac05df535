"""The tables of recorded changes, which a trigger on each watched table fills (ADR 24)."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

REAPER: Final = "reap"
"""The task that deletes changes that are too old."""
FOLLOWER: Final = "follow"
"""The task that finds which tenants have new changes."""


def change_tables(metadata: sa.MetaData, changes: str = "recorded_changes") -> tuple[sa.Table, sa.Table]:
    """Declares the tables of changes and of horizons, of a service with watched resources.

    A change has its own number and that of its transaction. Neither is the order in which changes become visible,
    because transactions commit in another order. A horizon says up to which number a tenant's changes were deleted.

    Args:
        changes: the table, or the view of it that queries use: `changes` hides the rows of other tenants from tasks.
    """
    recorded = sa.Table(
        changes,
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("xid", sa.BigInteger, nullable=False),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("after", JSONB, nullable=False),
        sa.Column("before", JSONB),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("tenant_id", "seq"),
        # A poll reads the few new changes of all tenants, so the transaction comes first.
        sa.Index(None, "xid", "tenant_id"),
    )
    horizons = sa.Table(
        "change_horizons",
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("xid", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    return recorded, horizons
