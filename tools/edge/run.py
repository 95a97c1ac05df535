"""Runs the edge in the folder that `layout` has filled: `python tools/edge/run.py FOLDER DRAIN_SECONDS`."""

import os
import sys
from pathlib import Path
from typing import Final, NoReturn

DRAIN_SECONDS: Final = 30
ENVOY_PROGRAM: Final = Path(sys.executable).with_name("envoy")


def command(target: Path, *, drain_seconds: int = DRAIN_SECONDS) -> list[str]:
    """Returns the command that runs the edge in ``target``; it may be started in any folder.

    Args:
        drain_seconds: from the order to drain until the listeners close.
    """
    return [sys.executable, str(Path(__file__).resolve()), str(target), str(drain_seconds)]


def run(target: Path, drain_seconds: str) -> NoReturn:
    """Becomes Envoy, in ``target``: the paths in its configuration are relative to that."""
    os.chdir(target)
    options = {
        "--config-path": "envoy.yaml",
        "--concurrency": "2",
        "--log-level": "warning",
        "--drain-time-s": drain_seconds,
        # With the default of 10 s a reader would take the log for empty.
        "--file-flush-interval-msec": "500",
    }
    words = [word for option in options.items() for word in option]
    # No hot restart: two edges on one machine would share memory, and the second one would die.
    os.execv(ENVOY_PROGRAM, [str(ENVOY_PROGRAM), *words, "--disable-hot-restart"])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python tools/edge/run.py FOLDER DRAIN_SECONDS")
    run(Path(sys.argv[1]), sys.argv[2])
