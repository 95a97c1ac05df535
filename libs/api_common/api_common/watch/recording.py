"""The part of a migration that makes a table's changes be recorded. Whoever writes to it cannot forget to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from api_common.db import TASK_SETTING, open_to_task, protect_table
from api_common.watch.tables import FOLLOWER, REAPER

# A row that is deleted and stays so does not exist for a watch; what `before` lacks was as it is in `after`.
_FUNCTION = """
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


def create_changes(*, application_role: str) -> None:
    """Creates the tables of `tables.change_tables` and what fills them."""
    op.create_table(
        "changes",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("xid", sa.BigInteger, nullable=False),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("after", postgresql.JSONB, nullable=False),
        sa.Column("before", postgresql.JSONB),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("tenant_id", "seq"),
    )
    op.create_index(None, "changes", ["xid", "tenant_id"])
    op.create_table(
        "change_horizons",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("xid", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    # Nobody changes what is recorded.
    protect_table("changes", application_role=application_role, rights="SELECT, INSERT, DELETE")
    protect_table("change_horizons", application_role=application_role, rights="SELECT, INSERT, UPDATE")
    for task in (REAPER, FOLLOWER):
        open_to_task("changes", task=task, rows="true")
    bound = f"current_setting('{TASK_SETTING}', true) = '{REAPER}'"
    op.execute(f"CREATE POLICY change_horizons_{REAPER} ON change_horizons USING ({bound}) WITH CHECK ({bound})")
    op.execute(_FUNCTION)


def record_changes(table: str) -> None:
    """Records what happens to the rows of ``table`` from now on; each has a `tenant_id` and an `id` (UUID)."""
    op.execute(
        f"CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION record_change()"
    )
