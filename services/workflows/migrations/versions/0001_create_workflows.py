"""Creates workflows and their revisions."""

from alembic import op

revision = "0001"
down_revision = None

_OWN = "tenant_id = current_setting('app.tenant_id', true)"
_STATEMENTS = (
    """
    CREATE TABLE workflows (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        display_name text NOT NULL,
        labels jsonb NOT NULL DEFAULT '{}',
        state text NOT NULL,
        description text NOT NULL DEFAULT '',
        definition jsonb,
        revision integer NOT NULL DEFAULT 0,
        create_time timestamptz NOT NULL DEFAULT now(),
        update_time timestamptz NOT NULL DEFAULT now(),
        delete_time timestamptz,
        created_by text NOT NULL,
        version bigint NOT NULL DEFAULT 1,
        CONSTRAINT pk_workflows PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX ix_workflows_tenant_id_create_time_id ON workflows (tenant_id, create_time, id)",
    "CREATE INDEX ix_workflows_tenant_id_update_time_id ON workflows (tenant_id, update_time, id)",
    "CREATE INDEX ix_workflows_tenant_id_display_name_id ON workflows (tenant_id, display_name, id)",
    "CREATE INDEX ix_workflows_labels ON workflows USING gin (labels jsonb_path_ops)",
    """
    CREATE TABLE workflow_revisions (
        tenant_id text NOT NULL,
        workflow_id uuid NOT NULL,
        revision integer NOT NULL,
        definition jsonb NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(),
        created_by text NOT NULL,
        CONSTRAINT pk_workflow_revisions PRIMARY KEY (tenant_id, workflow_id, revision),
        CONSTRAINT fk_workflow_revisions_tenant_id_workflow_id_workflows FOREIGN KEY (tenant_id, workflow_id)
            REFERENCES workflows (tenant_id, id)
    )
    """,
    "ALTER TABLE workflows ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY workflows_tenant ON workflows USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON workflows TO workflows_app",
    "GRANT SELECT ON alembic_version TO workflows_app",
    "ALTER TABLE workflow_revisions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY workflow_revisions_tenant ON workflow_revisions USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT ON workflow_revisions TO workflows_app",
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
    "GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO workflows_app",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
