-- function count_live
CREATE OR REPLACE FUNCTION public.count_live(tenant text, name text, change bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
DECLARE
    quotas jsonb := nullif(current_setting('app.quotas', true), '')::jsonb;
    most bigint := coalesce(quotas ->> name, quotas ->> '*', '1000000000000');
    one integer := random() * 32;
    total bigint;
    free integer[];
    holds boolean := false;
BEGIN
    FOR n IN 1 .. 32 LOOP
        one := (one + 1) % 32;
        CONTINUE WHEN change > greatest(0, (most + 31 - one) / 32);
        CONTINUE WHEN change > 1 AND change > (
            SELECT (most + 31 - shard) / 32 - live FROM quota_counts
            WHERE tenant_id = tenant AND collection = name AND shard = one);
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(hashtextextended(tenant || ' ' || name, one));
        UPDATE quota_counts SET live = live + change
            WHERE tenant_id = tenant AND collection = name AND shard = one AND (
                change < 0 OR change <= (most + 31 - shard) / 32 - live AND change <= most - (
                    SELECT sum(live) FROM quota_counts WHERE tenant_id = tenant AND collection = name));
        IF FOUND THEN
            RETURN;
        END IF;
        total := coalesce(sum(live), 0) FROM quota_counts WHERE tenant_id = tenant AND collection = name;
        EXIT WHEN change > greatest(0, most - total);
        INSERT INTO quota_counts (tenant_id, collection, shard, live) VALUES (tenant, name, one, change)
            ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN;
        END IF;
        holds := change > 1;
    END LOOP;
    IF change < 0 THEN
        INSERT INTO quota_counts (tenant_id, collection, shard, live) VALUES (tenant, name, one, change)
            ON CONFLICT ON CONSTRAINT pk_quota_counts DO UPDATE SET live = quota_counts.live + change;
        RETURN;
    END IF;
    total := coalesce(sum(live), 0) FROM quota_counts WHERE tenant_id = tenant AND collection = name;
    IF change <= most - total THEN
        -- Another one that looks may need the room of the shards that this one holds.
        IF NOT pg_try_advisory_xact_lock(hashtextextended(tenant || ' ' || name, -1)) AND holds THEN
            RAISE EXCEPTION USING ERRCODE = 'lock_not_available', MESSAGE = 'the last room is being given away';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended(tenant || ' ' || name, -1));
        total := coalesce(sum(live), 0) FROM quota_counts WHERE tenant_id = tenant AND collection = name;
    END IF;
    LOOP
        IF change > most - total THEN
            RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = 'quota', TABLE = name, DETAIL = most;
        END IF;
        free := array(
            SELECT n FROM generate_series(0, 31) AS n
            LEFT JOIN quota_counts ON tenant_id = tenant AND collection = name AND shard = n
            WHERE CASE WHEN coalesce(live, 0) < (most + 31 - n) / 32
                THEN pg_try_advisory_xact_lock(hashtextextended(tenant || ' ' || name, n)) END);
        INSERT INTO quota_counts (tenant_id, collection, shard, live)
            SELECT tenant, name, n, 0 FROM unnest(free) AS n ON CONFLICT DO NOTHING;
        UPDATE quota_counts SET live = live + least(room, change - before) FROM (
            SELECT n, room, sum(room) OVER (ORDER BY n) - room AS before, sum(room) OVER () AS rooms FROM (
                SELECT shard AS n, (most + 31 - shard) / 32 - live AS room FROM quota_counts
                WHERE tenant_id = tenant AND collection = name AND shard = ANY (free)
            ) AS each WHERE room > 0
        ) AS given
            WHERE tenant_id = tenant AND collection = name AND shard = n AND rooms >= change AND before < change;
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.001);
        total := coalesce(sum(live), 0) FROM quota_counts WHERE tenant_id = tenant AND collection = name;
    END LOOP;
END
$function$;

-- function count_rows
CREATE OR REPLACE FUNCTION public.count_rows()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM count_live(tenant_id, TG_TABLE_NAME, count(*)) FROM added GROUP BY tenant_id;
    ELSE
        PERFORM count_live(OLD.tenant_id, TG_TABLE_NAME, TG_ARGV[0]::bigint);
    END IF;
    RETURN NULL;
END
$function$;

-- function keep_last_admin
CREATE OR REPLACE FUNCTION public.keep_last_admin()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('admins ' || OLD.tenant_id, 0));
    IF NOT EXISTS (
        SELECT FROM users
        WHERE tenant_id = OLD.tenant_id AND roles @> '{admin}' AND state = 'ACTIVE' AND delete_time IS NULL
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = 'last_admin';
    END IF;
    RETURN NULL;
END
$function$;

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
    INSERT INTO recorded_changes (tenant_id, xid, collection, id, kind, after, before) VALUES (
        one.tenant_id, pg_current_xact_id()::text::bigint, TG_TABLE_NAME, one.id,
        CASE WHEN NOT was_live THEN 'created' WHEN is_live THEN 'updated' ELSE 'deleted' END, now_is, was
    );
    RETURN NULL;
END
$function$;

-- grants on alembic_version to users_app
GRANT SELECT ON alembic_version TO users_app;

-- grants on api_keys to users_app
GRANT INSERT, SELECT, UPDATE ON api_keys TO users_app;

-- grants on change_horizons to users_app
GRANT INSERT, SELECT, UPDATE ON change_horizons TO users_app;

-- grants on changes to users_app
GRANT DELETE, SELECT ON changes TO users_app;

-- grants on idempotency_keys to users_app
GRANT DELETE, INSERT, SELECT, UPDATE ON idempotency_keys TO users_app;

-- grants on quota_counts to users_app
GRANT INSERT, SELECT, UPDATE ON quota_counts TO users_app;

-- grants on recorded_changes to users_app
GRANT INSERT ON recorded_changes TO users_app;

-- grants on service_accounts to users_app
GRANT DELETE, INSERT, SELECT, UPDATE ON service_accounts TO users_app;

-- grants on users to users_app
GRANT DELETE, INSERT, SELECT, UPDATE ON users TO users_app;

-- policy api_keys_tenant on api_keys
CREATE POLICY api_keys_tenant ON api_keys AS PERMISSIVE FOR ALL TO public
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

-- policy changes_follow on recorded_changes
CREATE POLICY changes_follow ON recorded_changes AS PERMISSIVE FOR SELECT TO public
 USING (((current_setting('app.task'::text, true) = 'follow'::text) AND true))
 WITH CHECK ();

-- policy changes_reap on recorded_changes
CREATE POLICY changes_reap ON recorded_changes AS PERMISSIVE FOR ALL TO public
 USING (((current_setting('app.task'::text, true) = 'reap'::text) AND true))
 WITH CHECK (false);

-- policy changes_tenant on recorded_changes
CREATE POLICY changes_tenant ON recorded_changes AS PERMISSIVE FOR ALL TO public
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

-- policy quota_counts_reap on quota_counts
CREATE POLICY quota_counts_reap ON quota_counts AS PERMISSIVE FOR SELECT TO public
 USING ((current_setting('app.task'::text, true) = 'reap'::text))
 WITH CHECK ();

-- policy quota_counts_tenant on quota_counts
CREATE POLICY quota_counts_tenant ON quota_counts AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- policy service_accounts_tenant on service_accounts
CREATE POLICY service_accounts_tenant ON service_accounts AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- policy users_tenant on users
CREATE POLICY users_tenant ON users AS PERMISSIVE FOR ALL TO public
 USING ((tenant_id = current_setting('app.tenant_id'::text, true)))
 WITH CHECK ((tenant_id = current_setting('app.tenant_id'::text, true)));

-- trigger count_added on api_keys
CREATE TRIGGER count_added AFTER INSERT ON public.api_keys REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_rows();

-- trigger count_added on service_accounts
CREATE TRIGGER count_added AFTER INSERT ON public.service_accounts REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_rows();

-- trigger count_added on users
CREATE TRIGGER count_added AFTER INSERT ON public.users REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_rows();

-- trigger count_deleted on service_accounts
CREATE TRIGGER count_deleted AFTER UPDATE ON public.service_accounts FOR EACH ROW WHEN (((old.delete_time IS NULL) AND (new.delete_time IS NOT NULL))) EXECUTE FUNCTION count_rows('-1');

-- trigger count_deleted on users
CREATE TRIGGER count_deleted AFTER UPDATE ON public.users FOR EACH ROW WHEN (((old.delete_time IS NULL) AND (new.delete_time IS NOT NULL))) EXECUTE FUNCTION count_rows('-1');

-- trigger count_removed on service_accounts
CREATE TRIGGER count_removed AFTER DELETE ON public.service_accounts FOR EACH ROW WHEN ((old.delete_time IS NULL)) EXECUTE FUNCTION count_rows('-1');

-- trigger count_removed on users
CREATE TRIGGER count_removed AFTER DELETE ON public.users FOR EACH ROW WHEN ((old.delete_time IS NULL)) EXECUTE FUNCTION count_rows('-1');

-- trigger count_undeleted on service_accounts
CREATE TRIGGER count_undeleted AFTER UPDATE ON public.service_accounts FOR EACH ROW WHEN (((old.delete_time IS NOT NULL) AND (new.delete_time IS NULL))) EXECUTE FUNCTION count_rows('1');

-- trigger count_undeleted on users
CREATE TRIGGER count_undeleted AFTER UPDATE ON public.users FOR EACH ROW WHEN (((old.delete_time IS NOT NULL) AND (new.delete_time IS NULL))) EXECUTE FUNCTION count_rows('1');

-- trigger keep_last_admin on users
CREATE TRIGGER keep_last_admin AFTER UPDATE ON public.users FOR EACH ROW WHEN (((old.roles @> '{admin}'::text[]) AND (old.state = 'ACTIVE'::text) AND (old.delete_time IS NULL) AND (NOT ((new.roles @> '{admin}'::text[]) AND (new.state = 'ACTIVE'::text) AND (new.delete_time IS NULL))))) EXECUTE FUNCTION keep_last_admin();

-- trigger record_change on users
CREATE TRIGGER record_change AFTER INSERT OR DELETE OR UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION record_change();

-- view changes
CREATE VIEW changes AS
 SELECT tenant_id,
    seq,
    xid,
    collection,
    id,
    kind,
        CASE
            WHEN (tenant_id = current_setting('app.tenant_id'::text, true)) THEN after
            ELSE NULL::jsonb
        END AS after,
        CASE
            WHEN (tenant_id = current_setting('app.tenant_id'::text, true)) THEN before
            ELSE NULL::jsonb
        END AS before,
    create_time
   FROM recorded_changes;
