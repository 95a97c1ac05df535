"""Lets Envoy check the built configuration: `python -m tools.edge.validate`."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tools.edge.layout import lay_out
from tools.edge.run import ENVOY_PROGRAM
from tools.secrets import certificates

_UNFINISHED: Final = (
    r"(mcp_json_rest_bridge/v3/mcp_json_rest_bridge|connect_grpc_bridge/v3/config)\.proto' marked as work"
)
"""What we use although Envoy calls it work in progress (ADR 40, ADR 41)."""


def validate(folder: Path) -> None:
    """Lays the local edge out in ``folder``, with new certificates, and lets Envoy check it, also with shared limits.

    Raises:
        ValueError: Envoy refuses the configuration, or warns of something that is deprecated, or is unfinished and
            not in `_UNFINISHED`.
    """
    certificates.ensure(folder / "certs")
    words = [str(ENVOY_PROGRAM), "--mode", "validate", "--config-path", "envoy.yaml", "--disable-hot-restart"]
    for shared_limits in (False, True):
        lay_out(folder / "envoy", certs=folder / "certs", shared_limits=shared_limits)
        done = subprocess.run(words, cwd=folder / "envoy", capture_output=True, text=True, check=False)
        warnings = re.findall(r'.*(?:\[warning\]|"level":"warning").*', done.stderr)
        if done.returncode or not all(re.search(_UNFINISHED, one) for one in warnings):
            raise ValueError(f"Envoy refuses the configuration:\n{done.stderr}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        try:
            validate(Path(name))
        except ValueError as error:
            raise SystemExit(str(error)) from None
