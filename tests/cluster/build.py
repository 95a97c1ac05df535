"""The programs of a control plane, built once from their Go modules.

A folder of the cache holds what comes from one module in one version; what is there is not made again. Sources and
compiled packages (seven gigabytes) are thrown away once everything is there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tools.topology import ROOT

LIST: Final = Path(__file__).with_name("programs.yaml")
CACHE: Final = ROOT / ".cache" / "cluster"
SOURCES: Final = CACHE / "go"
NEEDS_GO: Final = (
    "This check builds Kubernetes once and needs Go for that, 1.26 or newer: https://go.dev/doc/install. "
    "(Go from 1.21 on fetches a newer one by itself, unless GOTOOLCHAIN=local.)"
)


@dataclass(frozen=True)
class Module:
    """A Go module and what is taken from it."""

    path: str
    version: str
    programs: Mapping[str, str]
    """Packages below the module, by the names of the programs."""
    kinds: tuple[str, ...]
    """Files with definitions of kinds."""

    @property
    def folder(self) -> Path:
        """Where what is taken from it is kept."""
        return CACHE / f"{self.path.replace('/', '_')}@{self.version}"

    @property
    def missing(self) -> list[Path]:
        """What is not there yet."""
        wanted = [*self.programs, *(Path(kind).name for kind in self.kinds)]
        return [self.folder / name for name in wanted if not (self.folder / name).exists()]


@dataclass(frozen=True)
class Parts:
    """What a control plane is started from."""

    programs: Mapping[str, Path]
    kinds: tuple[Path, ...]


def modules(path: Path = LIST) -> list[Module]:
    """Reads the list."""
    return [
        Module(one["module"], one["version"], one.get("programs", {}), tuple(one.get("kinds", ())))
        for one in yaml.safe_load(path.read_text())
    ]


def parts() -> Parts:
    """Returns programs and kinds, and makes those that are not there.

    Raises:
        SystemExit: there is something to make, and no Go.
        subprocess.CalledProcessError: Go failed; its own lines say why.
    """
    every = modules()
    if missing := [path.name for module in every for path in module.missing]:
        if not shutil.which("go"):
            raise SystemExit(f"{NEEDS_GO} Not made yet: {', '.join(missing)}")
        print("Building a control plane: once, 25 minutes of one core, 7 GB of disk on the way", file=sys.stderr)
    for module in every:
        for path in module.missing:
            print(f"  {path.name} {module.version}", file=sys.stderr, flush=True)
            _make(module, path)
    shutil.rmtree(SOURCES, ignore_errors=True)
    programs = {name: module.folder / name for module in every for name in module.programs}
    return Parts(programs, tuple(module.folder / Path(kind).name for module in every for kind in module.kinds))


def _make(module: Module, path: Path) -> None:
    """Makes a part in a module of ours that requires its module; Go's checksum database tells the right sources."""
    work = SOURCES / module.folder.name
    for folder in (work, module.folder):
        folder.mkdir(parents=True, exist_ok=True)
    downloaded: Any = json.loads(_go(work, "mod", "download", "-json", f"{module.path}@{module.version}"))
    half = path.with_name(f"{path.name}.half")
    if path.name in module.programs:
        (work / "go.mod").write_text(_module_of_ours(module, Path(downloaded["GoMod"]).read_text()))
        package = os.path.normpath(f"{module.path}/{module.programs[path.name]}")
        _go(work, "build", "-mod=mod", "-trimpath", f"-ldflags=-s -w {_stamps(module)}", "-o", str(half), package)
    else:
        (kind,) = (kind for kind in module.kinds if Path(kind).name == path.name)
        shutil.copyfile(Path(downloaded["Dir"]) / kind, half)
    half.rename(path)


def _module_of_ours(module: Module, its_own: str) -> str:
    """Returns the description of a module that requires ``module``, made from what that says of itself.

    It names the same language version: since 1.17 Go does not read what nothing needs. And Kubernetes' own parts are
    taken from where they are published, not from a folder beside it.
    """
    (language,) = re.findall(r"^go \S+$", its_own, re.MULTILINE)
    beside = re.findall(r"^\s*(\S+) => \./staging/", its_own, re.MULTILINE)
    version = re.sub(r"^v1\.", "v0.", module.version)
    replaced = "".join(f"replace {part} => {part} {version}\n" for part in beside)
    return f"module programs\n\n{language}\n\nrequire {module.path} {module.version}\n\n{replaced}"


def _stamps(module: Module) -> str:
    """Returns the linker's flags that tell Kubernetes its version, by which it decides what it serves."""
    if module.path != "k8s.io/kubernetes":
        return ""
    major, minor, _ = module.version.removeprefix("v").split(".")
    stamps = {"gitVersion": module.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamps.items())


def _go(work: Path, *words: str) -> str:
    """Runs Go at the lowest priority, with everything that it keeps in our cache."""
    flags = f"{os.environ.get('GOFLAGS', '')} -modcacherw".strip()
    kept = {"GOMODCACHE": str(SOURCES / "mod"), "GOCACHE": str(SOURCES / "build"), "GOFLAGS": flags}
    environment = {**os.environ, **kept, "GOWORK": "off", "CGO_ENABLED": "0"}
    line = ["nice", "-n", "19", "go", *words]
    return subprocess.run(line, cwd=work, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
