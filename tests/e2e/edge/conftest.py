"""The real Envoy with our envoy.yaml, in front of one scripted service; the other three are down."""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.e2e.edge.backend import Backend, serving
from tools import certificates, edge

START_SECONDS: Final = 20
USERS_PORT: Final = 50051


@dataclass(frozen=True)
class Issuer:
    """Signs tokens that the edge accepts, and others."""

    key: rsa.RSAPrivateKey

    def token(self, **claims: object) -> str:
        now = int(time.time())
        whole = {
            "iss": "https://dev.ameide.local/",
            "aud": "ameide-api",
            "sub": "ada",
            "tenant_id": "acme",
            "roles": ["admin"],
            "iat": now,
            "exp": now + 600,
        } | claims
        return jwt.encode({k: v for k, v in whole.items() if v is not None}, self.key, "RS256", headers={"kid": "one"})

    def write_key_set(self, path: Path) -> None:
        public = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        path.write_text(json.dumps({"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]}))


@dataclass(frozen=True)
class Edge:
    """A running Envoy."""

    folder: Path
    offset: int
    token: str

    def port(self, base: int) -> int:
        return base + self.offset

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port(8080)}"

    @property
    def secure_url(self) -> str:
        return f"https://127.0.0.1:{self.port(8443)}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.port(9901)}"

    @property
    def credentials(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def rest(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.credentials, timeout=20, **options)

    def channel(self) -> grpc.aio.Channel:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port(8080)}", options=options)

    def log_lines(self) -> list[dict[str, Any]]:
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
def layout(tmp_path_factory: pytest.TempPathFactory, certs: Path, issuer: Issuer) -> Callable[[str, int], Edge]:
    """Returns what fills a folder for an edge."""
    jwks = certs / "jwks.json"
    issuer.write_key_set(jwks)

    def make(name: str, offset: int) -> Edge:
        folder = tmp_path_factory.mktemp(name)
        edge.lay_out(folder, certs=certs, jwks=jwks, port_offset=offset)
        return Edge(folder, offset, issuer.token())

    return make


@pytest.fixture(scope="session")
def offset() -> int:
    """How far the ports of the edge under test are moved; 100 further on is the impatient one."""
    return next(n for n in range(12_000, 15_000, 200) if all(map(_is_free, (8080 + n, 8443 + n, 9901 + n, USERS_PORT + n))))


@pytest.fixture(scope="session")
async def service(offset: int, certs: Path) -> AsyncIterator[Backend]:
    async with serving(USERS_PORT + offset, certs) as backend:
        yield backend


@pytest.fixture
def backend(service: Backend) -> Iterator[Backend]:
    """The scripted service, with nothing scripted and no calls yet."""
    service.calls.clear()
    yield service
    service.script.clear()


@pytest.fixture(scope="session")
async def edge_(layout: Callable[[str, int], Edge], offset: int, service: Backend) -> AsyncIterator[Edge]:
    """The edge as it is delivered."""
    async for running in _running(layout("edge", offset)):
        yield running


@pytest.fixture(scope="session")
async def impatient(layout: Callable[[str, int], Edge], offset: int, service: Backend) -> AsyncIterator[Edge]:
    """The same edge with figures so small that a test can reach them: 5 requests a second, 0.3 s a call."""
    laid = layout("impatient", offset)
    path = laid.folder / "envoy.yaml"
    config = yaml.safe_load(path.read_text())
    config["admin"]["address"]["socket_address"]["port_value"] += 100
    for listener in config["static_resources"]["listeners"]:
        listener["address"]["socket_address"]["port_value"] += 100
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (limiter,) = (f for f in manager["http_filters"] if f["name"] == "envoy.filters.http.local_ratelimit")
    limiter["typed_config"]["token_bucket"] = {"max_tokens": 5, "tokens_per_fill": 5, "fill_interval": "1s"}
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        if "route" in route:
            route["route"]["timeout"] = "0.3s"
    path.write_text(yaml.safe_dump(config))
    async for running in _running(Edge(laid.folder, offset + 100, laid.token)):
        yield running


async def _running(laid: Edge) -> AsyncIterator[Edge]:
    with (laid.folder / "stdout").open("wb") as stdout, (laid.folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(edge.command(laid.folder), stdout=stdout, stderr=stderr)
        try:
            await _until_ready(laid, process)
            yield laid
        finally:
            process.terminate()
            process.wait(timeout=10)


async def _until_ready(laid: Edge, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                ready = await client.get(f"{laid.admin}/ready")
                users = await client.get(f"{laid.admin}/clusters")
            except httpx.TransportError:
                pass
            else:
                if ready.status_code == 200 and f"users::127.0.0.1:{USERS_PORT + laid.offset // 200 * 200}::health_flags::healthy" in users.text:
                    return
            await asyncio.sleep(0.02)
    raise AssertionError((laid.folder / "stderr").read_text())


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
