"""What a process imports that serves: all of it is in the memory of every replica, and takes time at its start."""

import subprocess
import sys
from typing import Final

UNUSED: Final = {
    "alembic": "migrations",
    "sqlalchemy.orm": "migrations",
    "httpx": "the keys of an issuer that is asked for them",
    "opentelemetry.sdk": "a collector",
}
"""Packages, and the only thing that needs them."""


def test_a_process_that_serves_holds_nothing_for_what_it_does_not_do() -> None:
    program = f"import sys, api_common.server; print({set(UNUSED)}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
