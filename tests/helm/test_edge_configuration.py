"""The edge's files as the chart renders them, in a real Envoy."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.edge.plugin import Edge, running
from tests.helm.release import NAMESPACE, Release, values_of
from tests.ports import mesh_offset
from tools.edge import layout as edge_tool
from tools.edge.start import decided, fill
from tools.secrets import certificates, internal_keys
from tools.topology import SERVICES

ORIGIN = "https://app.example.com"


@pytest.fixture
def offset() -> Iterator[int]:
    with mesh_offset() as offset:
        yield offset


async def test_envoy_takes_them(tmp_path: Path, offset: int) -> None:
    values = values_of("production")
    # A key set that nobody serves: Envoy gives up on it and opens its listeners.
    values["edge"] |= {"corsOrigins": [ORIGIN], "gateway": {"enabled": True, "trustedHops": 2}}
    values["auth"]["jwks"] = {"host": "127.0.0.1", "port": 9, "path": "/keys"}
    release = Release(values)
    files = release.of_kind("ConfigMap")["edge"]["data"]
    certs = tmp_path / "certs"
    certificates.ensure(certs)
    environment = tmp_path / "environment"
    (environment / "secrets").mkdir(parents=True)
    internal_keys.ensure(tmp_path)
    assert files.pop("random_sampling") == "1"
    for name, text in files.items():
        folder = environment / "secrets" if name in {"authority.yaml", "client.yaml", "server.yaml"} else environment
        (folder / name).write_text(here(text, tmp_path))
    folder = tmp_path / "edge"
    edge_tool.lay_out(folder, certs=certs, port_offset=offset, environment=environment, decided=False)
    # As the image does at its start.
    configuration = folder / "envoy.yaml"
    configuration.write_text(fill(configuration.read_text(), decided(folder / "edge.json")))
    assert (folder / "claims.lua").read_text() == files["claims.lua"]
    async with running(Edge(folder, offset, ""), alone=True) as edge, httpx.AsyncClient(verify=False) as client:
        answer = await client.get(f"{edge.admin}/clusters?format=json")
        clusters = {one["name"]: one for one in answer.json()["cluster_statuses"]}
        # That one is in envoy.yaml itself.
        del clusters["admin"]
        assert set(clusters) == {*(service.name for service in SERVICES), "issuer", "collector"}
        assert all(one["added_via_api"] for one in clusters.values())
        assert '"error_state"' not in (await client.get(f"{edge.admin}/config_dump")).text
        refused = await client.get(f"{edge.url}/v1/users")
        assert (refused.status_code, refused.json()["code"]) == (401, 16)
        # Only the pages of this environment may call, and only what the proxies before the edge say tells of a client.
        preflight = {"access-control-request-method": "GET"}
        for origin, allowed in ((ORIGIN, ORIGIN), ("http://localhost:3000", None), (f"{ORIGIN}.evil.example", None)):
            answer = await client.options(f"{edge.url}/v1/users", headers=preflight | {"origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
        forwarded = {"user-agent": "forwarded", "x-forwarded-for": "192.0.2.1, 198.51.100.7, 203.0.113.9"}
        await client.get(f"{edge.url}/v1/users", headers=forwarded)
        async with asyncio.timeout(10):
            while not (lines := [line for line in edge.log() if line["user_agent"] == "forwarded"]):
                await asyncio.sleep(0.05)
        assert lines[0]["client"] == "198.51.100.7"
        assert await smoke_test(release, edge.secure_url) == (0, 3)
        assert await smoke_test(release, edge.secure_url, ISSUER="https://another.example.com/") == (1, 2)


async def smoke_test(release: Release, url: str, **changes: str) -> tuple[int | None, int]:
    """Runs what `helm test` runs; returns its exit code, and how many answers were as expected."""
    (container,) = release.of_kind("Pod")["test"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]} | {"EDGE": url} | changes
    *_, script = container["command"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode().count("as expected")


def here(text: str, folder: Path) -> str:
    """Names what this machine has in place of what a pod has: names of a cluster, files that Secrets bring."""
    replacements = {
        f".{NAMESPACE}.svc.cluster.local": ".localhost",
        "/run/internal/": f"{folder}/",
        "otel-collector.monitoring.svc.cluster.local": "collector.localhost",
        "/run/public/tls.crt": "./certs/edge.pem",
        "/run/public/tls.key": "./certs/edge.key",
        "/run/public": "./certs",
        "/etc/ssl/certs/ca-certificates.crt": "./certs/ca.pem",
    }
    for there, place in replacements.items():
        text = text.replace(there, place)
    return text
