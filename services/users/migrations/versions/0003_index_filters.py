"""Indexes every field that lists filter by; e-mail addresses are ordered without case (ADR 20)."""

from alembic import op

revision = "0003"
down_revision = "0002"

_STATEMENTS = (
    "DROP INDEX ix_users_tenant_id_email_id",
    "CREATE INDEX ix_users_tenant_id_email_folded_id ON users (tenant_id, email_folded, id)",
    "CREATE INDEX ix_users_tenant_id_state_create_time_id ON users (tenant_id, state, create_time, id)",
    "CREATE INDEX ix_users_tenant_id_created_by_create_time_id ON users (tenant_id, created_by, create_time, id)",
    """
    CREATE INDEX ix_service_accounts_tenant_id_state_create_time_id
        ON service_accounts (tenant_id, state, create_time, id)
    """,
    """
    CREATE INDEX ix_service_accounts_tenant_id_created_by_create_time_id
        ON service_accounts (tenant_id, created_by, create_time, id)
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
