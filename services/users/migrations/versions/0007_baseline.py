"""The first released schema: users, service accounts and their API keys."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None  # it is open
    connection.run_async(lambda driver: driver.execute(Path(__file__).with_suffix(".sql").read_text()))
