"""Indexes every field that lists filter by (ADR 20)."""

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    "CREATE INDEX ix_ipas_tenant_id_state_create_time_id ON ipas (tenant_id, state, create_time, id)",
    """
    CREATE INDEX ix_ipas_tenant_id_workflow_revision_create_time_id
        ON ipas (tenant_id, workflow_revision, create_time, id)
    """,
    "CREATE INDEX ix_ipas_tenant_id_created_by_create_time_id ON ipas (tenant_id, created_by, create_time, id)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
