"""Creates service accounts and their API keys."""

from alembic import op

revision = "0002"
down_revision = "0001"

_OWN = "tenant_id = current_setting('app.tenant_id', true)"
_STATEMENTS = (
    """
    CREATE TABLE service_accounts (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        display_name text NOT NULL,
        labels jsonb NOT NULL DEFAULT '{}',
        state text NOT NULL,
        roles text[] NOT NULL DEFAULT '{}',
        create_time timestamptz NOT NULL DEFAULT now(),
        update_time timestamptz NOT NULL DEFAULT now(),
        delete_time timestamptz,
        created_by text NOT NULL,
        version bigint NOT NULL DEFAULT 1,
        CONSTRAINT pk_service_accounts PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX ix_service_accounts_tenant_id_create_time_id ON service_accounts (tenant_id, create_time, id)",
    "CREATE INDEX ix_service_accounts_tenant_id_update_time_id ON service_accounts (tenant_id, update_time, id)",
    "CREATE INDEX ix_service_accounts_tenant_id_display_name_id ON service_accounts (tenant_id, display_name, id)",
    "CREATE INDEX ix_service_accounts_labels ON service_accounts USING gin (labels jsonb_path_ops)",
    "CREATE INDEX ix_service_accounts_roles ON service_accounts USING gin (roles)",
    """
    CREATE TABLE api_keys (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        service_account_id uuid NOT NULL,
        display_name text NOT NULL,
        prefix text NOT NULL,
        key_hash bytea NOT NULL,
        expire_time timestamptz,
        last_used_time timestamptz,
        revoke_time timestamptz,
        create_time timestamptz NOT NULL DEFAULT now(),
        created_by text NOT NULL,
        CONSTRAINT pk_api_keys PRIMARY KEY (tenant_id, id),
        CONSTRAINT fk_api_keys_tenant_id_service_account_id_service_accounts FOREIGN KEY (tenant_id, service_account_id)
            REFERENCES service_accounts (tenant_id, id)
    )
    """,
    "CREATE INDEX ix_api_keys_tenant_id_service_account_id_id ON api_keys (tenant_id, service_account_id, id)",
    "ALTER TABLE service_accounts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY service_accounts_tenant ON service_accounts USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON service_accounts TO users_app",
    "ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY api_keys_tenant ON api_keys USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE ON api_keys TO users_app",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
