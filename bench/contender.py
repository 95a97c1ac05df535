"""Contenders of a benchmark: their processes, the calls they serve, their CPU time and memory."""

import os
import socket
import string
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.order import Transport
from bench.stage import POOLS, Stage
from tools.edge import layout as edge
from tools.edge.run import command
from tools.topology import EDGE_PORTS, SERVICES

START_SECONDS: Final = 120
_STOP_SECONDS: Final = 10
_PEAK: Final = "5"
"""Resets the peak of the memory, written to `/proc/<pid>/clear_refs` (proc_pid_clear_refs(5))."""


class ContenderError(Exception):
    """A contender died, or answered wrongly."""


@dataclass(frozen=True, slots=True)
class Program:
    """A running process and its children."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    metrics_port: int = 0
    """The port of its metrics; 0 if it has none."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        """Returns its process ids, children after parents.

        Raises:
            ContenderError: it has died.
        """
        if self.process.poll() is not None:
            raise ContenderError(f"{self.name} has died:\n{self.log.read_text()[-2000:]}")
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [self.process.pid, *(child.pid for child in children)]

    def cpu_ns(self) -> int:
        """Returns the CPU time that it has used so far."""
        return sum(map(cpu_ns, self.pids()))

    def answered(self, method: str) -> int | None:
        """Returns its own count of calls of an RPC that ended with OK; None if it does not count."""
        if not self.metrics_port:
            return None
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as response:
            families = text_string_to_metric_families(response.read().decode())
        samples = (sample for one in families for sample in one.samples)
        wanted = {"rpc_method": method, "rpc_response_status_code": "OK"}
        name = "rpc_server_call_duration_seconds_count"
        return sum(int(sample.value) for sample in samples if sample.name == name and sample.labels == wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One competitor: the processes that do the work."""

    name: str
    transport: Transport
    programs: Mapping[str, Program]
    """The process that serves each collection; other collections are not measured."""
    edge: Program | None = None
    """The proxy in front of it."""
    works: Sequence[str] = ()
    """The works that it supports; empty means all works of its collections."""
    is_constant: bool = False
    """Answers every call with the first user."""

    def address(self, resource: str) -> str:
        return (self.edge or self.programs[resource]).address


@contextmanager
def started_peer(name: str, words: Sequence[str], stage: Stage, *, tls: bool = False) -> Iterator[Program]:
    """Runs a program that listens on the port in `PORT`; if there is a `TLS`, it speaks that."""
    port = free_port()
    given = {**stage.environments["users"], "PORT": str(port)} | ({"TLS": "1"} if tls else {})
    for service, url in stage.admin_urls.items():
        given |= {f"{service.upper()}_ADMIN_URL": url, f"{service.upper()}_POOL": str(POOLS[service])}
    with _running(name, words, given, stage.folder, port) as program:
        yield program


@contextmanager
def started_service(
    name: str,
    stage: Stage,
    *,
    label: str = "",
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Iterator[Program]:
    """Runs a service as it is deployed, where the edge looks for it, or with a ``label`` elsewhere."""
    service = next(one for one in SERVICES if one.name == name)
    port, metrics_port = stage.mesh.ports[f"{name} grpc"], stage.mesh.ports[f"{name} operations"]
    given = {**stage.environments[name], **(environment or {})}
    if label:
        port, metrics_port = free_port(), free_port()
        prefix = f"{name.upper()}_SERVER"
        given |= {f"{prefix}_GRPC_PORT": str(port), f"{prefix}_OPERATIONS_PORT": str(metrics_port)}
    words = (python, "-m", service.module)
    with _running(label or name, words, given, stage.folder, port, metrics_port) as program:
        yield program


@contextmanager
def started_edge(
    stage: Stage, *, change: Callable[[Path], None] | None = None, under: Sequence[str] = ()
) -> Iterator[Program]:
    """Runs the issuer and the edge.

    Args:
        change: changes the files of the edge.
        under: a command that wraps Envoy's own.
    """
    edge.lay_out(stage.mesh.envoy, certs=stage.mesh.certificates, port_offset=stage.mesh.port_offset)
    if change:
        change(stage.mesh.envoy)
    given = {
        **os.environ,
        "AMEIDE_LOCAL_DIR": str(stage.mesh.folder),
        "PORT_OFFSET": str(stage.mesh.port_offset),
    }
    issuer = (sys.executable, "-m", "tools.secrets.issuer")
    port = EDGE_PORTS["edge http"] + stage.mesh.port_offset
    with (
        _running("issuer", issuer, given, stage.folder, stage.mesh.ports["issuer"]),
        _running("edge", (*under, *command(stage.mesh.envoy)), given, stage.folder, port) as program,
    ):
        yield program


@contextmanager
def started_proxy(
    name: str, stage: Stage, source: Path, values: Mapping[str, object], *, under: Sequence[str] = ()
) -> Iterator[Program]:
    """Runs the Envoy of our edge, in the same way, with another configuration (see `write_proxy`).

    Args:
        under: a command that wraps Envoy's own.
    """
    port = free_port()
    folder = stage.folder / name
    write_proxy(folder, source, {**values, "port": port})
    with _running(name, (*under, *command(folder)), os.environ, stage.folder, port) as program:
        yield program


def write_proxy(folder: Path, source: Path, values: Mapping[str, object]) -> None:
    """Writes the `envoy.yaml` of a proxy: ``source`` with ``values`` for what begins with a dollar sign."""
    folder.mkdir()
    # Envoy knows no merge keys.
    document = yaml.load(string.Template(source.read_text()).substitute(values), yaml.CSafeLoader)
    (folder / "envoy.yaml").write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))


def cpu_ns(pid: int) -> int:
    """Returns the CPU time of a process so far, including ended threads, which `/proc/<pid>/task` omits.

    Source: clock_getcpuclockid(3): Linux encodes a process's clock as `~pid << 3 | CPUCLOCK_SCHED`.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def forget_peak(program: Program) -> None:
    """Resets the peak of the memory, if the system permits it."""
    for pid in program.pids():
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text(_PEAK)


def peak_mb(program: Program) -> float:
    """Returns the peak of the memory since it was reset."""
    lines = (line for pid in program.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(
    name: str, words: Sequence[str], given: Mapping[str, str], folder: Path, port: int, metrics_port: int = 0
) -> Iterator[Program]:
    """Runs a program with its output in a file, as in a pod's log."""
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, env=given, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield Program(name, process, log, port, metrics_port)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_all(programs: Sequence[Program]) -> None:
    """Waits until they accept connections.

    Raises:
        ContenderError: one does not.
    """
    deadline = time.monotonic() + START_SECONDS
    for program in programs:
        for port in filter(None, (program.port, program.metrics_port)):
            while not _accepts(port):
                program.pids()
                if time.monotonic() > deadline:
                    raise ContenderError(f"{program.name} does not come up:\n{program.log.read_text()[-2000:]}")
                time.sleep(0.05)
        # Another process may have taken the port first and accept in its place.
        program.pids()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
