"""The tables of this service; `migrations/` creates them."""

from api_common.db import metadata, resource_table
from api_common.sagas import saga_table
from api_common.watch import change_tables
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

METADATA = metadata()

ipas = resource_table(
    "ipas",
    METADATA,
    Column("description", Text, nullable=False, server_default=text("''")),
    # NULL until a workflow is chosen. The workflow is in another service's database, so no foreign key guards it.
    Column("workflow_id", Uuid(as_uuid=False)),
    Column("workflow_revision", Integer, nullable=False, server_default=text("0")),
    Column("agent_bindings", JSONB, nullable=False, server_default=text("'{}'")),
    Column("variables", JSONB),
    Column("deployment_id", Uuid(as_uuid=False)),
)
Index(None, ipas.c.tenant_id, ipas.c.workflow_id)
Index(None, ipas.c.tenant_id, ipas.c.workflow_revision, ipas.c.create_time, ipas.c.id)

deployments = Table(
    "deployments",
    METADATA,
    Column("tenant_id", Text, nullable=False),
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("ipa_id", Uuid(as_uuid=False), nullable=False),
    Column("state", Text, nullable=False),
    Column("workflow_id", Uuid(as_uuid=False), nullable=False),
    Column("workflow_revision", Integer, nullable=False),
    Column("agent_bindings", JSONB, nullable=False),
    Column("variables", JSONB),
    # A copy of what the sagas store, so that one row shows a whole deployment to readers and watchers.
    Column("steps", JSONB, nullable=False),
    Column("retire_steps", JSONB, nullable=False, server_default=text("'[]'")),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("created_by", Text, nullable=False),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("tenant_id", "id"),
    ForeignKeyConstraint(["tenant_id", "ipa_id"], [ipas.c.tenant_id, ipas.c.id]),
)
Index(None, deployments.c.tenant_id, deployments.c.ipa_id, deployments.c.create_time, deployments.c.id)

sagas = saga_table(METADATA)

changes, change_horizons = change_tables(METADATA)
