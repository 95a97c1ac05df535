"""Fixtures that every test of the mesh may use; `pytest -p api_common.testing.plugin`."""

import re
from collections.abc import Generator, Iterator
from typing import Final

import pytest
import structlog
import uuid_utils

from api_common.db import Transaction
from api_common.testing.database import Statements, postgres_server, recording
from api_common.testing.identity import Caller, Identity

_TOKEN: Final = re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}")


def pytest_configure() -> None:
    """Logs tracebacks plainly: where rich is installed, structlog also prints every local of every frame."""
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails a test during which a service, or whatever else writes to the output, printed a signed token."""
    report = yield
    if report.passed and (found := _TOKEN.search(report.capstdout + report.capstderr + report.caplog)):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} wrote a token to the output: {found[0][:24]}…; never log a credential"
    return report


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A superuser's URL of a real Postgres."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The issuer of the tests' tokens."""
    return Identity(tmp_path_factory.mktemp("issuer"))


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


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """What the services in this process ask of their databases from now on."""
    seen: Statements = []
    for name in ("fetch_one", "fetch_all"):
        monkeypatch.setattr(Transaction, name, recording(seen, getattr(Transaction, name)))
    return seen
