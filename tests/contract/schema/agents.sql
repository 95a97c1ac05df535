-- function record_change
CREATE OR REPLACE FUNCTION public.record_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
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
$function$;

-- grants on agents to agents_app
GRANT DELETE, INSERT, SELECT, UPDATE ON agents TO agents_app;

-- grants on alembic_version to agents_app
GRANT SELECT ON alembic_version TO agents_app;

-- grants on change_horizons to agents_app
GRANT INSERT, SELECT, UPDATE ON change_horizons TO agents_app;

-- grants on changes to agents_app
GRANT DELETE, INSERT, SELECT ON changes TO agents_app;

-- grants on idempotency_keys to agents_app
GRANT DELETE, INSERT, SELECT, UPDATE ON idempotency_keys TO agents_app;

-- grants on reservation_holders to agents_app
GRANT DELETE, INSERT, SELECT, UPDATE ON reservation_holders TO agents_app;

-- grants on reservations to agents_app
GRANT DELETE, INSERT, SELECT, UPDATE ON reservations TO agents_app;

-- policy agents_tenant on agents
CREATE POLICY agents_tenant ON agents AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- policy change_horizons_reap on change_horizons
CREATE POLICY change_horizons_reap ON change_horizons AS PERMISSIVE FOR ALL TO public
 USING ((current_setting('app.task'::text, true) = 'reap'::text))
 WITH CHECK ((current_setting('app.task'::text, true) = 'reap'::text));

-- policy change_horizons_tenant on change_horizons
CREATE POLICY change_horizons_tenant ON change_horizons AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- policy changes_follow on changes
CREATE POLICY changes_follow ON changes AS PERMISSIVE FOR ALL TO public
 USING (((current_setting('app.task'::text, true) = 'follow'::text) AND true))
 WITH CHECK (false);

-- policy changes_reap on changes
CREATE POLICY changes_reap ON changes AS PERMISSIVE FOR ALL TO public
 USING (((current_setting('app.task'::text, true) = 'reap'::text) AND true))
 WITH CHECK (false);

-- policy changes_tenant on changes
CREATE POLICY changes_tenant ON changes AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- policy idempotency_keys_reap on idempotency_keys
CREATE POLICY idempotency_keys_reap ON idempotency_keys AS PERMISSIVE FOR ALL TO public
 USING (((current_setting('app.task'::text, true) = 'reap'::text) AND (expire_time <= now())))
 WITH CHECK (false);

-- policy idempotency_keys_tenant on idempotency_keys
CREATE POLICY idempotency_keys_tenant ON idempotency_keys AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- policy reservation_holders_tenant on reservation_holders
CREATE POLICY reservation_holders_tenant ON reservation_holders AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- policy reservations_tenant on reservations
CREATE POLICY reservations_tenant ON reservations AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- trigger record_change on agents
CREATE TRIGGER record_change AFTER INSERT OR DELETE OR UPDATE ON public.agents FOR EACH ROW EXECUTE FUNCTION record_change();
