"""Records what happens to users, for watches."""

from api_common.watch import create_changes, record_changes

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    create_changes(application_role="users_app")
    record_changes("users")
