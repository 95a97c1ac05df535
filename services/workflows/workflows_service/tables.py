"""The tables of this service; `migrations/` creates them."""

import sqlalchemy as sa
from api_common.db import metadata, resource_table
from api_common.reservations import reservation_tables
from api_common.watch import change_tables
from sqlalchemy.dialects.postgresql import JSONB

METADATA = metadata()

workflows = resource_table(
    "workflows",
    METADATA,
    sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("definition", JSONB),
    sa.Column("revision", sa.Integer, nullable=False, server_default=sa.text("0")),
)
sa.Index(None, workflows.c.tenant_id, workflows.c.revision, workflows.c.create_time, workflows.c.id)

# Snapshots: the application role may not change or delete them.
workflow_revisions = sa.Table(
    "workflow_revisions",
    METADATA,
    sa.Column("tenant_id", sa.Text, nullable=False),
    sa.Column("workflow_id", sa.Uuid(as_uuid=False), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("definition", JSONB, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "workflow_id", "revision"),
    sa.ForeignKeyConstraint(["tenant_id", "workflow_id"], [workflows.c.tenant_id, workflows.c.id]),
)

reservations = reservation_tables(METADATA)
changes, change_horizons = change_tables(METADATA)
