"""The whole mesh, started by the same commands that a developer types."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.ports import mesh_offset
from tools.mesh import processes
from tools.secrets import identity
from tools.topology import ROOT, Mesh

TOKEN: Final = re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}")

IMPATIENT: Final = {"USERS_WATCH_STALL_SECONDS": "2"}
"""What a test waits for comes sooner than in the mesh that everybody starts."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """A running mesh with state and ports of its own."""
    # Not below pytest's folder: every pytest that root starts closes it to Postgres, which runs as another user.
    with tempfile.TemporaryDirectory(prefix="mesh") as folder, mesh_offset() as offset:
        yield from running(Mesh(Path(folder), offset), **IMPATIENT)


def running(result: Mesh, **variables: str) -> Iterator[Mesh]:
    started = run(result, "tools.mesh", "up", DETACH="1", **variables)
    assert started.returncode == 0, started.stdout + started.stderr
    yield result
    stopped = run(result, "tools.mesh", "down")
    assert stopped.stdout == "The mesh has stopped.\n", stopped.stderr
    assert list(processes.pids(result)) == []
    assert "Traceback" not in result.log("mesh").read_text()
    for log in result.log("mesh").parent.iterdir():
        assert not TOKEN.search(log.read_text()), f"{log.name} holds a token"


@pytest.fixture
def command(mesh: Mesh) -> Command:
    """Runs one of the tools as `make` would, for the running mesh."""
    return lambda module, *arguments, **variables: run(mesh, module, *arguments, **variables)


@pytest.fixture
def rest(mesh: Mesh) -> Iterator[Callable[..., httpx.Client]]:
    """Opens a REST client through the edge: `rest(tenant, *roles)`; without roles, without a token."""
    clients: list[httpx.Client] = []

    def open_client(tenant: str, *roles: str, headers: Mapping[str, str] | None = None) -> httpx.Client:
        credentials = {"authorization": f"Bearer {token(mesh, tenant, *roles)}"} if roles else {}
        clients.append(httpx.Client(base_url=mesh.url, headers={**credentials, **(headers or {})}, timeout=20))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


def token(mesh: Mesh, tenant: str, *roles: str) -> str:
    return identity.mint(mesh.issuer, sub="ada", tenant=tenant, roles=roles)


def run(mesh: Mesh, module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    settings = {"AMEIDE_LOCAL_DIR": str(mesh.folder), "PORT_OFFSET": str(mesh.port_offset)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **settings, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
