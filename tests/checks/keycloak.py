"""`make check-keycloak`: a real Keycloak signs the tokens of a whole mesh.

It needs Java 17 or newer and Maven, fetches Keycloak once into `.cache/keycloak` (180 MB), and takes five minutes, or
twelve on busy cores. Keycloak's certificate is signed by an authority of this check's own.
"""

import base64
import hashlib
import html
import json
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import grpc
import httpx
import jwt
import pytest

from tests.checks.keycloak_realm import CLIENT, PASSWORD, REALM, REDIRECT, Keycloak
from tests.checks.table import Table
from tests.checks.waiting import wait_until
from tools.mesh import processes
from tools.secrets import certificates
from tools.topology import ROOT, SERVICES, Mesh

VERSION: Final = "26.7.3"
CACHE: Final = ROOT / ".cache" / "keycloak"
STATE: Final = ROOT / ".local" / "check-keycloak"
ADMINISTRATOR: Final = {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD}
UNVERIFIED: Final[Any] = {"verify_signature": False}
BOUND_SECONDS: Final = 30 + 10
"""docs/security.md: how long a removed key, or a suspended user, goes on; and the time of a fetch."""


def fetch() -> Path:
    """Returns the folder of Keycloak, fetched if it is not there."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"This check needs {' and '.join(missing)}. On Debian: apt install default-jre maven")
    folder = CACHE / f"keycloak-{VERSION}"
    if not folder.exists():
        artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
        words = ["mvn", "-q", f"-Dmaven.repo.local={CACHE / 'maven'}", "dependency:get", "-Dtransitive=false"]
        subprocess.run([*words, f"-Dartifact={artifact}"], check=True)
        (archive,) = (CACHE / "maven/org/keycloak/keycloak-quarkus-dist" / VERSION).glob("*.zip")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(CACHE / "unpacked")
        (CACHE / "unpacked" / folder.name).rename(folder)
        (folder / "bin" / "kc.sh").chmod(0o755)
    return folder


class Issuer:
    """A Keycloak that can go away and come back with its realm."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"https://localhost:{port}"
        self.authority = STATE / "authority" / "ca.pem"
        self._folder, self._port = folder, port
        self._process: subprocess.Popen[bytes] | None = None
        certificates.ensure(self.authority.parent)
        self.http = httpx.Client(base_url=self.url, verify=ssl.create_default_context(cafile=str(self.authority)))
        self.http.timeout = 60

    def start(self) -> None:
        words = [
            *(str(self._folder / "bin" / "kc.sh"), "start-dev", f"--hostname={self.url}"),
            *("--http-host=127.0.0.1", f"--https-port={self._port}", f"--http-port={self._port + 1}"),
            f"--https-certificate-file={self.authority.with_name('edge.pem')}",
            f"--https-certificate-key-file={self.authority.with_name('edge.key')}",
        ]
        with (STATE / "keycloak.log").open("ab") as log:
            environment = {**os.environ, **ADMINISTRATOR, "JAVA_OPTS_APPEND": "-Xmx512m"}
            self._process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Keycloak stopped; {STATE / 'keycloak.log'} says why"
        with suppress(httpx.HTTPError):
            return self.http.get("/realms/master").is_success
        return False

    def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(60)
            self._process = None

    def sign_in(self, name: str) -> str:
        """Returns an access token for a person, by the password grant, which is for tests alone."""
        form = {"grant_type": "password", "client_id": CLIENT, "username": name, "password": PASSWORD}
        return str(self._token(form)["access_token"])

    def sign_in_as_a_browser_does(self, name: str) -> str:
        """Returns an access token by the authorization code flow with PKCE (RFC 7636)."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {"response_type": "code", "client_id": CLIENT, "redirect_uri": REDIRECT, "scope": "openid"}
        query |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        page = self.http.get(f"/realms/{REALM}/protocol/openid-connect/auth", params=query).raise_for_status()
        action = re.search(r'<form[^>]*action="([^"]+)"', page.text)
        assert action, "the page of Keycloak has no form"
        answer = self.http.post(html.unescape(action[1]), data={"username": name, "password": PASSWORD})
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "client_id": CLIENT, "redirect_uri": REDIRECT, "code": code}
        return str(self._token({**form, "code_verifier": verifier})["access_token"])

    def _token(self, form: dict[str, str]) -> Any:
        return self.http.post(f"/realms/{REALM}/protocol/openid-connect/token", data=form).raise_for_status().json()


@contextmanager
def mesh_of(issuer: Issuer) -> Iterator[Mesh]:
    """Runs a mesh as the page says, with the state of this check."""
    mesh = Mesh(STATE / "mesh", int(os.environ.get("PORT_OFFSET") or 0))
    words = ["make", "--no-print-directory", f"PORT_OFFSET={mesh.port_offset}"]
    environment = {**os.environ, "AMEIDE_LOCAL_DIR": str(mesh.folder), "SSL_CERT_FILE": str(issuer.authority)}
    started = [f"ISSUER={issuer.url}/realms/{REALM}", "CLAIMS=keycloak", "DETACH=1"]
    subprocess.run([*words, "up", *started], cwd=ROOT, env=environment, check=True)
    try:
        yield mesh
    finally:
        subprocess.run([*words, "down"], cwd=ROOT, env=environment, check=True)


class Api:
    """Calls of the mesh over REST."""

    def __init__(self, mesh: Mesh) -> None:
        self._http = httpx.Client(base_url=mesh.url, timeout=20)

    def call(self, method: str, path: str, token: str, body: Any = None) -> httpx.Response:
        return self._http.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})

    def status(self, token: str, path: str = "/v1/workflows") -> int:
        with suppress(httpx.TransportError):
            return self.call("GET", path, token).status_code
        return 0

    def code(self, token: str) -> int:
        """Returns the code in the error that the token gets, or 0."""
        with suppress(httpx.TransportError):
            return int(self.call("GET", "/v1/workflows", token).json().get("code", 0))
        return 0

    def meanwhile(self, token: Callable[[], str]) -> tuple[Counter[int], Callable[[], None]]:
        """Calls all the time with what ``token`` returns; gives the statuses, and what ends it."""
        seen: Counter[int] = Counter()
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                seen[self.status(token())] += 1
                time.sleep(0.05)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()

        def stop() -> None:
            over.set()
            thread.join()

        return seen, stop


def key_id(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def keep(name: str, token: str) -> None:
    """Writes what a token says; tests/security/issuers holds such files."""
    found = {"header": jwt.get_unverified_header(token), "payload": jwt.decode(token, options=UNVERIFIED)}
    (STATE / f"token-of-{name}.json").write_text(json.dumps(found, indent=2))


def check_people(table: Table, issuer: Issuer, keycloak: Keycloak, api: Api) -> None:
    """Who may do what, and whom suspension stops."""
    with table.line("a person signs in with a password") as seen:
        ada = issuer.sign_in("ada")
        assert api.status(ada) == 200
        claims = jwt.decode(ada, options=UNVERIFIED)
        seen.append(f"aud {claims['aud']}, lives {claims['exp'] - claims['iat']} s")
    with table.line("a person signs in with a browser (code flow with PKCE)"):
        assert api.status(issuer.sign_in_as_a_browser_does("ada")) == 200
    with table.line("roles of the realm decide") as seen:
        wanted = {"ada": (200, 200), "vic": (200, 403), "nora": (403, 403)}
        for name, expected in wanted.items():
            token = issuer.sign_in(name)
            keep(name, token)
            created = api.call("POST", "/v1/workflows", token, {"displayName": f"Of {name}"}).status_code
            assert (found := (api.status(token), created)) == expected, f"{name} got {found}, not {expected}"
        seen.append("admin reads and writes, viewer reads, a person without roles does neither")
    with table.line("a token without a tenant is refused"):
        assert api.status(issuer.sign_in("tess")) == 401
    with table.line("a stored user is who `sub` names") as seen:
        user = {"displayName": "Bob", "email": "bob@acme.example", "roles": ["editor"]}
        stored = api.call("POST", "/v1/users", issuer.sign_in("ada"), user).raise_for_status().json()
        assert api.status(issuer.sign_in("bob")) == 403, "he had a role before Keycloak knew the id"
        keycloak.name_stored_user(keycloak.call("GET", f"/{REALM}/users?username=bob").json()[0]["id"], stored["id"])
        bob = issuer.sign_in("bob")
        keep("bob", bob)
        me = api.call("GET", "/v1/me", bob).raise_for_status().json()
        assert me["id"] == stored["id"]
        api.call("POST", "/v1/workflows", bob, {"displayName": "Of Bob"}).raise_for_status()
        seen.append("no role in Keycloak, the stored role editor counts")
    with table.line("suspension stops a token that is still valid") as seen:
        api.call("POST", f"/v1/users/{stored['id']}:suspend", issuer.sign_in("ada"), {}).raise_for_status()
        took = wait_until(lambda: api.status(bob) == 401)
        seen.append(f"after {took:.1f} s; the bound is 30 s")
        assert took <= BOUND_SECONDS


def check_rotation(table: Table, issuer: Issuer, keycloak: Keycloak, api: Api) -> None:
    """docs/security.md, *The issuer's signing keys*, with calls under way."""
    old = issuer.sign_in("ada")
    tokens = [old]
    with table.line("a new key signs without a failed call") as seen:
        statuses, stop = api.meanwhile(lambda: tokens[-1])
        added = keycloak.add_key("next", -1)
        assert key_id(issuer.sign_in("ada")) == key_id(old), "the new key signs already"
        time.sleep(30)  # What the page tells an operator to do.
        keycloak.change_key(added, priority="1000")
        tokens.append(issuer.sign_in("ada"))
        assert key_id(tokens[-1]) != key_id(old)
        wait_for = sum(statuses.values()) + 100
        wait_until(lambda: sum(statuses.values()) > wait_for)
        stop()
        seen.append(f"{statuses[200]} calls, of both keys")
        assert set(statuses) == {200}, dict(statuses)
    with table.line("a removed key is worth nothing") as seen:
        keycloak.change_key(keycloak.component_of(key_id(old)), enabled="false", active="false")
        took = wait_until(lambda: api.status(old) == 401)
        assert api.status(tokens[-1]) == 200
        seen.append(f"after {took:.1f} s; the bound is 30 s and a fetch")
        assert took <= BOUND_SECONDS


def check_outages(table: Table, issuer: Issuer, api: Api, mesh: Mesh) -> None:
    """What happens without Keycloak."""
    token = issuer.sign_in("ada")
    with table.line("tokens are believed while the issuer is down") as seen:
        issuer.stop()
        statuses, stop = api.meanwhile(lambda: token)
        logs = [mesh.log(service.name) for service in SERVICES]
        before = [log.read_text().count("key set not refreshed") for log in logs]
        # Each service has asked in vain since, and the edge, which asks as often, too.
        wait_until(
            lambda: all(
                log.read_text().count("key set not refreshed") > number
                for log, number in zip(logs, before, strict=True)
            )
        )
        wait_until(lambda: _failed_fetches(mesh) > 0)
        stop()
        seen.append(f"{statuses[200]} calls")
        assert set(statuses) == {200}, dict(statuses)
    with table.line("a mesh that starts while the issuer is down says 503") as seen:
        for name, process in processes.pids(mesh):
            if name in {"edge", *(service.name for service in SERVICES)}:
                process.terminate()
        wait_until(lambda: api.code(token) == grpc.StatusCode.UNAVAILABLE.value[0])
        assert not any(processes.is_ready(mesh, service.name) for service in SERVICES)
        seen.append("and no service is ready")
    with table.line("it serves when the issuer is back") as seen:
        issuer.start()
        took = wait_until(lambda: api.status(issuer.sign_in("ada")) == 200)
        wait_until(lambda: all(processes.is_ready(mesh, service.name) for service in SERVICES))
        seen.append(f"{took:.1f} s after Keycloak answers")


def _failed_fetches(mesh: Mesh) -> int:
    url = f"http://127.0.0.1:{mesh.ports['edge admin']}/stats?filter=^cluster.other_issuer.upstream_cx_connect_fail$"
    return int(httpx.get(url).text.partition(":")[2])


def main() -> None:
    folder = fetch()
    shutil.rmtree(STATE, ignore_errors=True)
    shutil.rmtree(folder / "data", ignore_errors=True)
    STATE.mkdir(parents=True)
    issuer = Issuer(folder, 7743 + int(os.environ.get("PORT_OFFSET") or 0))
    table = Table(f"Keycloak {VERSION} as the issuer of the mesh")
    try:
        issuer.start()
        keycloak = Keycloak(issuer.http, "admin", PASSWORD)
        keycloak.make_realm()
        for name, tenant, roles in (
            *(("ada", "acme", ("admin",)), ("vic", "acme", ("viewer",)), ("nora", "acme", ())),
            *(("bob", "acme", ()), ("tess", "", ("admin",))),
        ):
            keycloak.make_user(name, tenant=tenant, roles=roles)
        with mesh_of(issuer) as mesh:
            api = Api(mesh)
            refused = pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED")
            with table.line("Keycloak's certificate is of an authority of our own"), refused:
                httpx.get(issuer.url)
            check_people(table, issuer, keycloak, api)
            check_rotation(table, issuer, keycloak, api)
            check_outages(table, issuer, api, mesh)
    finally:
        issuer.stop()
    table.finish()


if __name__ == "__main__":
    main()
