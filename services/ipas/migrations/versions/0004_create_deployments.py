"""Creates deployments and the sagas that carry them out."""

import sqlalchemy as sa
from alembic import op
from api_common.db import create_sagas, protect_table
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("ipas", sa.Column("deployment_id", sa.Uuid))
    op.create_table(
        "deployments",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("ipa_id", sa.Uuid, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("workflow_id", sa.Uuid, nullable=False),
        sa.Column("workflow_revision", sa.Integer, nullable=False),
        sa.Column("agent_bindings", postgresql.JSONB, nullable=False),
        sa.Column("variables", postgresql.JSONB),
        sa.Column("steps", postgresql.JSONB, nullable=False),
        sa.Column("retire_steps", postgresql.JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
        sa.ForeignKeyConstraint(["tenant_id", "ipa_id"], ["ipas.tenant_id", "ipas.id"]),
    )
    op.create_index(None, "deployments", ["tenant_id", "ipa_id", "create_time", "id"])
    protect_table("deployments", application_role="ipas_app", rights="SELECT, INSERT, UPDATE")
    create_sagas(application_role="ipas_app")
