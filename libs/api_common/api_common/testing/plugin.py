"""Fixtures that every test of the mesh may use; `pytest -p api_common.testing.plugin`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import uuid_utils

from api_common.testing.database import postgres_server
from api_common.testing.identity import Caller, Identity


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A superuser's URL of a real Postgres."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The issuer of the tests' tokens."""
    folder: Path = tmp_path_factory.mktemp("issuer")
    return Identity(folder)


@pytest.fixture
def tenant_id() -> str:
    """A tenant that no other test knows, so that tests need no cleaning up."""
    return f"t-{uuid_utils.uuid7()}"


@pytest.fixture
def admin(identity: Identity, tenant_id: str) -> Caller:
    """May do everything in the test's tenant."""
    return identity.caller(tenant_id, "admin")


@pytest.fixture
def stranger(identity: Identity) -> Caller:
    """May do everything in another tenant."""
    return identity.caller(f"t-{uuid_utils.uuid7()}", "admin", subject="eve")


@pytest.fixture
def nobody(identity: Identity, tenant_id: str) -> Caller:
    """Belongs to the test's tenant and has no role."""
    return identity.caller(tenant_id, subject="norole")
