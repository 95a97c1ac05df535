"""A copy of the repository, in which `make` finds its set-up done: nothing is installed, and nothing is fetched."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.topology import ROOT

_IMPORTED = ("libs/*", "clients/python", "services/*")
_GENERATED = ("libs", "clients/python", "envoy", "third_party")


class Scratch:
    """A copy of the repository in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # What is generated comes last: it is newer than what it is made of.
        for name in (*_listed(), *_listed("--others", "--ignored", "--exclude-standard", *_GENERATED)):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target, follow_symlinks=False)

        self._set_up()

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"

    def make(self, *targets: str, **variables: str) -> str:
        """Runs `make` in the copy and returns what it printed."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTEST", "COV"))
        }
        done = subprocess.run(
            ["make", *targets, *(f"{name}={value}" for name, value in variables.items())],
            cwd=self.folder,
            env={**inherited, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"make {' '.join(targets)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _set_up(self) -> None:
        """Makes a `.venv` with our programs and packages, before which come the copy's own packages."""
        venv = self.folder / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        for program in (Path(sys.prefix) / "bin").iterdir():
            if not (venv / "bin" / program.name).exists():
                (venv / "bin" / program.name).symlink_to(program)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
        packages = [str(path) for pattern in _IMPORTED for path in sorted(self.folder.glob(pattern))]
        (site / "copy.pth").write_text("\n".join([*packages, sysconfig.get_path("purelib")]))
        for mark in (".ready", ".checks"):
            (venv / mark).touch()


def _listed(*options: str) -> list[str]:
    command = ["git", "ls-files", *options]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if "__pycache__" not in name and (ROOT / name).exists()]
