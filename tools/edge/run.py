"""The command that runs the edge in the folder that `layout` has filled."""

import shlex
import sys
from pathlib import Path
from typing import Final

DRAIN_SECONDS: Final = 30
ENVOY_PROGRAM: Final = Path(sys.executable).with_name("envoy")


def command(target: Path, *, drain_seconds: int = DRAIN_SECONDS) -> list[str]:
    """Returns the command that becomes Envoy, in ``target``: the paths in its configuration are relative to that.

    Args:
        drain_seconds: from the order to drain until the listeners close.
    """
    words = [str(ENVOY_PROGRAM), "--config-path", "envoy.yaml", "--concurrency", "2", "--log-level", "warning"]
    # With the default of 10 s a reader would take the log for empty.
    words += ["--drain-time-s", str(drain_seconds), "--file-flush-interval-msec", "500"]
    # No hot restart: two edges on one machine would share memory, and the second one would die.
    words += ["--disable-hot-restart"]
    return ["sh", "-c", f"cd {shlex.quote(str(target))} && exec {shlex.join(words)}"]
