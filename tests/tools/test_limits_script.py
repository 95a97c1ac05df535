"""What runs the shared limits of `make up LIMITS=shared`; `make check-limits` runs it whole."""

import shutil
import subprocess
from pathlib import Path

from tools.topology import LIMITS, ROOT, STORE_PORT

SCRIPT = ROOT / "tools" / "mesh" / "limits.sh"


def check(folder: Path, *programs: str) -> tuple[int, str]:
    """Asks a copy of the script what is missing, where only ``programs`` are."""
    copy = folder / "tools" / "mesh" / SCRIPT.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPT, copy)
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "dirname").unlink(missing_ok=True)
    (folder / "bin" / "dirname").symlink_to(str(shutil.which("dirname")))
    for name in programs:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    done = subprocess.run(
        ["/bin/sh", copy, "check"], env={"PATH": str(folder / "bin")}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    store = "Valkey or Redis (on Debian and Ubuntu: apt install redis-server)"
    service = "envoyproxy/ratelimit (make ratelimit builds it; needs Go)"
    assert check(tmp_path) == (1, f"The shared limits need {store}, and {service}.\n")
    assert check(tmp_path, "bin/valkey-server") == (1, f"The shared limits need {service}.\n")
    assert check(tmp_path, ".cache/ratelimit/bin/service_cmd") == (0, "")


def test_listens_where_the_mesh_says() -> None:
    text = SCRIPT.read_text()
    ports = {f"PORT=$(({LIMITS.operations_port} + $3))", f"GRPC_PORT=$(({LIMITS.grpc_port} + $3))"}
    assert all(port in text for port in (*ports, f"--port $(({STORE_PORT} + $3))"))
    assert text.count(f"$(({STORE_PORT} + $3))") == 3
