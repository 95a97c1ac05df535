"""Hides the rows in `changes` from background tasks, which need keys and positions only."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None  # it is open
    connection.run_async(lambda driver: driver.execute(Path(__file__).with_suffix(".sql").read_text()))
