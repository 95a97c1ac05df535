"""The whole mesh, started by the same commands that a developer types."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.browser import chromium
from tests.e2e.pages import SIZE
from tests.e2e.started import Command, run, running, token
from tests.ports import mesh_offset
from tools.topology import Mesh

IMPATIENT: Final = {"USERS_WATCH_STALL_SECONDS": "2"}
"""What a test waits for comes sooner than in the mesh that everybody starts."""


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """A running mesh with state and ports of its own."""
    # Not below pytest's folder: every pytest that root starts closes it to Postgres, which runs as another user.
    with tempfile.TemporaryDirectory(prefix="mesh") as folder, mesh_offset() as offset:
        yield from running(Mesh(Path(folder), offset), **IMPATIENT)


@pytest.fixture
def command(mesh: Mesh) -> Command:
    """Runs one of the tools as `make` would, for the running mesh."""
    return lambda module, *arguments, **variables: run(mesh, module, *arguments, **variables)


@pytest.fixture
def open_client(mesh: Mesh) -> Iterator[Callable[..., httpx.Client]]:
    """Opens a REST client through the edge: `open_client(tenant, *roles)`; without roles, without a token.

    It needs no TLS: loading certificates for it would take longer than its requests.
    """
    clients: list[httpx.Client] = []

    def opened(tenant: str, *roles: str, headers: Mapping[str, str] | None = None) -> httpx.Client:
        credentials = {"authorization": f"Bearer {token(mesh, tenant, *roles)}"} if roles else {}
        sent = {**credentials, **(headers or {})}
        clients.append(httpx.Client(base_url=mesh.url, headers=sent, timeout=20, verify=False))
        return clients[-1]

    yield opened
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that remembers nothing."""
    with browser.new_context(viewport=SIZE) as context:
        yield context.new_page()
