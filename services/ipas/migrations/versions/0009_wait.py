"""Keeps the deadline of a saga and the time of its next attempt, and shows both in deployments (ADR 45)."""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None  # it is open
    connection.run_async(lambda driver: driver.execute(Path(__file__).with_suffix(".sql").read_text()))
