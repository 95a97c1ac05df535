"""Creates who holds agents, so that they do not go away meanwhile."""

from api_common.db import create_reservations

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    create_reservations(application_role="agents_app")
