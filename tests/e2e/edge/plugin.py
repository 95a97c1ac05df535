"""The real Envoy with our envoy.yaml, in front of one scripted service; the other three are down."""

import asyncio
import json
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.e2e.edge.backend import Backend, serving
from tests.ports import reserved
from tools.edge import layout as edge_tool
from tools.edge.run import DRAIN_SECONDS, command
from tools.secrets import certificates
from tools.secrets.issuer import IssuerServer
from tools.topology import ISSUER_PORT, LIMITS

START_SECONDS: Final = 20
USERS_PORT: Final = 50051
WORKFLOWS_PORT: Final = 50052
# Between two edges of one run, and how many there may be.
NEXT: Final = 100
EDGES: Final = 4
STREAMS: Final = 3
"""How many the impatient edge lets a service have."""

Change = Callable[[Any], None]
"""Changes the connection manager that both listeners share."""
Layout = Callable[..., "Edge"]


@dataclass(frozen=True)
class Issuer:
    """Signs tokens that the edge accepts, and others."""

    key: rsa.RSAPrivateKey
    spare: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def token(self, *, key_id: str = "one", **claims: object) -> str:
        """Signs a good token's claims, changed by ``claims``; None leaves one out."""
        now = int(time.time())
        good = {
            "iss": "https://dev.ameide.local/",
            "aud": "ameide-api",
            "sub": "ada",
            "tenant_id": "acme",
            "roles": ["admin"],
            "iat": now,
            "exp": now + 12 * 3600,
        }
        chosen = {name: value for name, value in (good | claims).items() if value is not None}
        return jwt.encode(chosen, self.key, "RS256", headers={"kid": key_id})

    @staticmethod
    def now() -> int:
        return int(time.time())

    def key_set(self) -> dict[str, Any]:
        public = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        second = ECAlgorithm.to_jwk(self.spare.public_key(), as_dict=True)
        return {
            "keys": [
                public | {"kid": "one", "use": "sig", "alg": "RS256"},
                second | {"kid": "two", "use": "sig", "alg": "ES256"},
            ]
        }


@dataclass(frozen=True)
class Edge:
    """A running Envoy."""

    folder: Path
    offset: int
    """How far its own ports are moved."""
    token: str

    @property
    def port(self) -> int:
        return 8080 + self.offset

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def secure_port(self) -> int:
        return 8443 + self.offset

    @property
    def secure_url(self) -> str:
        return f"https://localhost:{self.secure_port}"

    @property
    def operations_url(self) -> str:
        return f"http://127.0.0.1:{9105 + self.offset}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{9901 + self.offset}"

    @property
    def credentials(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "certs" / "ca.pem"))

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Opens a plain-text client; loading certificates for it would take longer than its requests."""
        return httpx.AsyncClient(base_url=self.url, timeout=20, verify=False, **options)

    def channel(self) -> grpc.aio.Channel:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "stdout").read_text().splitlines()]


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer(rsa.generate_private_key(public_exponent=65537, key_size=2048))


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    certificates.ensure(folder)
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, offset: int, issuer: Issuer) -> Iterator[None]:
    """The issuer's keys, where the edge looks for them."""
    folder = tmp_path_factory.mktemp("issuer")
    for name in ("jwks.json", "internal-jwks.json"):
        (folder / name).write_text(json.dumps(issuer.key_set()))
    with publishing(IssuerServer(folder, ISSUER_PORT + offset)):
        yield


@pytest.fixture(scope="session")
def layout(
    tmp_path_factory: pytest.TempPathFactory, certs: Path, issuer: Issuer, offset: int, service: Backend
) -> Layout:
    """Fills a folder for an edge: `layout(name, number, change)`; numbers move its own ports, 0 moves them not."""

    def make(
        name: str,
        number: int = 0,
        change: Change | None = None,
        claims: str = "generic",
        **parts: Any,
    ) -> Edge:
        folder = tmp_path_factory.mktemp(name)
        edge_tool.lay_out(folder, certs=certs, port_offset=offset, claims=claims, **parts)
        path = folder / "envoy.yaml"
        config = yaml.load(path.read_text(), yaml.CSafeLoader)
        for one in (config["admin"], *config["static_resources"]["listeners"]):
            one["address"]["socket_address"]["port_value"] += number * NEXT
        if change:
            change(config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"])
        path.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
        return Edge(folder, offset + number * NEXT, issuer.token())

    return make


@pytest.fixture(scope="session")
def offset() -> Iterator[int]:
    """How far the ports of services and edge are moved, so that nothing else is there."""
    edges = [port + number * NEXT for port in (8080, 8443, 9901, 9105) for number in range(EDGES)]
    ports = (*edges, ISSUER_PORT, USERS_PORT, WORKFLOWS_PORT, LIMITS.grpc_port)
    with reserved(range(12_000, 15_000, EDGES * NEXT), lambda offset: (port + offset for port in ports)) as offset:
        yield offset


@pytest.fixture(scope="session")
async def service(offset: int, certs: Path) -> AsyncIterator[Backend]:
    async with serving(USERS_PORT + offset, certs) as backend:
        yield backend


@pytest.fixture
def backend(service: Backend) -> Iterator[Backend]:
    """The scripted users service, with nothing scripted and no calls yet."""
    service.calls.clear()
    service.strays.clear()
    yield service
    service.script.clear()


@pytest.fixture(scope="session")
async def edge(layout: Layout, published: None) -> AsyncIterator[Edge]:
    """The edge as it is delivered."""
    async with running(layout("edge")) as result:
        yield result


@pytest.fixture(scope="session")
async def impatient(layout: Layout, published: None) -> AsyncIterator[Edge]:
    """The same edge with figures that a test can reach: 20 requests a second, 0.3 s a call, 0.5 s to arrive.

    Streams: three at once, silent for 2 s.
    """

    def change(manager: Any) -> None:
        manager["request_timeout"] = "0.5s"
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            if "idle_timeout" in route.get("route", ()):
                route["route"]["idle_timeout"] = "2s"
            elif "route" in route:
                route["route"]["timeout"] = "0.3s"
        any_address, *_ = filter_named(manager, "address")["descriptors"]
        any_address["token_bucket"] = {"max_tokens": 20, "tokens_per_fill": 20, "fill_interval": "1s"}

    laid = layout("impatient", 1, change)
    path = laid.folder / "clusters.yaml"
    clusters = yaml.load(path.read_text(), yaml.CSafeLoader)
    _, streams = clusters["resources"][0]["circuit_breakers"]["thresholds"]
    streams["max_requests"] = STREAMS
    path.write_text(yaml.dump(clusters, Dumper=yaml.CSafeDumper))
    async with running(laid) as result:
        yield result


@pytest.fixture
async def rest(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a good token."""
    async with edge.client(headers=edge.credentials) as client:
        yield client


@pytest.fixture
async def anonymous(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with edge.client() as client:
        yield client


def filter_named(manager: Any, name: str) -> Any:
    """Returns the configuration of an HTTP filter."""
    return next(one["typed_config"] for one in manager["http_filters"] if one["name"].endswith(f".{name}"))


@contextmanager
def publishing(server: IssuerServer) -> Iterator[IssuerServer]:
    """Serves key sets beside the test until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def running(laid: Edge, *, alone: bool = False, drain_seconds: int = DRAIN_SECONDS) -> AsyncIterator[Edge]:
    """Runs the edge until the block ends; what it wrote is in `stdout` and `stderr` of its folder.

    Args:
        alone: no service is behind it to wait for.
        drain_seconds: from the order to drain until it listens no more.
    """
    words = command(laid.folder, drain_seconds=drain_seconds)
    with (laid.folder / "stdout").open("wb") as stdout, (laid.folder / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(*words, stdout=stdout, stderr=stderr)
        try:
            await _until_ready(laid, process, alone=alone)
            yield laid
            assert process.returncode is None, "Envoy died"
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 10)


async def _until_ready(laid: Edge, process: asyncio.subprocess.Process, *, alone: bool) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient(base_url=laid.admin, verify=False) as admin:
        while time.monotonic() < deadline and process.returncode is None:
            try:
                ready, clusters = await admin.get("/ready"), await admin.get("/clusters")
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                continue
            served = alone or re.search(r"users::.*::health_flags::healthy", clusters.text)
            if ready.status_code == 200 and served:
                return
            await asyncio.sleep(0.02)
    raise AssertionError((laid.folder / "stderr").read_text())
