"""The users service as it is deployed, everything on."""

from typing import Final

from tests.load.contender import Contender

USERS: Final = Contender(name="users", module="users_service", has_metrics=True)
