"""`make up ISSUER=…`: edge and services are told the same; `make check-keycloak` shows it with a real issuer."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_common.db import DatabaseUrls

from tools.edge import layout
from tools.edge.build import ENVOY
from tools.edge.run import ENVOY_PROGRAM
from tools.mesh import issuer, preparation
from tools.secrets import certificates
from tools.secrets.issuer import KEY_SETS, IssuerServer
from tools.topology import NAMED, SERVICES, Mesh, MeshError

REALM = "https://login.example.com:8443/realms/acme"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    certificates.ensure(folder)
    return folder


@pytest.fixture
def mesh(tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch) -> Mesh:
    for name, value in {"ISSUER": REALM, "CLAIMS": "keycloak", "AUDIENCE": "acme-api"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SSL_CERT_FILE", str(certs / "ca.pem"))
    (tmp_path / "certs").symlink_to(certs)
    return Mesh(tmp_path, 100)


def laid_out(mesh: Mesh) -> Path:
    told = issuer.edge(mesh)
    layout.lay_out(mesh.envoy, certs=mesh.certificates, port_offset=mesh.port_offset, **told)
    return mesh.envoy


def resource(folder: Path, file: str, name: str) -> Any:
    found = yaml.safe_load((folder / file).read_text())["resources"]
    return next(one for one in found if one["name"] == name)


class TestServices:
    def test_are_told_of_the_issuer_and_discover_its_keys(self, mesh: Mesh) -> None:
        preparation.ensure_secrets(mesh)
        urls = {service.name: DatabaseUrls("postgresql://a", "postgresql://a") for service in SERVICES}
        told = preparation.environment(mesh, NAMED["agents"], urls)
        found = {name: value for name, value in told.items() if name.startswith("AGENTS_AUTH_")}
        assert found.pop("AGENTS_AUTH_INTERNAL_JWKS_PATH")
        assert found == {
            "AGENTS_AUTH_ISSUER": REALM,
            "AGENTS_AUTH_AUDIENCE": "acme-api",
            "AGENTS_AUTH_CLAIMS": "keycloak",
        }

    @pytest.mark.parametrize("wrong", [{"CLAIMS": "okta"}, {"ISSUER": "login.example.com"}], ids=str)
    def test_are_told_nothing_malformed(
        self, mesh: Mesh, wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in wrong.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(MeshError, match=r"ISSUER must .* CLAIMS one of generic, keycloak, auth0"):
            issuer.settings(mesh)


class TestEdge:
    def test_believes_the_issuer_and_its_keys(self, mesh: Mesh) -> None:
        folder = laid_out(mesh)
        jwt = resource(folder, "authentication.yaml", "envoy.filters.http.jwt_authn")["typed_config"]
        provider, internal = jwt["providers"]["ameide"], jwt["providers"]["internal"]
        assert (provider["issuer"], provider["audiences"]) == (REALM, ["acme-api"])
        assert internal["audiences"] == ["acme-api"]
        uri = provider["remote_jwks"]["http_uri"]
        assert uri["uri"] == f"{REALM}/protocol/openid-connect/certs"
        text = str(resource(folder, "clusters.yaml", uri["cluster"]))
        # PORT_OFFSET moves our ports, not the issuer's.
        assert re.findall(r"'address': '([\w.]+)', 'port_value': '(\d+)'", text) == [("login.example.com", "8443")]
        assert (folder / "audience.lua").read_text() == 'return "acme-api"\n'
        assert (folder / "claims.lua").read_text() == (ENVOY / "claims" / "keycloak.lua").read_text()
        assert json.loads((folder / "edge.json").read_text())["issuers"] == [REALM]

    @pytest.mark.parametrize("url", [REALM, "http://127.0.0.1:8180/realms/acme"])
    def test_is_accepted_by_envoy(self, mesh: Mesh, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ISSUER", url)
        folder = laid_out(mesh)
        # Envoy does not read clusters.yaml when it validates: they stand in its own file for this.
        config = yaml.safe_load((folder / "envoy.yaml").read_text())
        cluster = resource(folder, "clusters.yaml", "other_issuer")
        assert ("transport_socket" in cluster) == url.startswith("https")
        config["static_resources"]["clusters"] = [
            {name: value for name, value in cluster.items() if name != "@type"},
            *config["static_resources"].get("clusters", []),
        ]
        (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
        words = [str(ENVOY_PROGRAM), "--mode", "validate", "--config-path", "envoy.yaml", "--disable-hot-restart"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_asks_where_the_environment_says(self, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JWKS", "http://127.0.0.1:1/keys")
        folder = laid_out(mesh)
        jwt = resource(folder, "authentication.yaml", "envoy.filters.http.jwt_authn")["typed_config"]
        assert jwt["providers"]["ameide"]["remote_jwks"]["http_uri"]["uri"] == "http://127.0.0.1:1/keys"


def test_the_development_issuer_tells_no_keys_beside_another(tmp_path: Path) -> None:
    for name in ("jwks.json", "internal-jwks.json"):
        (tmp_path / name).write_text("{}")
    with IssuerServer(tmp_path, 0, KEY_SETS[1:]) as server:
        found = {path for path in (*KEY_SETS, "/.well-known/openid-configuration") if server.document(path)}
    assert found == {"/internal-jwks.json"}
