"""Records what happens to agents, for watches."""

from api_common.watch import create_changes, record_changes

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_changes(application_role="agents_app")
    record_changes("agents")
