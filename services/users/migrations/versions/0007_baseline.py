"""The first released schema: users, service accounts and their API keys."""

from alembic import op

revision = "0007"
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
    "CREATE INDEX ix_users_labels ON users USING gin (labels jsonb_path_ops)",
    "CREATE INDEX ix_users_tenant_id_email_folded_id ON users (tenant_id, email_folded, id)",
    "CREATE INDEX ix_users_tenant_id_state_create_time_id ON users (tenant_id, state, create_time, id)",
    "CREATE INDEX ix_users_tenant_id_created_by_create_time_id ON users (tenant_id, created_by, create_time, id)",
    "CREATE INDEX ix_users_viewers ON users (tenant_id, create_time, id) WHERE roles @> '{viewer}'",
    "CREATE INDEX ix_users_editors ON users (tenant_id, create_time, id) WHERE roles @> '{editor}'",
    "CREATE INDEX ix_users_operators ON users (tenant_id, create_time, id) WHERE roles @> '{operator}'",
    "CREATE INDEX ix_users_admins ON users (tenant_id, create_time, id) WHERE roles @> '{admin}'",
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
    """
    CREATE INDEX ix_service_accounts_tenant_id_state_create_time_id
        ON service_accounts (tenant_id, state, create_time, id)
    """,
    """
    CREATE INDEX ix_service_accounts_tenant_id_created_by_create_time_id
        ON service_accounts (tenant_id, created_by, create_time, id)
    """,
    """
    CREATE INDEX ix_service_accounts_viewers
        ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{viewer}'
    """,
    """
    CREATE INDEX ix_service_accounts_editors
        ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{editor}'
    """,
    """
    CREATE INDEX ix_service_accounts_operators
        ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{operator}'
    """,
    "CREATE INDEX ix_service_accounts_admins ON service_accounts (tenant_id, create_time, id) WHERE roles @> '{admin}'",
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
        ON users FOR EACH ROW EXECUTE FUNCTION record_change()
    """,
    "GRANT SELECT ON alembic_version TO users_app",
)
# What the application may do with the rows of its transaction's tenant.
_RIGHTS = {
    "users": "SELECT, INSERT, UPDATE, DELETE",
    "service_accounts": "SELECT, INSERT, UPDATE, DELETE",
    "api_keys": "SELECT, INSERT, UPDATE",
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
        op.execute(f"GRANT {rights} ON {table} TO users_app")
