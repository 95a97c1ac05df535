"""The first released schema: IPAs, their deployments, and the sagas that carry those out."""

from alembic import op

revision = "0006"
down_revision = None

_OWN = "tenant_id = current_setting('app.tenant_id', true)"
_TASK = "current_setting('app.task', true)"
# A soft-deleted row does not exist for a watch. `before` holds only what differs from `after`.
_RECORD_CHANGE = """
CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    one record := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    now_is jsonb := to_jsonb(one);
    was_is jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    is_live boolean := TG_OP <> 'DELETE' AND now_is ->> 'delete_time' IS NULL;
    was_live boolean := TG_OP <> 'INSERT' AND was_is ->> 'delete_time' IS NULL;
    was jsonb;
BEGIN
    IF NOT is_live AND NOT was_live THEN
        RETURN NULL;
    END IF;
    IF was_live THEN
        SELECT jsonb_object_agg(key, value) INTO was
            FROM jsonb_each(was_is) WHERE value IS DISTINCT FROM now_is -> key;
    END IF;
    INSERT INTO changes (tenant_id, xid, collection, id, kind, after, before) VALUES (
        one.tenant_id, pg_current_xact_id()::text::bigint, TG_TABLE_NAME, one.id,
        CASE WHEN NOT was_live THEN 'created' WHEN is_live THEN 'updated' ELSE 'deleted' END, now_is, was
    );
    RETURN NULL;
END
$$
"""
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
        deployment_id uuid,
        CONSTRAINT pk_ipas PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX ix_ipas_tenant_id_create_time_id ON ipas (tenant_id, create_time, id)",
    "CREATE INDEX ix_ipas_tenant_id_update_time_id ON ipas (tenant_id, update_time, id)",
    "CREATE INDEX ix_ipas_tenant_id_display_name_id ON ipas (tenant_id, display_name, id)",
    "CREATE INDEX ix_ipas_tenant_id_workflow_id ON ipas (tenant_id, workflow_id)",
    "CREATE INDEX ix_ipas_labels ON ipas USING gin (labels jsonb_path_ops)",
    "CREATE INDEX ix_ipas_tenant_id_state_create_time_id ON ipas (tenant_id, state, create_time, id)",
    """
    CREATE INDEX ix_ipas_tenant_id_workflow_revision_create_time_id
        ON ipas (tenant_id, workflow_revision, create_time, id)
    """,
    "CREATE INDEX ix_ipas_tenant_id_created_by_create_time_id ON ipas (tenant_id, created_by, create_time, id)",
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
    "CREATE SEQUENCE saga_fencing_tokens",
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
    f"CREATE POLICY sagas_work ON sagas USING ({_TASK} = 'work' AND end_time IS NULL) WITH CHECK (false)",
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
    f"""
    CREATE POLICY idempotency_keys_reap ON idempotency_keys
        USING ({_TASK} = 'reap' AND expire_time <= now()) WITH CHECK (false)
    """,
    """
    CREATE TABLE changes (
        tenant_id text NOT NULL,
        seq bigint GENERATED BY DEFAULT AS IDENTITY,
        xid bigint NOT NULL,
        collection text NOT NULL,
        id uuid NOT NULL,
        kind text NOT NULL,
        after jsonb NOT NULL,
        before jsonb,
        create_time timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_changes PRIMARY KEY (tenant_id, seq)
    )
    """,
    "CREATE INDEX ix_changes_xid_tenant_id ON changes (xid, tenant_id)",
    f"CREATE POLICY changes_reap ON changes USING ({_TASK} = 'reap' AND true) WITH CHECK (false)",
    f"CREATE POLICY changes_follow ON changes USING ({_TASK} = 'follow' AND true) WITH CHECK (false)",
    """
    CREATE TABLE change_horizons (
        tenant_id text NOT NULL,
        seq bigint NOT NULL,
        xid bigint NOT NULL,
        CONSTRAINT pk_change_horizons PRIMARY KEY (tenant_id)
    )
    """,
    f"CREATE POLICY change_horizons_reap ON change_horizons USING ({_TASK} = 'reap') WITH CHECK ({_TASK} = 'reap')",
    _RECORD_CHANGE,
    """
    CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE
        ON ipas FOR EACH ROW EXECUTE FUNCTION record_change()
    """,
    """
    CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE
        ON deployments FOR EACH ROW EXECUTE FUNCTION record_change()
    """,
    "GRANT USAGE ON SEQUENCE saga_fencing_tokens TO ipas_app",
    "GRANT SELECT ON alembic_version TO ipas_app",
)
# What the application may do with the rows of its transaction's tenant.
_RIGHTS = {
    "ipas": "SELECT, INSERT, UPDATE, DELETE",
    "deployments": "SELECT, INSERT, UPDATE",
    "sagas": "SELECT, INSERT, UPDATE",
    "idempotency_keys": "SELECT, INSERT, UPDATE, DELETE",
    "changes": "SELECT, INSERT, DELETE",
    "change_horizons": "SELECT, INSERT, UPDATE",
}


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    for table, rights in _RIGHTS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY {table}_tenant ON {table} USING ({_OWN}) WITH CHECK ({_OWN})")
        op.execute(f"GRANT {rights} ON {table} TO ipas_app")
