"""Indexes every field that lists filter by; e-mail addresses are ordered without case (ADR 20)."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("ix_users_tenant_id_email_id", "users")
    op.create_index(None, "users", ["tenant_id", "email_folded", "id"])
    for table in ("users", "service_accounts"):
        op.create_index(None, table, ["tenant_id", "state", "create_time", "id"])
        op.create_index(None, table, ["tenant_id", "created_by", "create_time", "id"])
