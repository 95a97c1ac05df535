"""Creates workflows and their revisions."""

import sqlalchemy as sa
from alembic import op
from api_common.db import create_idempotency_keys, protect_table
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "workflows",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("labels", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("definition", postgresql.JSONB),
        sa.Column("revision", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("delete_time", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    op.create_index(None, "workflows", ["tenant_id", "create_time", "id"])
    op.create_index(None, "workflows", ["tenant_id", "update_time", "id"])
    op.create_index(None, "workflows", ["tenant_id", "display_name", "id"])
    op.create_index(None, "workflows", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})
    op.create_table(
        "workflow_revisions",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("workflow_id", sa.Uuid, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("definition", postgresql.JSONB, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "workflow_id", "revision"),
        sa.ForeignKeyConstraint(["tenant_id", "workflow_id"], ["workflows.tenant_id", "workflows.id"]),
    )
    protect_table("workflows", application_role="workflows_app")
    protect_table("workflow_revisions", application_role="workflows_app", rights="SELECT, INSERT")
    create_idempotency_keys(application_role="workflows_app")
