"""The services of `services.yaml`, and the ports and files of a local mesh."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
ISSUER: Final = "https://dev.ameide.local/"
AUDIENCE: Final = "ameide-api"


class MeshError(Exception):
    """A command failed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the mesh."""

    name: str
    grpc_port: int
    operations_port: int
    siblings: Sequence[str] = ()
    """The services that it calls."""
    issues_api_keys: bool = False

    @property
    def module(self) -> str:
        return f"{self.name}_service"

    @property
    def callers(self) -> Sequence[str]:
        """The services that call it, and so may call its internal methods."""
        return [other.name for other in SERVICES if self.name in other.siblings]


SERVICES: Final = tuple(
    Service(name, **entry) for name, entry in yaml.safe_load((ROOT / "services.yaml").read_text()).items()
)
LIMITS: Final = Service("limits", grpc_port=50060, operations_port=9160)
"""The service of the shared limits, which is not ours (ADR 50)."""
NAMED: Final = {service.name: service for service in SERVICES}
EDGE_PORTS: Final = {"edge http": 8080, "edge https": 8443, "edge admin": 9901, "edge operations": 9105}
ISSUER_PORT: Final = 9100
STORE_PORT: Final = 9161
COLLECTOR_PORT: Final = 4317
SAFE_OFFSETS: Final = range(11_000, 15_400, 100)
"""With these offsets no port of a mesh is one that Linux may give to an outgoing connection (32768 to 60999)."""


@dataclass(frozen=True)
class Mesh:
    """One mesh on this machine: its state folder and how far its ports are moved."""

    folder: Path
    port_offset: int

    @classmethod
    def from_environment(cls) -> Self:
        """Reads `AMEIDE_LOCAL_DIR` and `PORT_OFFSET`.

        Raises:
            MeshError: the offset is no number, or moves a port out of range.
        """
        folder = Path(os.environ.get("AMEIDE_LOCAL_DIR") or ROOT / ".local").resolve()
        given = os.environ.get("PORT_OFFSET") or "0"
        try:
            mesh = cls(folder, int(given))
        except ValueError:
            raise MeshError(f"PORT_OFFSET must be a whole number, not {given!r}.") from None
        if not all(1024 <= port <= 65535 for port in mesh.ports.values()):
            raise MeshError(f"PORT_OFFSET={given} moves a port out of 1024..65535; try PORT_OFFSET={SAFE_OFFSETS[0]}.")
        return mesh

    @cached_property
    def ports(self) -> dict[str, int]:
        """The ports of the mesh, by what listens there."""
        ports = EDGE_PORTS | {"issuer": ISSUER_PORT, "store": STORE_PORT}
        for one in (*SERVICES, LIMITS):
            ports |= {f"{one.name} grpc": one.grpc_port, f"{one.name} operations": one.operations_port}
        return {name: port + self.port_offset for name, port in ports.items()}

    @property
    def collector(self) -> str:
        """Returns the address of the collector of traces and metrics: `make up TELEMETRY=on`; empty without one."""
        return f"http://127.0.0.1:{COLLECTOR_PORT + self.port_offset}" if os.environ.get("TELEMETRY") == "on" else ""

    @property
    def shared_limits(self) -> Sequence[str]:
        """Returns what runs so that edges share their limits: with `make up LIMITS=shared`."""
        return SHARED_LIMITS if os.environ.get("LIMITS") == "shared" else ()

    @property
    def other_issuer(self) -> str:
        """Returns the issuer of `make up ISSUER=…`; empty with the development issuer."""
        return os.environ.get("ISSUER", "")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['edge http']}"

    @property
    def certificates(self) -> Path:
        return self.folder / "certs"

    @property
    def issuer(self) -> Path:
        return self.folder / "issuer"

    @property
    def envoy(self) -> Path:
        return self.folder / "envoy"

    @property
    def postgres(self) -> Path:
        return self.folder / "pg"

    @property
    def pagination_keys(self) -> Path:
        return self.folder / "pagination.keys"

    @property
    def run(self) -> Path:
        """The folder of process ids and of the mark that the mesh answers."""
        return self.folder / "run"

    def log(self, process: str) -> Path:
        return self.folder / "logs" / f"{process}.log"

    def readiness_url(self, process: str) -> str:
        """Returns the URL that answers 200 when ``process`` (a service, `issuer` or `edge`) takes traffic."""
        of_shared_limits = ("limits operations", "healthcheck")
        places = {"edge": ("edge operations", "healthz"), "issuer": ("issuer", "internal-jwks.json")}
        places |= dict.fromkeys(SHARED_LIMITS, of_shared_limits)
        port, path = places.get(process, (f"{process} operations", "readyz"))
        return f"http://127.0.0.1:{self.ports[port]}/{path}"


SHARED_LIMITS: Final = ("store", "limits")
PROCESSES: Final = (*(service.name for service in SERVICES), "issuer", "edge")
"""The processes that the runner restarts, in the order of `make status`; there are those of the shared limits, too."""
