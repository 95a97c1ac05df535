"""What the peers of `make bench` have in front of them does for them what it must."""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx

from bench.contender import free_port, write_proxy
from bench.contenders import INGRESS
from tests.e2e.edge.plugin import Issuer
from tools.edge.run import command

START_SECONDS: Final = 20
PATH: Final = "/v1/users/ada"
REQUESTS_PER_SECOND: Final = 5


class Peer(BaseHTTPRequestHandler):
    """Answers everything, on a new connection each time, and remembers the tokens."""

    protocol_version = "HTTP/1.1"
    tokens: Final[list[str]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers["authorization"])
        self.send_response(200)
        self.send_header("content-length", "0")
        self.send_header("connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing."""


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[int]:
    """Runs the peer, and yields its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Peer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def proxying(folder: Path, port: int) -> Iterator[httpx.Client]:
    """Runs a proxy with its log in `log`, and yields a client of it once it listens."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command(folder), stdout=log, stderr=subprocess.STDOUT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, verify=False) as client:
                until(lambda: answers(client), folder / "log")
                yield client
        finally:
            process.terminate()
            process.wait(10)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code > 0
    except httpx.TransportError:
        return False


def until(holds: Any, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_an_ingress_verifies_tokens_and_peers_limits_and_logs(tmp_path: Path, certs: Path, issuer: Issuer) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(issuer.key_set()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "users.pem", certs / "users.key")
    # Who resumes a session does not look at the certificate again.
    context.num_tickets = 0
    folder, port = tmp_path / "ingress", free_port()
    values: dict[str, object] = {
        "issuer": "https://dev.ameide.local/",
        "audience": "ameide-api",
        "key_set": tmp_path / "jwks.json",
        "certificates": certs,
        "port": port,
        "requests_per_second": REQUESTS_PER_SECOND,
    }
    Peer.tokens.clear()

    def ask(token: str | None) -> int:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return client.get(PATH, headers=headers).status_code

    with serving(context) as upstream_port:
        write_proxy(folder, INGRESS, {**values, "upstream_port": upstream_port})
        with proxying(folder, port) as client:
            strangers = [None, "no.token", issuer.token(exp=issuer.now() - 600), issuer.token(iss="https://other/")]
            assert [ask(one) for one in strangers] == [401] * len(strangers)
            # Envoy knows whose token it is, and that it is not for us.
            assert ask(issuer.token(aud="another-api")) == 403
            assert Peer.tokens == []
            token = issuer.token()
            assert ask(token) == 200
            assert Peer.tokens == [f"Bearer {token}"]
            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(ask, [token] * REQUESTS_PER_SECOND * 8)) == {200, 429}
            context.load_cert_chain(certs / "agents.pem", certs / "agents.key")
            until(lambda: ask(token) == 503, folder / "log")
            until(lambda: {"401", "200", "429", "503"} <= logged(folder / "log"), folder / "log")


def logged(log: Path) -> set[str]:
    """Returns the statuses that are logged for the path."""
    lines = (line.partition(f'"GET {PATH} HTTP/1.1" ') for line in log.read_text().splitlines())
    return {rest.split()[0] for _, found, rest in lines if found}
