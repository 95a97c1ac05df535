"""Creates agents."""

import sqlalchemy as sa
from alembic import op
from api_common.db import create_idempotency_keys, protect_table
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("labels", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("instructions", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("tools", postgresql.JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("parameters", postgresql.JSONB),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("delete_time", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    op.create_index(None, "agents", ["tenant_id", "create_time", "id"])
    op.create_index(None, "agents", ["tenant_id", "update_time", "id"])
    op.create_index(None, "agents", ["tenant_id", "display_name", "id"])
    op.create_index(None, "agents", ["tenant_id", "model", "id"])
    op.create_index(None, "agents", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})
    protect_table("agents", application_role="agents_app")
    create_idempotency_keys(application_role="agents_app")
