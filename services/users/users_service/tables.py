"""The tables of this service; `migrations/` creates them."""

from typing import Final

from api_common.db import metadata, resource_table
from api_common.watch import change_tables
from sqlalchemy import (
    ARRAY,
    Column,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)

METADATA = metadata()

ROLES: Final = ("viewer", "editor", "operator", "admin")
"""The roles of the contract; each has an index."""


def _index_roles(table: Table) -> None:
    columns = table.c
    for role in ROLES:
        name = f"ix_{table.name}_{role}s"
        has_role = text(f"roles @> '{{{role}}}'")
        Index(name, columns.tenant_id, columns.create_time, columns.id, postgresql_where=has_role)


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
Index(None, users.c.tenant_id, users.c.email_folded, users.c.id)
_index_roles(users)

service_accounts = resource_table(
    "service_accounts", METADATA, Column("roles", ARRAY(Text), nullable=False, server_default=text("'{}'"))
)
_index_roles(service_accounts)

# Never the key itself: stolen rows open nothing (ADR 14). The application role may not delete them.
api_keys = Table(
    "api_keys",
    METADATA,
    Column("tenant_id", Text, nullable=False),
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("service_account_id", Uuid(as_uuid=False), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("expire_time", DateTime(timezone=True)),
    Column("last_used_time", DateTime(timezone=True)),
    Column("revoke_time", DateTime(timezone=True)),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("created_by", Text, nullable=False),
    Column("replace_time", DateTime(timezone=True)),
    PrimaryKeyConstraint("tenant_id", "id"),
    ForeignKeyConstraint(["tenant_id", "service_account_id"], [service_accounts.c.tenant_id, service_accounts.c.id]),
)
Index(None, api_keys.c.tenant_id, api_keys.c.service_account_id, api_keys.c.id)

changes, change_horizons = change_tables(METADATA)
