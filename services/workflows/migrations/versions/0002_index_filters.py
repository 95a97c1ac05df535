"""Indexes every field that lists filter by (ADR 20)."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index(None, "workflows", ["tenant_id", "state", "create_time", "id"])
    op.create_index(None, "workflows", ["tenant_id", "revision", "create_time", "id"])
    op.create_index(None, "workflows", ["tenant_id", "created_by", "create_time", "id"])
