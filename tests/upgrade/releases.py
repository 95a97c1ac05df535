"""The release before this one, taken from git."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tools.topology import ROOT, SERVICES, Service

_PACKAGES: Final = ("", "libs/api_common", "libs/ameide_protos", *(f"services/{one.name}" for one in SERVICES))


@dataclass(frozen=True, slots=True)
class Release:
    """A tree of sources whose services can be run; all releases share our virtual environment."""

    name: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python take every package of ours from this tree."""
        return {"PYTHONPATH": os.pathsep.join(str(self.folder / package) for package in _PACKAGES)}

    @classmethod
    def check_out(cls, revision: str, folder: Path) -> Self:
        """Writes the tree of ``revision`` into ``folder``, with what is generated from its contract."""
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive.stdout, check=True)
        # What its protos import; otherwise it would be downloaded again.
        shutil.copytree(ROOT / "third_party", folder / "third_party", dirs_exist_ok=True)
        release = cls(revision[:12], folder)
        words = (sys.executable, "-m", "tools.contract.generate")
        subprocess.run(words, cwd=folder, env={**os.environ, **release.environment}, check=True)
        return release

    def migrate(self, service: Service, owner_url: str) -> None:
        """Migrates the schema of a service, as the chart's job does."""
        told = {**os.environ, **self.environment, f"{service.name.upper()}_DATABASE_OWNER_URL": owner_url}
        words = (sys.executable, "-m", service.module, "migrate")
        done = subprocess.run(words, cwd=self.folder, env=told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def last_release() -> str:
    """Returns the newest tag before this commit; before the first tag, the commit since which there are releases.

    Raises:
        SystemExit: the clone holds neither.
    """
    tags = _git("tag", "--list", "v*", "--merged", "HEAD", "--no-contains", "HEAD", "--sort=-version:refname")
    first = _git("log", "--diff-filter=A", "--format=%H", "--", "VERSION")
    if not tags and not first:
        raise SystemExit("This clone has no release. Run `git fetch --tags --unshallow` first.")
    return tags[0] if tags else first[-1]


def _git(*words: str) -> list[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
