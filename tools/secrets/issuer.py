"""The development issuer: its key sets (OpenID Connect Discovery 1.0), read each time, and tokens for the console.

python -m tools.secrets.issuer
"""

import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from tools.secrets import identity
from tools.topology import ISSUER, Mesh

DISCOVERY: Final = "/.well-known/openid-configuration"
KEY_SETS: Final = ("/jwks.json", "/internal-jwks.json")
"""The files of the folder that are public; its private key is not among them."""


class IssuerServer(ThreadingHTTPServer):
    """Publishes the files ``key_sets`` of ``folder`` on ``port`` of this machine, and signs in for ``console``."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int, key_sets: Sequence[str] = KEY_SETS, console: str = "") -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder = folder
        self.key_sets = key_sets
        self.console = console

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def location(self, path: str) -> str | None:
        """Returns where a browser that signs in goes on: the page reads what no server is told."""
        url = urlsplit(path)
        if not self.console or url.path != "/sign-in":
            return None
        token = identity.mint(self.folder, sub="ada", tenant="acme", roles=["admin"])
        # By `state`, which is in the query, the page knows that it asked.
        return f"{self.console}#{urlencode([('token', token), *parse_qsl(url.query)])}"

    def document(self, path: str) -> bytes | None:
        if path == DISCOVERY and "/jwks.json" in self.key_sets:
            return json.dumps({"issuer": ISSUER, "jwks_uri": f"{self.url}/jwks.json"}).encode()
        if path in self.key_sets and (file := self.folder / path[1:]).is_file():
            return file.read_bytes()
        return None


class _Handler(BaseHTTPRequestHandler):
    server: IssuerServer

    def do_GET(self) -> None:
        location = self.server.location(self.path)
        document = self.server.document(self.path)
        body = document or b'{"error": "not_found"}'
        self.send_response(303 if location else 404 if document is None else 200)
        if location:
            self.send_header("location", location)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        # The client may have closed the connection.
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # the name is the base class's
        """Logs nothing: the edge asks twice a minute."""


def main() -> None:
    mesh = Mesh.from_environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Another issuer tells its own keys, and signs in its own people; the keys for API keys are always ours.
    chosen = (KEY_SETS[1:], "") if mesh.other_issuer else (KEY_SETS, f"{mesh.url}/console")
    IssuerServer(mesh.issuer, mesh.ports["issuer"], *chosen).serve_forever()


if __name__ == "__main__":
    main()
