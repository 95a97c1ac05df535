"""Creates users."""

from alembic import op

revision = "0001"
down_revision = None

_OWN = "tenant_id = current_setting('app.tenant_id', true)"
_STATEMENTS = (
    """
    CREATE TABLE users (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        display_name text NOT NULL,
        labels jsonb NOT NULL DEFAULT '{}',
        state text NOT NULL,
        email text NOT NULL,
        email_folded text GENERATED ALWAYS AS (lower(email)) STORED NOT NULL,
        roles text[] NOT NULL DEFAULT '{}',
        create_time timestamptz NOT NULL DEFAULT now(),
        update_time timestamptz NOT NULL DEFAULT now(),
        delete_time timestamptz,
        created_by text NOT NULL,
        version bigint NOT NULL DEFAULT 1,
        CONSTRAINT pk_users PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE UNIQUE INDEX uq_users_tenant_id_email_folded ON users (tenant_id, email_folded) WHERE delete_time IS NULL",
    "CREATE INDEX ix_users_tenant_id_create_time_id ON users (tenant_id, create_time, id)",
    "CREATE INDEX ix_users_tenant_id_update_time_id ON users (tenant_id, update_time, id)",
    "CREATE INDEX ix_users_tenant_id_display_name_id ON users (tenant_id, display_name, id)",
    "CREATE INDEX ix_users_tenant_id_email_id ON users (tenant_id, email, id)",
    "CREATE INDEX ix_users_labels ON users USING gin (labels jsonb_path_ops)",
    "CREATE INDEX ix_users_roles ON users USING gin (roles)",
    "ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY users_tenant ON users USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON users TO users_app",
    "GRANT SELECT ON alembic_version TO users_app",
    """
    CREATE TABLE idempotency_keys (
        tenant_id text NOT NULL,
        principal text NOT NULL,
        method text NOT NULL,
        key text NOT NULL,
        request_hash bytea NOT NULL,
        response bytea,
        expire_time timestamptz NOT NULL,
        CONSTRAINT pk_idempotency_keys PRIMARY KEY (tenant_id, principal, method, key)
    )
    """,
    "CREATE INDEX ix_idempotency_keys_expire_time ON idempotency_keys (expire_time)",
    "ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY idempotency_keys_tenant ON idempotency_keys USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO users_app",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
