"""Creates users."""

import sqlalchemy as sa
from alembic import op
from api_common.db import create_idempotency_keys, protect_table
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("labels", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("email_folded", sa.Text, sa.Computed("lower(email)", persisted=True), nullable=False),
        sa.Column("roles", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("delete_time", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    op.create_index(
        "uq_users_tenant_id_email_folded",
        "users",
        ["tenant_id", "email_folded"],
        unique=True,
        postgresql_where=sa.text("delete_time IS NULL"),
    )
    op.create_index(None, "users", ["tenant_id", "create_time", "id"])
    op.create_index(None, "users", ["tenant_id", "update_time", "id"])
    op.create_index(None, "users", ["tenant_id", "display_name", "id"])
    op.create_index(None, "users", ["tenant_id", "email", "id"])
    op.create_index(None, "users", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})
    op.create_index(None, "users", ["roles"], postgresql_using="gin")
    protect_table("users", application_role="users_app")
    create_idempotency_keys(application_role="users_app")
