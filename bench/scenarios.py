"""Runs the k6 scenarios against the running mesh or any other: `make load`, `python -m bench.scenarios spike`.

All settings come from the environment, as k6 expects: URL and TOKENS for another mesh than the local one; RATE,
DURATION, SPIKE, CONNECTIONS and SOAK for the scenarios. Tokens never appear among a program's arguments.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.mesh.commands import running_mesh
from tools.secrets import identity
from tools.topology import Mesh, MeshError

FOLDER: Final = Path(__file__).with_name("k6")
ORDER: Final = ("smoke", "steady", "tenants", "ramp", "spike", "soak")
"""The default order: the scenarios that show most in the least time come first."""

_TENANTS: Final = 10
"""Enough principals for 20,000 reads a second at one edge, twice the limit of one address."""
_TOKEN_SECONDS: Final = 12 * 3600


def target() -> Mapping[str, str]:
    """Returns the URL of the mesh and the tokens of its callers.

    Raises:
        MeshError: no mesh runs here and none is named, or one is named without tokens.
    """
    if url := os.environ.get("URL"):
        tokens = os.environ.get("TOKENS") or os.environ.get("TOKEN") or ""
        if not tokens.split():
            raise MeshError('Whose tokens? make load URL=… TOKENS="…": of admins, one a tenant, at least three.')
        return {"URL": url, "TOKENS": tokens}
    mesh = running_mesh(Mesh.from_environment())
    if mesh is None:
        raise MeshError('No mesh is running: make up DETACH=1, or name one: make load URL=… TOKENS="…"')
    tokens = " ".join(
        identity.mint(mesh.issuer, sub="load", tenant=f"load-{n}", roles=["admin"], ttl_seconds=_TOKEN_SECONDS)
        for n in range(_TENANTS)
    )
    return {"URL": mesh.url, "TOKENS": tokens}


def run(scenario: str, where: Mapping[str, str]) -> bool:
    """Runs one scenario; returns whether its thresholds held."""
    command = [str(Path(sys.executable).with_name("k6")), "run", "--no-usage-report", str(FOLDER / f"{scenario}.js")]
    if not sys.stdout.isatty():
        command.append("--quiet")
    return subprocess.run(command, env={**os.environ, **where}, check=False).returncode == 0


def main() -> None:
    """Runs the scenarios that are named, or all; exits with 1 if a threshold did not hold."""
    names = sys.argv[1:] or ORDER
    if unknown := set(names) - set(ORDER):
        raise SystemExit(f"There is no scenario {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}.")
    try:
        where = target()
    except MeshError as error:
        raise SystemExit(str(error)) from None
    failed = []
    for name in names:
        print(f"\n{name}", flush=True)
        if not run(name, where):
            failed.append(name)
    print(f"\nMissed: {', '.join(failed)}" if failed else "\nAll thresholds held.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
