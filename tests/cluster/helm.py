"""Helm, by its Go library from PyPI, with which the chart's tests render, too.

Each command is a process of its own: what waits in Go hears nothing of Ctrl-C, and can be ended from outside.
"""

import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import helm_python

from tests.helm.release import CHART
from tools.topology import ROOT

REFUSED: Final = 3
"""The exit code of a command that Helm refuses."""


@dataclass(frozen=True)
class Helm:
    """The commands for one release, each as `helm … --wait`."""

    release: str
    namespace: str
    kubeconfig: Path
    seconds: int
    """How long a command may wait."""

    def run(self, verb: str, *more: Any) -> None:
        """Runs a command that has to succeed, without a warning."""
        done = self._ask(verb, *more)
        assert done.returncode == 0, done.stdout
        # Where the client of Kubernetes writes what the API server warns of.
        assert "warnings.go" not in done.stdout, done.stdout

    def refuses(self, verb: str, *more: Any) -> str:
        """Runs a command that has to be refused; returns what Helm says."""
        done = self._ask(verb, *more)
        assert done.returncode == REFUSED, f"{done.returncode}: {done.stdout}"
        return " ".join(line for line in done.stdout.splitlines() if " INFO " not in line)

    def _ask(self, *words: Any) -> subprocess.CompletedProcess[str]:
        told = [self.release, self.namespace, str(self.kubeconfig), self.seconds, *words]
        line = [sys.executable, "-m", __name__, json.dumps(told)]
        out = subprocess.PIPE
        return subprocess.run(line, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True, check=False)


def main() -> None:
    release, namespace, kubeconfig, seconds, verb, *more = json.loads(sys.argv[1])
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    helm_python.enable_logging(logging.WARNING)
    config = helm_python.Config(kubeconfig_path=kubeconfig, namespace=namespace)
    waits: dict[str, Any] = {"timeout": seconds, "wait": "watcher"}
    try:
        match verb:
            case "install":
                config.install(CHART, release, more[0], namespace=namespace, **waits)
            case "upgrade":
                config.upgrade(CHART, release, more[0], namespace=namespace, reset_values=True, **waits)
            case "rollback":
                config.rollback(release, version=more[0], **waits)
            case "test":
                config.test(release, timeout=seconds)
            case "uninstall":
                config.uninstall(release, **waits)
    except helm_python.HelmError as error:
        print(error)
        raise SystemExit(REFUSED) from None


if __name__ == "__main__":
    main()
