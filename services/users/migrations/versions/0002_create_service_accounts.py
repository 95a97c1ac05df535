"""Creates service accounts and their API keys."""

import sqlalchemy as sa
from alembic import op
from api_common.db import protect_table
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "service_accounts",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("labels", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("roles", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("delete_time", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    op.create_index(None, "service_accounts", ["tenant_id", "create_time", "id"])
    op.create_index(None, "service_accounts", ["tenant_id", "update_time", "id"])
    op.create_index(None, "service_accounts", ["tenant_id", "display_name", "id"])
    op.create_index(
        None, "service_accounts", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}
    )
    op.create_index(None, "service_accounts", ["roles"], postgresql_using="gin")
    op.create_table(
        "api_keys",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("service_account_id", sa.Uuid, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("key_hash", sa.LargeBinary, nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True)),
        sa.Column("last_used_time", sa.DateTime(timezone=True)),
        sa.Column("revoke_time", sa.DateTime(timezone=True)),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "service_account_id"], ["service_accounts.tenant_id", "service_accounts.id"]
        ),
    )
    op.create_index(None, "api_keys", ["tenant_id", "service_account_id", "id"])
    protect_table("service_accounts", application_role="users_app")
    protect_table("api_keys", application_role="users_app", rights="SELECT, INSERT, UPDATE")
