"""Every service's database, migrated."""

import pytest
from api_common.testing import TestDatabase, create_database

from tests.services import Built, built_services


@pytest.fixture(scope="session", params=built_services(), ids=str)
def built(request: pytest.FixtureRequest) -> Built:
    """Each service in turn."""
    one: Built = request.param
    return one


@pytest.fixture(scope="session")
def database(built: Built, postgres_url: str) -> TestDatabase:
    """Its database."""
    return create_database(postgres_url, built.service.name, built.service.migrations)
