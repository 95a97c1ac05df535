"""Makes a service: `python -m tools.scaffold connectors` writes its files and the lines that others have of it."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.topology import NAMED, ROOT, SERVICES, Mesh

TEMPLATE: Final = Path(__file__).parent
TELEMETRY: Final = ROOT / "docs" / "telemetry.md"


def render(name: str, target: Path) -> None:
    """Writes the files of the service ``name`` below ``target``, formatted.

    Raises:
        ValueError: the name is not the plural of one word.
    """
    import copier

    copier.run_copy(str(TEMPLATE), target, data={"name": name}, defaults=True, quiet=True)
    programs = Path(sys.executable).parent
    service, proto = target / "services" / name, target / "proto" / "ameide" / name[:-1] / "v1" / f"{name[:-1]}.proto"
    ruff = (programs / "ruff", "--config", ROOT / "pyproject.toml")
    # The order of imports and the breaks of lines depend on the name.
    for command in (
        (*ruff, "check", "--fix-only", "--quiet", service),
        (*ruff, "format", "--quiet", service),
        (programs / "buf", "format", "-w", proto),
    ):
        subprocess.run(command, check=True, cwd=target)


def add_to_list(name: str) -> None:
    """Adds the service to `services.yaml`, with the next ports that no process of a mesh has."""
    taken = Mesh(Path(), 0).ports.values()
    after = (max(one.grpc_port for one in SERVICES), max(one.operations_port for one in SERVICES))
    grpc_port, operations_port = (next(p for p in range(last + 1, 65536) if p not in taken) for last in after)
    with (ROOT / "services.yaml").open("a") as services:
        services.write(f"{name}: {{grpc_port: {grpc_port}, operations_port: {operations_port}, siblings: [users]}}\n")


def add_events(name: str) -> None:
    """Adds the service's business events to their table, before those of deployments."""
    row = f"| `{name[:-1]}` | created, updated, deleted, undeleted, activated, disabled |\n"
    TELEMETRY.write_text(TELEMETRY.read_text().replace("| `deployment` |", f"{row}| `deployment` |", 1))


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: make new-service NAME=connectors")
    name = sys.argv[1]
    if name in NAMED:
        raise SystemExit(f"The service {name} exists.")
    try:
        render(name, ROOT)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    add_to_list(name)
    add_events(name)


if __name__ == "__main__":
    main()
