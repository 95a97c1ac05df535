"""Runs the processes of the mesh. honcho starts them and labels their output; we add readiness and restarts."""

import contextlib
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TextIO

import honcho.manager
import psutil
from honcho.printer import Message, Printer

from tools.edge import run as edge
from tools.mesh.preparation import Urls, environment
from tools.topology import PROCESSES, ROOT, SAFE_OFFSETS, SERVICES, SHARED_LIMITS, Mesh, MeshError

START_SECONDS = 60
STOP_SECONDS = 30
# honcho counts from the first process that has stopped; services drain in less time.
honcho.manager.KILL_WAIT = STOP_SECONDS + 2

_STOPPED = re.compile(r"(\w+) stopped \(rc=(-?\d+)\)")


def pids(mesh: Mesh) -> Iterator[tuple[str, psutil.Process]]:
    """Yields the living processes of the mesh, the runner among them as `mesh`."""
    for name in ("mesh", *PROCESSES, *SHARED_LIMITS):
        path = mesh.run / f"{name}.pid"
        try:
            process = psutil.Process(int(path.read_text()))
            # The process wrote the file itself: a process that is younger than the file reuses the number.
            if process.create_time() <= path.stat().st_mtime + 1 and process.status() != psutil.STATUS_ZOMBIE:
                yield name, process
        except (OSError, ValueError, psutil.Error):
            continue


def is_ready(mesh: Mesh, process: str) -> bool:
    """Tells whether a service or the edge takes traffic."""
    try:
        with urllib.request.urlopen(mesh.readiness_url(process), timeout=1) as response:  # noqa: S310 - our own http URL
            return bool(response.status == 200)
    except OSError:
        return False


def check_ports(mesh: Mesh) -> None:
    """Checks that the ports that the mesh will use are free; the error names what else has one."""
    owners: dict[int, str] = {}
    for name, port in mesh.ports.items():
        if (owner := owners.setdefault(port, name)) != name:
            raise MeshError(f"{owner} and {name} have one port, {port}. Give one of them another in services.yaml.")
        if (mesh.shared_limits or name.split()[0] not in SHARED_LIMITS) and not is_free(port):
            raise MeshError(
                f"Port {port} ({name}) is taken{_holder_of(port)}.\n"
                f"Stop that program, or move the whole mesh: make up PORT_OFFSET={free_offset()}"
            )


def free_offset() -> int:
    """Returns a `PORT_OFFSET` with which a mesh can start now."""
    return next((n for n in SAFE_OFFSETS if all(map(is_free, Mesh(Path(), n).ports.values()))), SAFE_OFFSETS[0])


def tail(mesh: Mesh, process: str) -> str:
    """Returns the last 15 lines of a process's log, indented."""
    path = mesh.log(process)
    text = path.read_text(errors="replace").splitlines()[-15:] if path.exists() else []
    return "\n".join([f"The end of {path}:", *(f"    {line}" for line in text or ["(empty)"])])


def keep_running(mesh: Mesh, urls: Urls, *, terminal: TextIO, on_ready: Callable[[], None]) -> None:
    """Runs services and edge until a signal, then drains them.

    Raises:
        MeshError: a process died, or did not answer in time.
    """
    output = _Output(mesh, terminal)
    manager = _Manager(mesh, output)
    for service in SERVICES:
        command = [sys.executable, "-m", service.module]
        manager.add_process(service.name, kept(mesh, service.name, command), env=environment(mesh, service, urls))
    manager.add_process("issuer", kept(mesh, "issuer", [sys.executable, "-m", "tools.secrets.issuer"]))
    manager.add_process("edge", kept(mesh, "edge", edge.command(mesh.envoy)))
    for name in mesh.shared_limits:
        command = [str(ROOT / "tools/mesh/limits.sh"), name, str(mesh.folder), str(mesh.port_offset)]
        manager.add_process(name, kept(mesh, name, command))
    failure: list[str] = []

    def watch() -> None:
        waiting, deadline = [*PROCESSES, *mesh.shared_limits], time.monotonic() + START_SECONDS
        while waiting := [process for process in waiting if not is_ready(mesh, process)]:
            if manager.stopping:
                return
            if time.monotonic() > deadline:
                failure.append(f"{waiting[0]} does not answer after {START_SECONDS} s.\n{tail(mesh, waiting[0])}")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.05)
        if not manager.stopping:
            on_ready()
            output.shown = True
            ready_mark(mesh).touch()

    output.on_first_line = threading.Thread(target=watch, daemon=True).start
    manager.loop()
    asked = manager.returncode in {130, 143}  # a signal stopped the mesh, and not the end of a process
    if output.first_stopped and not asked:
        name, code = output.first_stopped
        raise MeshError(f"{name} stopped with exit code {code}.\n{tail(mesh, name)}")
    if failure:
        raise MeshError(failure[0])


def stop(mesh: Mesh, names: Collection[str]) -> None:
    """Ends processes and their groups with SIGTERM, and with SIGKILL after `STOP_SECONDS`."""
    ready_mark(mesh).unlink(missing_ok=True)
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        for name, process in pids(mesh):
            if name in names:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(os.getpgid(process.pid), number)
        while any(name in names for name, _ in pids(mesh)) and time.monotonic() < deadline:
            time.sleep(0.05)


def ready_mark(mesh: Mesh) -> Path:
    """Returns the file that exists while the mesh answers; meanwhile its processes are restarted when they end."""
    return mesh.run / "ready"


class _Manager(honcho.manager.Manager):  # type: ignore[misc]  # honcho has no types
    """Stops the services before the edge, which carries their last answers."""

    def __init__(self, mesh: Mesh, output: Printer) -> None:
        super().__init__(output)
        self._mesh = mesh
        self.stopping = False

    def terminate(self) -> None:
        if not self.stopping:
            self.stopping = True
            stop(self._mesh, [service.name for service in SERVICES])
        super().terminate()


class _Output(Printer):  # type: ignore[misc]  # honcho has no types
    """Writes every line to its process's log, and to the terminal once the mesh is ready."""

    def __init__(self, mesh: Mesh, terminal: TextIO) -> None:
        super().__init__(terminal)
        self._mesh = mesh
        self._logs: dict[str, TextIO] = {}
        self.shown = False
        self.first_stopped: tuple[str, int] | None = None
        self.on_first_line: Callable[[], None] | None = None

    def write(self, message: Message) -> None:
        if self.on_first_line:
            # honcho has forked all its processes by now, so a thread may start.
            start, self.on_first_line = self.on_first_line, None
            start()
        if message.name == honcho.manager.SYSTEM_PRINTER_NAME:
            if (match := _STOPPED.match(message.data)) and self.first_stopped is None:
                self.first_stopped = (match[1], int(match[2]))
            return
        if message.name not in self._logs:
            self._logs[message.name] = self._mesh.log(message.name).open("w", buffering=1)
        self._logs[message.name].write(message.data.decode("utf-8", "replace"))
        if self.shown:
            super().write(message)


def kept(mesh: Mesh, name: str, command: list[str]) -> str:
    """Returns a shell line that runs ``command``, and runs it again when it ends while the mesh is ready."""
    pid_file, ready = shlex.quote(str(mesh.run / f"{name}.pid")), shlex.quote(str(ready_mark(mesh)))
    once = shlex.quote(f"echo $$ > {pid_file}; exec {shlex.join(command)}")
    kept = f"test -e {ready} || exit $code"
    # The trap keeps the shell alive when its group gets SIGTERM: it waits until the command has drained.
    return (
        f"trap : TERM; while :; do sh -c {once}; code=$?; {kept}; "
        f'echo "{name} ended with exit code $code; starting it again"; sleep 1; {kept}; done'
    )


def is_free(port: int) -> bool:
    """Tells whether a server can listen on ``port`` now."""
    try:
        # It sets SO_REUSEADDR, as servers do: a port with connections in TIME_WAIT is free.
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _holder_of(port: int) -> str:
    with contextlib.suppress(psutil.Error):  # another user's process: the port alone is named
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f" by `{shlex.join(psutil.Process(connection.pid).cmdline())[:80]}` (pid {connection.pid})"
    return ""
