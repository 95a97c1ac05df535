"""All four services in this process, over databases of their own."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from api_common.testing.database import TestDatabase
from api_common.testing.service import TestService

from services.ipas.tests.conftest import (
    agents,
    agents_database,
    agents_service,
    ipas,
    ipas_database,
    ipas_service,
    siblings,
    workflows,
    workflows_database,
    workflows_service,
)
from services.users.tests.conftest import users, users_database, users_service

__all__ = [
    "agents",
    "agents_database",
    "agents_service",
    "ipas",
    "ipas_database",
    "ipas_service",
    "siblings",
    "users",
    "users_database",
    "users_service",
    "workflows",
    "workflows_database",
    "workflows_service",
]


@dataclass(frozen=True, slots=True)
class Running:
    """A service and where its rows are."""

    service: TestService
    database: TestDatabase


@pytest.fixture(scope="session")
def mesh(request: pytest.FixtureRequest) -> Mapping[str, Running]:
    """Every service by its name. A fifth one needs its fixtures here."""
    return {
        name: Running(request.getfixturevalue(f"{name}_service"), request.getfixturevalue(f"{name}_database"))
        for name in ("users", "workflows", "agents", "ipas")
    }
