"""The edge's files as the chart renders them, in a real Envoy."""

import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
import yaml
from api_common.authn import DiscoveredKeySet, InternalTokenSigner, public_jwk
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from libs.api_common.tests.issuer import Issuer
from tests.e2e.edge.plugin import Edge, running
from tests.helm.release import NAMESPACE, Release, startup_probe, values_of
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
        assert set(clusters) == {*(service.name for service in SERVICES), "issuer", "collector", "keys"}
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
        # The issuer has told no keys: the pod is not ready, and nobody is told that a token is bad.
        assert await startup_probe(edge.admin, release) == 1
        for headers in ({}, {"content-type": "application/grpc", "te": "trailers"}):
            answer = await client.post(
                f"{edge.url}/v1/users", headers=headers | {"authorization": f"Bearer {foreign()}"}
            )
            assert (answer.status_code, answer.headers["error-type"]) == (200 if headers else 503, "UNAVAILABLE")
        await rotate_internal_keys(release, edge, client, tmp_path)
        assert await smoke_test(release, edge.secure_url) == (0, 3)
        assert await smoke_test(release, edge.secure_url, ISSUER="https://another.example.com/") == (1, 2)


def test_a_private_authority_signs_for_the_issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = Release({"auth": {"jwks": {"authority": "company-ca"}}})
    clusters = yaml.safe_load(release.of_kind("ConfigMap")["edge"]["data"]["clusters.yaml"])["resources"]
    (issuer,) = (cluster for cluster in clusters if cluster["name"] == "issuer")
    assert issuer["dns_lookup_family"] == "V4_PREFERRED"
    validation = issuer["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    assert validation["trusted_ca"] == {"filename": "/run/issuer/ca.crt"}
    for component, deployment in release.of_kind("Deployment").items():
        spec = deployment["spec"]["template"]["spec"]
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        sources = {volume["name"]: volume.get("configMap") for volume in spec["volumes"]}
        assert (mounts["issuer"], sources["issuer"]["name"]) == ("/run/issuer", "company-ca")
        told = {one["name"]: one["value"] for one in spec["containers"][0].get("env", ())}
        assert told.get("SSL_CERT_FILE") == (None if component == "edge" else "/run/issuer/ca.crt")
    # The variable is OpenSSL's; the services' client takes it.
    certificates.ensure(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "edge.pem", tmp_path / "edge.key")
    with Issuer.running() as one:
        one.server.socket = server.wrap_socket(one.server.socket, server_side=True)
        one.named = url = f"https://localhost:{one.server.server_port}/"
        one.jwks_uri = f"{url}jwks"

        async def told_keys() -> bool:
            keys = DiscoveredKeySet(url)
            await keys.refresh()
            await keys.close()
            return keys.generation == 1

        assert not asyncio.run(told_keys())
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert asyncio.run(told_keys())


def foreign() -> str:
    """Returns a token that names the issuer of the values."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = int(time.time())
    claims = {"iss": "https://login.example.com/", "aud": "ameide-api", "sub": "ada", "iat": now, "exp": now + 60}
    return jwt.encode(claims, key, "ES256", headers={"kid": "one"})


async def rotate_internal_keys(release: Release, edge: Edge, client: httpx.AsyncClient, folder: Path) -> None:
    """Replaces the key of the tokens in place of API keys, as docs/security.md says, while the edge runs."""
    (served,) = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]["initContainers"]
    ports = {"9106": str(9106 + edge.offset), "/run/internal": str(folder)}
    words = [sys.executable, *(ports.get(word, word) for word in served["command"][1:])]
    old = (folder / "internal.pem").read_bytes()
    new = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def believe(*keys: bytes) -> None:
        draft = folder / "draft"
        draft.write_text(json.dumps({"keys": [public_jwk(key) for key in keys]}))
        draft.replace(folder / "internal-jwks.json")

    async def until(key: bytes, status: int) -> None:
        signer = InternalTokenSigner(key, audience="ameide-api")
        async with asyncio.timeout(20):
            while True:
                headers = {"authorization": f"Bearer {signer.token(subject='ci', tenant_id='acme', roles=[])}"}
                if (await client.get(f"{edge.url}/v1/users", headers=headers)).status_code == status:
                    return
                await asyncio.sleep(0.05)

    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.DEVNULL)
    try:
        # No service is there; a token that is believed gets as far as to notice.
        await until(old, 503)
        await until(new, 401)
        believe(old, new)
        await until(new, 503)
        await until(old, 503)
        believe(new)
        await until(old, 401)
    finally:
        process.terminate()
        await process.wait()


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
        # Half a minute, as tests count it.
        "cache_duration: 30s": "cache_duration: 0.5s",
        "failed_refetch_duration: 5s": "failed_refetch_duration: 0.5s",
    }
    for there, place in replacements.items():
        text = text.replace(there, place)
    return text
