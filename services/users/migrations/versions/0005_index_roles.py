"""Indexes each role by itself: Postgres estimates too badly what arrays hold to use GIN well (ADR 20)."""

from alembic import op

revision = "0005"
down_revision = "0004"

_STATEMENTS = (
    "DROP INDEX ix_users_roles",
    "CREATE INDEX ix_users_viewers ON users (tenant_id, create_time, id) WHERE roles @> '{viewer}'",
    "CREATE INDEX ix_users_editors ON users (tenant_id, create_time, id) WHERE roles @> '{editor}'",
    "CREATE INDEX ix_users_operators ON users (tenant_id, create_time, id) WHERE roles @> '{operator}'",
    "CREATE INDEX ix_users_admins ON users (tenant_id, create_time, id) WHERE roles @> '{admin}'",
    "DROP INDEX ix_service_accounts_roles",
    """
    CREATE INDEX ix_service_accounts_viewers
        ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{viewer}'
    """,
    """
    CREATE INDEX ix_service_accounts_editors
        ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{editor}'
    """,
    """
    CREATE INDEX ix_service_accounts_operators
        ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{operator}'
    """,
    "CREATE INDEX ix_service_accounts_admins ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{admin}'",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
