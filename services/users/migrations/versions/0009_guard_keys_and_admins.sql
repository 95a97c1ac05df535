-- A key that was replaced yields no second successor.
ALTER TABLE api_keys ADD COLUMN replace_time timestamptz;

-- The last one who can give roles stays. Of two who take the power from each other at once, the second is refused.
CREATE FUNCTION keep_last_admin() RETURNS trigger LANGUAGE plpgsql AS $$
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
$$;

CREATE TRIGGER keep_last_admin AFTER UPDATE
    ON users FOR EACH ROW
    WHEN (OLD.roles @> '{admin}' AND OLD.state = 'ACTIVE' AND OLD.delete_time IS NULL
        AND NOT (NEW.roles @> '{admin}' AND NEW.state = 'ACTIVE' AND NEW.delete_time IS NULL))
    EXECUTE FUNCTION keep_last_admin();
