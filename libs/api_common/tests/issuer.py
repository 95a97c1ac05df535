"""An issuer of tokens over HTTP, which may publish anything."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm


def key(name: str) -> dict[str, Any]:
    private = ec.generate_private_key(ec.SECP256R1())
    return {**ECAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": name, "use": "sig", "alg": "ES256"}


class Issuer:
    """A real HTTP server with a discovery document and a key set; counts what is fetched."""

    def __init__(self) -> None:
        self.keys = [key("k1")]
        self.fetches = 0
        self.discoveries = 0
        self.up = True
        self.body: bytes | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not issuer.up:
                    self.send_error(503)
                    return
                if self.path == "/jwks":
                    issuer.fetches += 1
                else:
                    issuer.discoveries += 1
                body = json.dumps(issuer.document(self.path)).encode() if issuer.body is None else issuer.body
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.named = self.url
        self.jwks_uri: object = f"{self.url}jwks"

    def document(self, path: str) -> object:
        return {"keys": self.keys} if path == "/jwks" else {"issuer": self.named, "jwks_uri": self.jwks_uri}

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Answers until the block ends."""
        issuer = cls()
        thread = threading.Thread(target=issuer.server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield issuer
        finally:
            issuer.server.shutdown()
            issuer.server.server_close()
            thread.join()
