"""The edge's files as the chart renders them, in a real Envoy."""

from pathlib import Path

import httpx

from tests.e2e.edge.plugin import Edge, running
from tests.helm.release import NAMESPACE, Release, values_of
from tools.edge import layout as edge_tool
from tools.secrets import certificates, internal_keys
from tools.topology import SERVICES

OFFSET = 11_000


async def test_envoy_takes_them(tmp_path: Path) -> None:
    values = values_of("production")
    # A key set that nobody serves: Envoy gives up on it and opens its listeners.
    values["auth"]["jwks"] = {"host": "127.0.0.1", "port": 9, "path": "/keys"}
    files = Release(values).of_kind("ConfigMap")["edge"]["data"]
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
    edge_tool.lay_out(folder, certs=certs, port_offset=OFFSET, environment=environment)
    assert (folder / "claims.lua").read_text() == files["claims.lua"]
    async with running(Edge(folder, OFFSET, ""), alone=True) as edge, httpx.AsyncClient(verify=False) as client:
        answer = await client.get(f"{edge.admin}/clusters?format=json")
        clusters = {one["name"]: one for one in answer.json()["cluster_statuses"]}
        # That one is in envoy.yaml itself.
        del clusters["admin"]
        assert set(clusters) == {*(service.name for service in SERVICES), "issuer", "collector"}
        assert all(one["added_via_api"] for one in clusters.values())
        assert '"error_state"' not in (await client.get(f"{edge.admin}/config_dump")).text
        refused = await client.get(f"{edge.url}/v1/users")
        assert (refused.status_code, refused.json()["code"]) == (401, 16)


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
