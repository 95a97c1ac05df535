"""The tables of this service; `migrations/` creates them."""

from api_common.idempotency import idempotency_table
from api_common.tables import metadata, resource_table
from sqlalchemy import Column, Index, Integer, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

METADATA = metadata()

ipas = resource_table(
    "ipas",
    METADATA,
    Column("description", Text, nullable=False, server_default=text("''")),
    # NULL until a workflow is chosen. It lives in another service's database, so no foreign key guards it.
    Column("workflow_id", Uuid(as_uuid=False)),
    Column("workflow_revision", Integer, nullable=False, server_default=text("0")),
    Column("agent_bindings", JSONB, nullable=False, server_default=text("'{}'")),
    Column("variables", JSONB),
)
Index(None, ipas.c.tenant_id, ipas.c.create_time, ipas.c.id)
Index(None, ipas.c.tenant_id, ipas.c.update_time, ipas.c.id)
Index(None, ipas.c.tenant_id, ipas.c.display_name, ipas.c.id)
Index(None, ipas.c.tenant_id, ipas.c.workflow_id)
Index(None, ipas.c.tenant_id, ipas.c.state, ipas.c.create_time, ipas.c.id)
Index(None, ipas.c.tenant_id, ipas.c.workflow_revision, ipas.c.create_time, ipas.c.id)
Index(None, ipas.c.tenant_id, ipas.c.created_by, ipas.c.create_time, ipas.c.id)
Index(None, ipas.c.labels, postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})

idempotency_keys = idempotency_table(METADATA)
