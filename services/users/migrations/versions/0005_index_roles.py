"""Indexes who has a role, for each role: Postgres knows too little of what lists hold to choose GIN well (ADR 20)."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for table in ("users", "service_accounts"):
        op.drop_index(f"ix_{table}_roles", table)
        for role in ("viewer", "editor", "operator", "admin"):
            has_role = sa.text(f"roles @> '{{{role}}}'")
            columns = ["tenant_id", "create_time", "id"]
            op.create_index(f"ix_{table}_{role}s", table, columns, postgresql_where=has_role)
