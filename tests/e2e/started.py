"""A mesh that the commands of a developer start, stop and call."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Final

from tools.mesh import processes
from tools.secrets import identity
from tools.topology import ROOT, Mesh

TOKEN: Final = re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}")

Command = Callable[..., subprocess.CompletedProcess[str]]


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
