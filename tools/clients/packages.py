"""Packs the clients for whoever installs them: two wheels and an npm package, in `dist/`."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.clients.typescript import PACKAGE
from tools.topology import ROOT

DIST: Final = ROOT / "dist"


def pack() -> list[Path]:
    """Writes the packages, and returns where they are from the root of the repository."""
    shutil.rmtree(DIST, ignore_errors=True)
    wheels(DIST)
    command = ["npm", "pack", "--silent", "--pack-destination", str(DIST)]
    subprocess.run(command, cwd=PACKAGE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return sorted(path.relative_to(ROOT) for path in DIST.iterdir() if path.suffix in {".whl", ".tgz"})


def wheels(folder: Path) -> list[Path]:
    """Writes the wheels of the Python client and of the messages that it stands on into ``folder``."""
    command = [str(Path(sys.executable).with_name("uv")), "build", "--quiet", "--wheel", "--no-build-isolation"]
    for package in ("libs/ameide_protos", "clients/python"):
        subprocess.run([*command, "--python", sys.executable, "--out-dir", str(folder), package], cwd=ROOT, check=True)
    return sorted(folder.glob("*.whl"))
