"""Images of Postgres for where no registry answers: a small Debian and the binaries that Maven Central has."""

import platform
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from zipfile import ZipFile

from tools.topology import ROOT

CACHE: Final = ROOT / ".cache" / "postgres"
SOURCES: Final = ROOT / "tests" / "checks" / "postgres"
VERSIONS: Final = {"16": "16.15.0", "17": "17.11.0", "18": "18.6.0"}
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64v8"}
_BASE: Final = CACHE / "base.tar"
_HOOKS: Final = (
    "localedef -i en_US -f UTF-8 en_US.UTF-8",
    "useradd --create-home --home-dir /var/lib/postgresql postgres",
)


def build(program: str, version: str) -> str:
    """Builds an image with docker or podman unless it is here already, and returns its name.

    Raises:
        SystemExit: what it needs is not here.
    """
    name = f"localhost/ameide-postgres:{VERSIONS[version]}"
    if subprocess.run([program, "image", "inspect", name], capture_output=True, check=False).returncode == 0:
        return name
    missing = [one for one in ("mmdebstrap", "mvn") if shutil.which(one) is None]
    if missing:
        raise SystemExit(
            f"No registry answers. To build {name} needs {' and '.join(missing)}. On Debian: apt install "
            "mmdebstrap maven default-jre"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    if not _BASE.exists():
        half = _BASE.with_name("half.tar")
        hooks = [f'--customize-hook=chroot "$1" {one}' for one in _HOOKS]
        words = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=locales,postgresql-client", *hooks]
        subprocess.run([*words, "trixie", str(half)], check=True)
        half.rename(_BASE)
    with TemporaryDirectory(prefix="postgres", dir=CACHE) as folder:
        context = Path(folder)
        shutil.copytree(SOURCES, context, dirs_exist_ok=True)
        (context / "base.tar").hardlink_to(_BASE)
        with ZipFile(_binaries(VERSIONS[version])) as archive:
            (inner,) = (one for one in archive.namelist() if one.endswith(".txz"))
            (context / "postgres.txz").write_bytes(archive.read(inner))
        subprocess.run(
            [program, "build", "--quiet", "--file", str(context / "Containerfile"), "--tag", name, folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return name


def _binaries(version: str) -> Path:
    """Returns the archive of a version, from Maven Central unless it is here already."""
    group, artifact = "io.zonky.test.postgres", f"embedded-postgres-binaries-linux-{_MACHINES[platform.machine()]}"
    maven = CACHE / "maven"
    words = ["mvn", "-q", "-B", f"-Dmaven.repo.local={maven}", "dependency:get", "-Dtransitive=false"]
    subprocess.run([*words, f"-Dartifact={group}:{artifact}:{version}"], check=True)
    (found,) = maven.joinpath(*group.split("."), artifact, version).glob("*.jar")
    return found
