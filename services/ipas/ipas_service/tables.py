"""The tables of this service; `migrations/` creates them."""

import sqlalchemy as sa
from api_common.db import metadata, resource_table
from api_common.sagas import saga_table
from api_common.watch import change_tables
from sqlalchemy.dialects.postgresql import JSONB

METADATA = metadata()

ipas = resource_table(
    "ipas",
    METADATA,
    sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
    # NULL until a workflow is chosen. The workflow is in another service's database, so no foreign key guards it.
    sa.Column("workflow_id", sa.Uuid(as_uuid=False)),
    sa.Column("workflow_revision", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("agent_bindings", JSONB, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("variables", JSONB),
    sa.Column("deployment_id", sa.Uuid(as_uuid=False)),
)
sa.Index(None, ipas.c.tenant_id, ipas.c.workflow_id)
sa.Index(None, ipas.c.tenant_id, ipas.c.workflow_revision, ipas.c.create_time, ipas.c.id)

deployments = sa.Table(
    "deployments",
    METADATA,
    sa.Column("tenant_id", sa.Text, nullable=False),
    sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
    sa.Column("ipa_id", sa.Uuid(as_uuid=False), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("workflow_id", sa.Uuid(as_uuid=False), nullable=False),
    sa.Column("workflow_revision", sa.Integer, nullable=False),
    sa.Column("agent_bindings", JSONB, nullable=False),
    sa.Column("variables", JSONB),
    # A copy of what the sagas store, so that one row shows a whole deployment to readers and watchers.
    sa.Column("steps", JSONB, nullable=False),
    sa.Column("retire_steps", JSONB, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("deadline_time", sa.DateTime(timezone=True)),
    sa.Column("next_attempt_time", sa.DateTime(timezone=True)),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    sa.ForeignKeyConstraint(["tenant_id", "ipa_id"], [ipas.c.tenant_id, ipas.c.id]),
)
sa.Index(None, deployments.c.tenant_id, deployments.c.ipa_id, deployments.c.create_time, deployments.c.id)

sagas = saga_table(METADATA)

changes, change_horizons = change_tables(METADATA)
