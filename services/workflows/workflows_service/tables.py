"""The tables of this service; `migrations/` creates them."""

from api_common.db import metadata, resource_table
from api_common.reservations import reservation_tables
from api_common.watch import change_tables
from sqlalchemy import (
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

METADATA = metadata()

workflows = resource_table(
    "workflows",
    METADATA,
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("definition", JSONB),
    Column("revision", Integer, nullable=False, server_default=text("0")),
)
Index(None, workflows.c.tenant_id, workflows.c.revision, workflows.c.create_time, workflows.c.id)

# Snapshots: the application role may not change or delete them.
workflow_revisions = Table(
    "workflow_revisions",
    METADATA,
    Column("tenant_id", Text, nullable=False),
    Column("workflow_id", Uuid(as_uuid=False), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("definition", JSONB, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("created_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "workflow_id", "revision"),
    ForeignKeyConstraint(["tenant_id", "workflow_id"], [workflows.c.tenant_id, workflows.c.id]),
)

reservations = reservation_tables(METADATA)
changes, change_horizons = change_tables(METADATA)
