"""A control plane of Kubernetes with fake nodes: its processes, and a client of its API."""

import json
import secrets
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.checks.waiting import wait_until
from tests.cluster.build import Parts
from tests.ports import reserved

STAGES: Final = Path(__file__).with_name("stages.yaml")
GRACE_SECONDS: Final = 30

Object = dict[str, Any]


class Api:
    """Kubernetes' API, as its administrator."""

    def __init__(self, url: str, token: str, authority: Path) -> None:
        trust = ssl.create_default_context(cafile=str(authority))
        headers = {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, verify=trust, timeout=30)

    def get(self, path: str, **query: str) -> Any:
        return self._ask("GET", path, params=query)

    def items(self, path: str, **query: str) -> list[Object]:
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def apply(self, path: str, what: Object) -> None:
        """Makes an object, or what of it is ours (server-side apply)."""
        query = {"fieldManager": "check-cluster", "force": "true"}
        headers = {"content-type": "application/apply-patch+yaml"}
        self._ask("PATCH", path, params=query, headers=headers, content=yaml.safe_dump(what))

    def change(self, path: str, what: Object) -> None:
        """Merges into an object that there is (RFC 7386)."""
        self._ask("PATCH", path, headers={"content-type": "application/merge-patch+json"}, json=what)

    def delete(self, path: str) -> None:
        self._ask("DELETE", path)

    def create(self, path: str, what: Object) -> httpx.Response:
        """Asks for a new object; the caller looks at the answer."""
        return self._http.post(path, json=what)

    def evict(self, namespace: str, pod: str) -> bool:
        """Asks a pod to leave, as `kubectl drain` does; returns whether its disruption budget lets it go now."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        answer = self._http.post(f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", json=eviction)
        if answer.status_code not in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.NOT_FOUND}:
            self._check(answer)
        return answer.status_code != httpx.codes.TOO_MANY_REQUESTS

    @contextmanager
    def watching(self, path: str) -> Iterator[list[Object]]:
        """Yields a list that fills with the events of a collection; after the block it is complete."""
        events: list[Object] = []
        first, ended = self.get(path, limit="1"), threading.Event()

        def follow() -> None:
            # The last turn begins after the block has ended.
            last = False
            while not last:
                last = ended.is_set()
                newest = events[-1]["object"] if events else first
                events.extend(self._since(path, newest["metadata"]["resourceVersion"]))

        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(follow)
            try:
                yield events
            finally:
                ended.set()
                following.result()

    def _since(self, path: str, version: str) -> list[Object]:
        """Returns the events of a second from a version on, with those that have been before."""
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}
        with self._http.stream("GET", path, params=query) as answer:
            events: list[Object] = [json.loads(line) for line in answer.iter_lines()]
        assert all(event["type"] != "ERROR" for event in events), events[-1]
        return events

    def is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return self._http.get("/readyz").is_success
        return False

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        """Asks, and again when the server says so: it does while it gets to know a new kind."""
        answer = self._http.request(method, path, **more)
        for _ in range(GRACE_SECONDS):
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            time.sleep(int(answer.headers.get("retry-after", "1")))
            answer = self._http.request(method, path, **more)
        return self._check(answer).json()

    def _check(self, answer: httpx.Response) -> httpx.Response:
        assert answer.is_success, f"{answer.request.method} {answer.request.url.path}: {answer.text[:500]}"
        return answer


@dataclass(frozen=True)
class Cluster:
    """A control plane that runs."""

    api: Api
    kubeconfig: Path


@contextmanager
def control_plane(parts: Parts, folder: Path) -> Iterator[Cluster]:
    """Runs a control plane with fake nodes; each of its processes writes a log into ``folder``."""
    with ExitStack() as stack:
        port = stack.enter_context(reserved(range(7400, 7600, 5), lambda first: range(first, first + 3)))
        url, store = f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
        token, kubeconfig, key = secrets.token_hex(16), folder / "kubeconfig", folder / "tokens.pem"
        (folder / "tokens.csv").write_text(f"{token},administrator,administrator,system:masters\n")
        key.write_bytes(_private_key())

        def start(name: str, **flags: object) -> subprocess.Popen[bytes]:
            words = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
            return stack.enter_context(_running(name, [str(parts.programs[name]), *words], folder))

        start(
            "etcd",
            data_dir=folder / "etcd",
            listen_client_urls=store,
            advertise_client_urls=store,
            listen_peer_urls=f"http://127.0.0.1:{port + 2}",
            unsafe_no_fsync="true",
            log_level="warn",
        )
        server = start(
            "kube-apiserver",
            etcd_servers=store,
            bind_address="127.0.0.1",
            secure_port=port,
            cert_dir=folder / "certificates",
            token_auth_file=folder / "tokens.csv",
            authorization_mode="RBAC",
            endpoint_reconciler_type="none",
            service_cluster_ip_range="10.96.0.0/16",
            service_account_issuer=url,
            service_account_key_file=key,
            service_account_signing_key_file=key,
        )
        authority = folder / "certificates" / "apiserver.crt"
        wait_until(lambda: _lives(server) and authority.exists())
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(url, token, authority)))
        api = Api(url, token, authority)
        wait_until(lambda: _lives(server) and api.is_ready())
        # Fake nodes send no heartbeats. Autoscalers look often, so that the check is short.
        start(
            "kube-controller-manager",
            kubeconfig=kubeconfig,
            secure_port=0,
            leader_elect="false",
            service_account_private_key_file=key,
            root_ca_file=authority,
            node_monitor_grace_period="24h",
            horizontal_pod_autoscaler_sync_period="2s",
        )
        start("kube-scheduler", kubeconfig=kubeconfig, secure_port=0, leader_elect="false")
        start(
            "kwok",
            kubeconfig=kubeconfig,
            config=STAGES,
            manage_all_nodes="true",
            node_ip="10.0.0.1",
            cidr="10.0.0.0/16",
        )
        yield Cluster(api, kubeconfig)


def _private_key() -> bytes:
    """Returns a key that signs the tokens of service accounts, in the only form that Kubernetes reads both ways."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _kubeconfig(url: str, token: str, authority: Path) -> Object:
    cluster, user = {"server": url, "certificate-authority": str(authority)}, {"token": token}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "check", "cluster": cluster}],
        "users": [{"name": "check", "user": user}],
        "contexts": [{"name": "check", "context": {"cluster": "check", "user": "check"}}],
        "current-context": "check",
    }


def _lives(process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the API server ended; its log says why"
    return True


@contextmanager
def _running(name: str, words: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program in a session of its own, so that Ctrl-C leaves it to us to stop each in its turn."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
