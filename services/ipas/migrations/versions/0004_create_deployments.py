"""Creates deployments and the sagas that carry them out (ADR 26)."""

from alembic import op

revision = "0004"
down_revision = "0003"

_OWN = "tenant_id = current_setting('app.tenant_id', true)"
_TASK = "current_setting('app.task', true)"
_STATEMENTS = (
    "ALTER TABLE ipas ADD COLUMN deployment_id uuid",
    """
    CREATE TABLE deployments (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        ipa_id uuid NOT NULL,
        state text NOT NULL,
        workflow_id uuid NOT NULL,
        workflow_revision integer NOT NULL,
        agent_bindings jsonb NOT NULL,
        variables jsonb,
        steps jsonb NOT NULL,
        retire_steps jsonb NOT NULL DEFAULT '[]',
        create_time timestamptz NOT NULL DEFAULT now(),
        update_time timestamptz NOT NULL DEFAULT now(),
        created_by text NOT NULL,
        version bigint NOT NULL DEFAULT 1,
        CONSTRAINT pk_deployments PRIMARY KEY (tenant_id, id),
        CONSTRAINT fk_deployments_tenant_id_ipa_id_ipas FOREIGN KEY (tenant_id, ipa_id) REFERENCES ipas (tenant_id, id)
    )
    """,
    "CREATE INDEX ix_deployments_tenant_id_ipa_id_create_time_id ON deployments (tenant_id, ipa_id, create_time, id)",
    "ALTER TABLE deployments ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY deployments_tenant ON deployments USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE ON deployments TO ipas_app",
    "CREATE SEQUENCE saga_fencing_tokens",
    "GRANT USAGE ON SEQUENCE saga_fencing_tokens TO ipas_app",
    """
    CREATE TABLE sagas (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        kind text NOT NULL,
        subject text NOT NULL,
        state text NOT NULL,
        steps jsonb NOT NULL,
        data jsonb NOT NULL,
        fencing_token bigint NOT NULL DEFAULT 0,
        due_time timestamptz,
        create_time timestamptz NOT NULL DEFAULT now(),
        update_time timestamptz NOT NULL DEFAULT now(),
        end_time timestamptz,
        CONSTRAINT pk_sagas PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX ix_sagas_due_time ON sagas (due_time) WHERE end_time IS NULL",
    "ALTER TABLE sagas ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY sagas_tenant ON sagas USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE ON sagas TO ipas_app",
    f"CREATE POLICY sagas_work ON sagas USING ({_TASK} = 'work' AND end_time IS NULL) WITH CHECK (false)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
