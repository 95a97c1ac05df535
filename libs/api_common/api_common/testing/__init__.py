"""Package testing holds real parts for tests; imported by tests only."""

from api_common.testing.database import Statements, TestDatabase, create_database, postgres_server
from api_common.testing.error_assertions import NEVER, refused
from api_common.testing.identity import AUDIENCE, ISSUER, KEY_ID, PEPPER, Caller, Identity
from api_common.testing.service import (
    NoStoredUsers,
    TestService,
    guarded_service,
    running_service,
    settings_for,
    tls_of,
)
from api_common.testing.watching import watching

__all__ = [
    "AUDIENCE",
    "ISSUER",
    "KEY_ID",
    "NEVER",
    "PEPPER",
    "Caller",
    "Identity",
    "NoStoredUsers",
    "Statements",
    "TestDatabase",
    "TestService",
    "create_database",
    "guarded_service",
    "postgres_server",
    "refused",
    "running_service",
    "settings_for",
    "tls_of",
    "watching",
]
