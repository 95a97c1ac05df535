"""Lets the reaper see and delete expired idempotency keys (ADR 19)."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
        CREATE POLICY idempotency_keys_reap ON idempotency_keys
            USING (current_setting('app.task', true) = 'reap' AND expire_time <= now()) WITH CHECK (false)
        """
    )
