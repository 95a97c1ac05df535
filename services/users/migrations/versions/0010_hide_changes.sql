-- A task reads and deletes changes of all tenants by what it needs of them: their keys and positions. Their rows are
-- for their tenant only. The release before reads and deletes `changes` by the same name, so it goes on.

-- Nobody writes meanwhile, and so nobody is left with the trigger's old text.
LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE;

-- Safe since 0.1.0, which reads the view below by the name that the table had.
-- squawk-ignore renaming-table
ALTER TABLE changes RENAME TO recorded_changes;
-- Safe since 0.1.0, which does not name it.
-- squawk-ignore renaming-object
ALTER TABLE recorded_changes RENAME CONSTRAINT pk_changes TO pk_recorded_changes;
-- Safe since 0.1.0, which does not name it.
-- squawk-ignore renaming-object
ALTER INDEX ix_changes_xid_tenant_id RENAME TO ix_recorded_changes_xid_tenant_id;
-- Safe since 0.1.0, which does not name it.
-- squawk-ignore renaming-object
ALTER SEQUENCE changes_seq_seq RENAME TO recorded_changes_seq_seq;
REVOKE ALL ON recorded_changes FROM users_app;
GRANT INSERT ON recorded_changes TO users_app;
DROP POLICY changes_follow ON recorded_changes;
CREATE POLICY changes_follow ON recorded_changes
    FOR SELECT USING (current_setting('app.task', true) = 'follow' AND true);

-- It reads as the owner of the table, whom the table's policies bind, too.
CREATE VIEW changes AS
    SELECT tenant_id, seq, xid, collection, id, kind,
        CASE WHEN tenant_id = current_setting('app.tenant_id', true) THEN after END AS after,
        CASE WHEN tenant_id = current_setting('app.tenant_id', true) THEN before END AS before,
        create_time
    FROM recorded_changes;
GRANT SELECT, DELETE ON changes TO users_app;

-- A soft-deleted row does not exist for a watch. `before` holds only what differs from `after`.
CREATE OR REPLACE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$
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
    INSERT INTO recorded_changes (tenant_id, xid, collection, id, kind, after, before) VALUES (
        one.tenant_id, pg_current_xact_id()::text::bigint, TG_TABLE_NAME, one.id,
        CASE WHEN NOT was_live THEN 'created' WHEN is_live THEN 'updated' ELSE 'deleted' END, now_is, was
    );
    RETURN NULL;
END
$$;
