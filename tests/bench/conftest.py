"""The database of the users service, as its own tests have it."""

from services.users.tests.conftest import users_database

__all__ = ["users_database"]
