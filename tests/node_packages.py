"""Programs from npm that tests need, installed once per lock file, below `.cache/`."""

import shutil
import subprocess
from pathlib import Path

from tests.protos import ROOT


def installed(source: Path) -> Path:
    """Returns a folder with what ``source`` (package.json, package-lock.json) asks for, installed if that changed."""
    target = ROOT / ".cache" / source.name
    target.mkdir(parents=True, exist_ok=True)
    lock, done = source / "package-lock.json", target / "installed-lock.json"
    if not done.exists() or done.read_bytes() != lock.read_bytes():
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, target)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        shutil.copy(lock, done)
    return target
