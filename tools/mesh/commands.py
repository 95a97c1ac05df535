"""The commands of the local mesh: up, down, status, reset, migrate."""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from tools.edge import layout as edge
from tools.mesh import issuer, postgres, preparation, processes
from tools.mesh.preparation import Urls
from tools.topology import PROCESSES, SERVICES, SHARED_LIMITS, Mesh, MeshError

STATE = ("pg", "certs", "issuer", "envoy", "environment", "run", "logs", "pagination.keys", "lock")
"""What `reset` removes from the state folder. It removes nothing else: the user may have chosen the folder."""


def up(mesh: Mesh) -> None:
    """Starts the mesh. Returns after a signal or, with `DETACH`, as soon as the mesh answers."""
    mesh.folder.mkdir(parents=True, exist_ok=True)
    with (mesh.folder / "lock").open("a") as lock:
        _take(lock, mesh)
        if running := running_mesh(mesh):
            print(f"The mesh is already running.\n{_addresses(running)}")
            return
        _start(mesh)


def _start(mesh: Mesh) -> None:
    print("Starting the Ameide API mesh", flush=True)
    processes.stop(mesh, (*PROCESSES, *SHARED_LIMITS))  # the rest of a killed mesh
    for folder in (mesh.run, mesh.folder / "logs"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    processes.check_ports(mesh)
    try:
        urls = _prepare(mesh)
    except BaseException:
        postgres.stop(mesh.postgres)
        raise
    if os.environ.get("DETACH", "0") in {"", "0"}:
        _serve(mesh, urls, terminal=sys.stdout, on_ready=lambda: _welcome(mesh, "Ctrl-C stops the mesh."))
        print("The mesh has stopped.")
    elif child := os.fork():
        _await(mesh, child)
        _welcome(mesh, f"{_typed(mesh, 'down')} stops the mesh, {_typed(mesh, 'status')} shows it.")
    else:
        _leave_terminal(mesh.log("mesh"))
        with Path(os.devnull).open("w") as nowhere:
            _serve(mesh, urls, terminal=nowhere, on_ready=lambda: None)


def _prepare(mesh: Mesh) -> Urls:
    preparation.ensure_secrets(mesh)
    _done("certificates and development identity")
    urls = preparation.ensure_databases(mesh)
    _done("databases")
    preparation.migrate(urls)
    _done(f"schemas of {', '.join(service.name for service in SERVICES)}")
    told = issuer.edge(mesh) | {"traced_percent": 100 if mesh.collector else 0}
    told |= {"port_offset": mesh.port_offset, "shared_limits": bool(mesh.shared_limits)}
    edge.lay_out(mesh.envoy, certs=mesh.certificates, **told)
    return urls


def _serve(mesh: Mesh, urls: Urls, *, terminal: TextIO, on_ready: Callable[[], None]) -> None:
    (mesh.run / "port_offset").write_text(str(mesh.port_offset))
    (mesh.run / "mesh.pid").write_text(str(os.getpid()))
    try:
        processes.keep_running(mesh, urls, terminal=terminal, on_ready=on_ready)
    finally:
        postgres.stop(mesh.postgres)
        shutil.rmtree(mesh.run, ignore_errors=True)


def _await(mesh: Mesh, child: int) -> None:
    """Waits until the detached mesh answers.

    Raises:
        MeshError: it stopped; the message holds its log.
    """
    while not processes.ready_mark(mesh).exists():
        if os.waitpid(child, os.WNOHANG)[0]:
            raise MeshError(mesh.log("mesh").read_text().strip())
        time.sleep(0.05)


def _leave_terminal(log: Path) -> None:
    os.setsid()
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)


def down(mesh: Mesh) -> None:
    """Stops the mesh and waits for its end; also stops the rest of a killed mesh."""
    found = dict(processes.pids(mesh))
    if not found and postgres.pid(mesh.postgres) is None:
        print("No mesh is running.")
        return
    if runner := found.get("mesh"):
        runner.terminate()
        deadline = time.monotonic() + processes.STOP_SECONDS + 10
        while "mesh" in dict(processes.pids(mesh)) and time.monotonic() < deadline:
            time.sleep(0.05)
    processes.stop(mesh, (*PROCESSES, *SHARED_LIMITS))
    postgres.stop(mesh.postgres)
    print("The mesh has stopped.")


def status(mesh: Mesh) -> None:
    """Prints a line per process."""
    running = running_mesh(mesh) or mesh
    found = {name: process.pid for name, process in processes.pids(mesh)}
    ports = {name.removesuffix(" grpc").removesuffix(" http"): port for name, port in running.ports.items()}
    print(f"{'PROCESS':<12}{'PID':<10}{'PORT':<8}READY")
    server = postgres.pid(mesh.postgres)
    print(f"{'postgres':<12}{server or '-':<10}{'socket':<8}{'yes' if server else 'no'}")
    for name in (*PROCESSES, *(found.keys() & SHARED_LIMITS)):
        ready = name in found and processes.is_ready(running, name)
        print(f"{name:<12}{found.get(name, '-'):<10}{ports[name]:<8}{'yes' if ready else 'no'}")
    if "mesh" not in found:
        print("\nThe mesh is not running; `make up` starts it.")


def reset(mesh: Mesh) -> None:
    """Stops the mesh and removes its state."""
    down(mesh)
    for path in (mesh.folder / name for name in STATE):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with suppress(OSError):
        mesh.folder.rmdir()
    print(f"{mesh.folder} is clean; `make up` starts anew.")


def migrate(mesh: Mesh) -> None:
    """Brings every schema to its newest revision, whether the mesh runs or not."""
    runs = postgres.pid(mesh.postgres) is not None
    try:
        preparation.migrate(preparation.ensure_databases(mesh))
    finally:
        if not runs:
            postgres.stop(mesh.postgres)
    print(f"Current: the schemas of {', '.join(service.name for service in SERVICES)}")


def running_mesh(mesh: Mesh) -> Mesh | None:
    """Returns the running mesh of the same folder, with its real ports."""
    if "mesh" not in dict(processes.pids(mesh)):
        return None
    return Mesh(mesh.folder, int((mesh.run / "port_offset").read_text()))


def _take(lock: TextIO, mesh: Mesh) -> None:
    """Waits for another `make up` to finish its start; returns without the lock when a mesh runs already."""
    while True:
        try:
            # A record lock ends with this process; with flock, processes that outlive a killed runner would keep it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if processes.ready_mark(mesh).exists():
                return
            time.sleep(0.1)
        else:
            return


def _typed(mesh: Mesh, target: str) -> str:
    return f"make {target}" + (f" PORT_OFFSET={mesh.port_offset}" if mesh.port_offset else "")


def _done(what: str) -> None:
    print(f"  \N{CHECK MARK} {what}", flush=True)


def _welcome(mesh: Mesh, farewell: str) -> None:
    _done("services, issuer and edge")
    print(f"{_addresses(mesh)}\n\n{farewell}\n", flush=True)


def _addresses(mesh: Mesh) -> str:
    ports = mesh.ports
    rows = {
        "The console": f"{mesh.url}/console",
        "REST, gRPC, gRPC-Web": f"{mesh.url}  https://127.0.0.1:{ports['edge https']}",
        "The API, to read and try": f"{mesh.url}/docs",
        "Edge admin": f"http://127.0.0.1:{ports['edge admin']}",
        "Services (mTLS gRPC)": "  ".join(f"{one.name} :{ports[f'{one.name} grpc']}" for one in SERVICES),
        "Metrics and probes": "  ".join(f"{one.name} :{ports[f'{one.name} operations']}" for one in SERVICES),
    }
    token = "$TOKEN" if mesh.other_issuer else f"$({_typed(mesh, '-s token')})"
    headers = f'-H "Authorization: Bearer {token}" -H "Content-Type: application/json"'
    return f"""
{chr(10).join(f"  {name:<26}{value}" for name, value in rows.items())}

Try it from another terminal:

  curl {mesh.url}/v1/workflows {headers} -d '{{"displayName": "Hello"}}'"""


def main() -> None:
    commands = {"up": up, "down": down, "status": status, "reset": reset, "migrate": migrate}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit(f"usage: python -m tools.mesh {' | '.join(commands)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        commands[sys.argv[1]](Mesh.from_environment())
    except MeshError as error:
        raise SystemExit(f"\n{error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
