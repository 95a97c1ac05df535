"""One stand for all tests of faults, and a table of what they saw."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.callers import Caller
from tests.faults.form import IS_FULL, Report
from tests.faults.stand import SECOND, Stand, standing
from tests.ports import reserved
from tools.topology import Mesh

# What these show at length, `make test` shows with less: breakers in libs/api_common and services/ipas, killed services
# in tests/e2e/test_runner.py and test_watches.py, that no write is sent twice in tests/e2e/edge/test_retries.py.
collect_ignore = [] if IS_FULL else ["test_kill.py", "test_siblings.py"]

_rows: list[tuple[str, str]] = []


@contextmanager
def favoured() -> Iterator[None]:
    """Gives what is started meanwhile more of the processor than other tests have, if root runs them.

    Time-outs are promises here: a health check that fails because others work would take a service away.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - 5)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@pytest.fixture(autouse=True)
def favoured_test() -> Iterator[None]:
    """Favours each test, and the services that it starts."""
    with favoured():
        yield


@pytest.fixture(scope="session")
async def stand() -> AsyncIterator[Stand]:
    """Postgres, issuer and edge of their own."""

    def ports(offset: int) -> list[int]:
        return [port + move for port in Mesh(Path(), offset).ports.values() for move in (0, SECOND)]

    # Not below pytest's folder: every pytest that root starts closes it to Postgres, which runs as another user.
    with tempfile.TemporaryDirectory(prefix="faults") as folder, reserved(range(3_000, 12_000, 100), ports) as offset:
        async with AsyncExitStack() as stack:
            with favoured():
                result = await stack.enter_async_context(standing(Path(folder), offset))
            yield result


@pytest.fixture
async def ada(stand: Stand, tenant_id: str) -> AsyncIterator[Caller]:
    """An administrator of the test's tenant."""
    async with stand.channel() as channel:
        yield Caller(channel, stand.metadata(tenant_id))


@pytest.fixture
def report() -> Report:
    """Notes a row of the table: what was done, and what came of it."""
    return lambda fault, result: _rows.append((fault, result))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if IS_FULL:
        for fault, result in _rows:
            terminalreporter.write_line(f"{fault:<48} {result}")


@pytest.fixture(autouse=True)
def refusals_of_the_edge(stand: Stand) -> Iterator[None]:
    """Prints what the edge itself answered; pytest shows it of a test that failed."""
    before = len(stand.edge.log())
    yield
    print(*(line for line in stand.edge.log()[before:] if line["details"] != "via_upstream"), sep="\n")
