"""The committed page /console: it is what its sources say, and stays small."""

import gzip
import os
import subprocess
from pathlib import Path
from typing import Final

from tests.node_packages import installed
from tests.protos import ROOT
from tools.clients import typescript
from tools.edge.build import ENVOY

SOURCE: Final = ROOT / "clients" / "console"
PAGE: Final = ENVOY / "console"
MAX_BYTES: Final = 150_000
MAX_LINES: Final = 1_200


def run(script: str, *arguments: str) -> None:
    """Runs a script of package.json as `make console` does, with packages that tests share."""
    programs = installed(SOURCE) / "node_modules" / ".bin"
    done = subprocess.run(
        ["npm", "run", "--silent", script, "--", *arguments],
        cwd=SOURCE,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_built_from_its_sources(tmp_path: Path) -> None:
    typescript.build()
    run("check")
    run("build", f"--outfile={tmp_path / 'console.js'}")
    built = (tmp_path / "console.js").read_bytes()
    assert built == (PAGE / "console.js").read_bytes(), "`make console` builds it again, also after a change of proto/"


def test_it_is_small() -> None:
    assert sum(len(gzip.compress(path.read_bytes())) for path in PAGE.iterdir()) < MAX_BYTES
    ours = [*(SOURCE / "src").iterdir(), PAGE / "index.html", PAGE / "console.css"]
    assert sum(len(path.read_text().splitlines()) for path in ours) < MAX_LINES
