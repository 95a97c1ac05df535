"""The tables of this service; `migrations/` creates them."""

from api_common.idempotency import idempotency_table
from api_common.tables import metadata, resource_table
from sqlalchemy import ARRAY, Column, Computed, Index, Text, text

METADATA = metadata()

users = resource_table(
    "users",
    METADATA,
    Column("email", Text, nullable=False),
    # Comparing without case needs a stored column: row-level security keeps an index over lower(email) from being used.
    Column("email_folded", Text, Computed("lower(email)", persisted=True), nullable=False),
    Column("roles", ARRAY(Text), nullable=False, server_default=text("'{}'")),
)
_live = users.c.delete_time.is_(None)
Index("uq_users_tenant_id_email_folded", users.c.tenant_id, users.c.email_folded, unique=True, postgresql_where=_live)
Index(None, users.c.tenant_id, users.c.create_time, users.c.id)
Index(None, users.c.tenant_id, users.c.update_time, users.c.id)
Index(None, users.c.tenant_id, users.c.display_name, users.c.id)
Index(None, users.c.tenant_id, users.c.email, users.c.id)
Index(None, users.c.labels, postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})
Index(None, users.c.roles, postgresql_using="gin")

idempotency_keys = idempotency_table(METADATA)
