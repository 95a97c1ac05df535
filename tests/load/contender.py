"""A server under test: how it is started, what it has cost, what it has answered."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.load.stage import Stage

_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 10


class ContenderError(Exception):
    """A contender died, or did not do what it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A server that answers GetUser."""

    name: str
    module: str
    """Run with `python -m`; prints `{"event": "serving", "grpc_port": …}` when it answers."""
    is_constant: bool = False
    """Answers every call with the first user."""
    has_metrics: bool = False
    """Counts its answers, and prints an `operations_port` to read the count from."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it is told beside the stage's environment."""


@dataclass(frozen=True, slots=True)
class Server:
    """A contender that answers."""

    contender: Contender
    process: subprocess.Popen[bytes]
    log: Path
    ports: Mapping[str, int]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['grpc_port']}"

    def cpu_ns(self) -> int:
        """Returns the CPU time that the process has used so far.

        Raises:
            ContenderError: it has died.
        """
        if self.process.poll() is not None:
            raise ContenderError(f"{self.contender.name} has died:\n{self.log.read_text()[-2000:]}")
        return cpu_ns(self.process.pid)

    def answered(self) -> int | None:
        """Returns how many calls it says it has answered with OK; None if it does not count."""
        if not self.contender.has_metrics:
            return None
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['operations_port']}/metrics") as response:
            families = text_string_to_metric_families(response.read().decode())
        samples = (sample for one in families for sample in one.samples)
        wanted = {"rpc_method": "ameide.user.v1.UserService/GetUser", "rpc_status_code": "OK"}
        name = "rpc_server_call_duration_seconds_count"
        return sum(int(sample.value) for sample in samples if sample.name == name and sample.labels == wanted)


@contextmanager
def started(contender: Contender, stage: Stage, *, number: int) -> Iterator[Server]:
    """Runs ``contender`` with its output in a file, as in a pod's log; ``number`` tells its processes apart.

    Raises:
        ContenderError: it does not come up.
    """
    log = stage.folder / f"{number}-{contender.module}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", contender.module],
            env={**stage.environment, **contender.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Server(contender, process, log, _wait(contender, process, log))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu_ns(pid: int) -> int:
    """Returns the CPU time of a process so far, that of ended threads included (`/proc/<pid>/task` forgets them).

    Source: clock_getcpuclockid(3): Linux encodes a process's clock as `~pid << 3 | CPUCLOCK_SCHED`.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def _wait(contender: Contender, process: subprocess.Popen[bytes], log: Path) -> Mapping[str, int]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"serving"' in line:
                ports: Mapping[str, int] = json.loads(line)
                return ports
        time.sleep(0.05)
    raise ContenderError(f"{contender.name} does not come up:\n{log.read_text()[-2000:]}")
