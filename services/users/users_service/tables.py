"""The tables of this service; `migrations/` creates them."""

from typing import Final

import sqlalchemy as sa
from api_common.db import metadata, resource_table
from api_common.watch import change_tables

METADATA = metadata()

ROLES: Final = ("viewer", "editor", "operator", "admin")
"""The roles of the contract; each has an index."""


def _index_roles(table: sa.Table) -> None:
    columns = table.c
    for role in ROLES:
        name = f"ix_{table.name}_{role}s"
        has_role = sa.text(f"roles @> '{{{role}}}'")
        sa.Index(name, columns.tenant_id, columns.create_time, columns.id, postgresql_where=has_role)


users = resource_table(
    "users",
    METADATA,
    sa.Column("email", sa.Text, nullable=False),
    # Comparing without case needs a stored column: row-level security keeps an index over lower(email) from being used.
    sa.Column("email_folded", sa.Text, sa.Computed("lower(email)", persisted=True), nullable=False),
    sa.Column("roles", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
)
_live = users.c.delete_time.is_(None)
sa.Index(
    "uq_users_tenant_id_email_folded", users.c.tenant_id, users.c.email_folded, unique=True, postgresql_where=_live
)
sa.Index(None, users.c.tenant_id, users.c.email_folded, users.c.id)
_index_roles(users)

service_accounts = resource_table(
    "service_accounts", METADATA, sa.Column("roles", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'"))
)
_index_roles(service_accounts)

# Never the key itself: stolen rows open nothing (ADR 14). The application role may not delete them.
api_keys = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("tenant_id", sa.Text, nullable=False),
    sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
    sa.Column("service_account_id", sa.Uuid(as_uuid=False), nullable=False),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("key_hash", sa.LargeBinary, nullable=False),
    sa.Column("expire_time", sa.DateTime(timezone=True)),
    sa.Column("last_used_time", sa.DateTime(timezone=True)),
    sa.Column("revoke_time", sa.DateTime(timezone=True)),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("replace_time", sa.DateTime(timezone=True)),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    sa.ForeignKeyConstraint(["tenant_id", "service_account_id"], [service_accounts.c.tenant_id, service_accounts.c.id]),
)
sa.Index(None, api_keys.c.tenant_id, api_keys.c.service_account_id, api_keys.c.id)

changes, change_horizons = change_tables(METADATA)
