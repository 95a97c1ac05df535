"""Notes which API keys have a successor, and keeps the last admin of a tenant."""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None  # it is open
    connection.run_async(lambda driver: driver.execute(Path(__file__).with_suffix(".sql").read_text()))
