"""`make test-containers`: the tests of services and database against Postgres in containers that want passwords.

It needs docker or podman, and `postgres:16`, `17` and `18` from a registry or here; where they are not, it builds
images of its own. For podman it starts the API that testcontainers asks. `VERSIONS="17"` takes one.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.checks.postgres_image import build
from tests.checks.table import Table
from tools.topology import ROOT

LOGS: Final = ROOT / ".local" / "test-containers"
SERVICES: Final = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("services/*/tests"))
FOLDERS: Final = ("libs/api_common/tests/db", "tests/api")


@contextmanager
def engine() -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yields the program of an engine that answers, and what tells testcontainers of it."""
    if shutil.which("docker") and _runs("docker", "info"):
        yield "docker", {}
        return
    if not shutil.which("podman"):
        raise SystemExit("This check needs docker, running, or podman. On Debian and Ubuntu: apt install podman")
    with tempfile.TemporaryDirectory(prefix="podman") as folder:
        socket = Path(folder) / "podman.sock"
        service = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"])
        try:
            while not socket.exists():
                if service.poll() is not None:
                    raise SystemExit("podman does not start; what it says is above")
                time.sleep(0.1)
            # Its container that cleans up needs docker; each test ends what it has started.
            quiet = {"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_CONNECTION_MODE": "docker_host"}
            yield "podman", {"DOCKER_HOST": f"unix://{socket}", **quiet}
        finally:
            service.terminate()
            service.wait(30)


def test_on(version: str, program: str, told: Mapping[str, str], seen: list[str]) -> None:
    """Runs the tests on one version of Postgres."""
    image = f"docker.io/library/postgres:{version}"
    if not _runs(program, "image", "inspect", image) and not _runs(program, "pull", image):
        image = build(program, version)
        seen.append("an image of our own")
    environment = {**os.environ, **told, "TEST_DATABASE": "container", "TEST_POSTGRES": image}
    words = [sys.executable, "-m", "pytest", "-q", "-n", "2", *SERVICES, *FOLDERS]
    log = LOGS / f"{version}.log"
    with log.open("w") as output:
        done = subprocess.run(words, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False)
    text = log.read_text()
    summaries = re.findall(r"^=*\s*(\d+ (?:passed|failed|error).*?)\s*=*$", text, re.MULTILINE)
    seen.append(summaries[-1] if summaries else "no test ran")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    assert done.returncode == 0, f"{log} says why: {', '.join(failed)}"


def _runs(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def main() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    table = Table("Postgres in containers, with passwords")
    with engine() as (program, told):
        for version in os.environ.get("VERSIONS", "16 17 18").split():
            with table.line(f"Postgres {version}, {program}") as seen:
                test_on(version, program, told, seen)
    table.finish()


if __name__ == "__main__":
    main()
