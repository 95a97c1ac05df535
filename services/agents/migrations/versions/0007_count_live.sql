CREATE TABLE quota_counts (
    tenant_id text NOT NULL,
    collection text NOT NULL,
    shard integer NOT NULL,
    live bigint NOT NULL,
    CONSTRAINT pk_quota_counts PRIMARY KEY (tenant_id, collection, shard)
) WITH (fillfactor = 50);

ALTER TABLE quota_counts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY quota_counts_tenant ON quota_counts
    USING (tenant_id = current_setting('app.tenant_id', true))
    WITH CHECK (tenant_id = current_setting('app.tenant_id', true));
CREATE POLICY quota_counts_reap ON quota_counts FOR SELECT USING (current_setting('app.task', true) = 'reap');
GRANT SELECT, INSERT, UPDATE ON quota_counts TO agents_app;

-- A sharded counter: a write locks a shard that no other write holds, so that writes do not wait for each other. No
-- shard exceeds its share of the quota, so their sum does not either. Where no free shard has room, one write at a time
-- looks again and again until those that hold shards have ended: it may hold others itself, so waiting could deadlock.
CREATE FUNCTION count_live(tenant text, name text, change bigint) RETURNS void LANGUAGE plpgsql AS $$
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
$$;

CREATE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM count_live(tenant_id, TG_TABLE_NAME, count(*)) FROM added GROUP BY tenant_id;
    ELSE
        PERFORM count_live(OLD.tenant_id, TG_TABLE_NAME, TG_ARGV[0]::bigint);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER count_added AFTER INSERT
    ON agents REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_rows();
CREATE TRIGGER count_deleted AFTER UPDATE
    ON agents FOR EACH ROW
    WHEN (OLD.delete_time IS NULL AND NEW.delete_time IS NOT NULL) EXECUTE FUNCTION count_rows('-1');
CREATE TRIGGER count_undeleted AFTER UPDATE
    ON agents FOR EACH ROW
    WHEN (OLD.delete_time IS NOT NULL AND NEW.delete_time IS NULL) EXECUTE FUNCTION count_rows('1');
CREATE TRIGGER count_removed AFTER DELETE
    ON agents FOR EACH ROW
    WHEN (OLD.delete_time IS NULL) EXECUTE FUNCTION count_rows('-1');

-- Counts what is there. The owner of the tables is behind the tenant wall, too: it looks over it while nobody else can.
ALTER TABLE agents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE quota_counts NO FORCE ROW LEVEL SECURITY;
INSERT INTO quota_counts (tenant_id, collection, shard, live)
    SELECT tenant_id, collection, n, (live + 31 - n) / 32 FROM generate_series(0, 31) AS n, (
        SELECT tenant_id, 'agents', count(*) FROM agents WHERE delete_time IS NULL GROUP BY tenant_id
    ) AS counts (tenant_id, collection, live);
ALTER TABLE agents FORCE ROW LEVEL SECURITY;
ALTER TABLE quota_counts FORCE ROW LEVEL SECURITY;
