"""Creates ipas."""

from alembic import op

revision = "0001"
down_revision = None

_OWN = "tenant_id = current_setting('app.tenant_id', true)"
_STATEMENTS = (
    """
    CREATE TABLE ipas (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        display_name text NOT NULL,
        labels jsonb NOT NULL DEFAULT '{}',
        state text NOT NULL,
        description text NOT NULL DEFAULT '',
        workflow_id uuid,
        workflow_revision integer NOT NULL DEFAULT 0,
        agent_bindings jsonb NOT NULL DEFAULT '{}',
        variables jsonb,
        create_time timestamptz NOT NULL DEFAULT now(),
        update_time timestamptz NOT NULL DEFAULT now(),
        delete_time timestamptz,
        created_by text NOT NULL,
        version bigint NOT NULL DEFAULT 1,
        CONSTRAINT pk_ipas PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX ix_ipas_tenant_id_create_time_id ON ipas (tenant_id, create_time, id)",
    "CREATE INDEX ix_ipas_tenant_id_update_time_id ON ipas (tenant_id, update_time, id)",
    "CREATE INDEX ix_ipas_tenant_id_display_name_id ON ipas (tenant_id, display_name, id)",
    "CREATE INDEX ix_ipas_tenant_id_workflow_id ON ipas (tenant_id, workflow_id)",
    "CREATE INDEX ix_ipas_labels ON ipas USING gin (labels jsonb_path_ops)",
    "ALTER TABLE ipas ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY ipas_tenant ON ipas USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ipas TO ipas_app",
    "GRANT SELECT ON alembic_version TO ipas_app",
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
    "GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO ipas_app",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
