"""Packs the clients: two wheels and an npm package."""

import subprocess
import sys
from pathlib import Path

from tools.clients.typescript import PACKAGE
from tools.topology import ROOT


def wheels(folder: Path) -> list[Path]:
    """Writes the wheels of the Python client and of its messages into ``folder``."""
    command = [str(Path(sys.executable).with_name("uv")), "build", "--quiet", "--wheel", "--no-build-isolation"]
    for package in ("libs/ameide_protos", "clients/python"):
        subprocess.run([*command, "--python", sys.executable, "--out-dir", str(folder), package], cwd=ROOT, check=True)
    return sorted(folder.glob("*.whl"))


def npm_package(folder: Path) -> Path:
    """Writes the package of the TypeScript client, which must be built, into ``folder``."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
    subprocess.run(command, cwd=PACKAGE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    (package,) = folder.glob("*.tgz")
    return package
