"""Lets the reaper see expired idempotency keys."""

from api_common.db import open_to_task

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    open_to_task("idempotency_keys", task="reap", rows="expire_time <= now()")
