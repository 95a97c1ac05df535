"""The operations port: `/livez`, `/readyz` and `/metrics` over plain HTTP, for the kubelet and Prometheus.

It has a thread of its own: rendering metrics takes 14 to 21 ms (docs/performance.md), too long for the event loop.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

LIVENESS_TIMEOUT_SECONDS: Final = 5
"""An event loop that does not answer for this long is stuck, and the process should be restarted."""


class OperationsServer:
    """Answers until closed.

    Args:
        port: 0 takes a free one.
        is_ready: whether the process should get traffic.
    """

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()

        class Handler(BaseHTTPRequestHandler):
            # Each connection has a thread; one that says nothing must not keep it.
            timeout = 5

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/livez":
                        self._say(_answers(loop))
                    case "/readyz":
                        self._say(is_ready())
                    case "/metrics":
                        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                        self._send(HTTPStatus.OK, encode(registry), content_type)
                    case _:
                        self._send(HTTPStatus.NOT_FOUND, b"not found\n")

            def _say(self, good: bool) -> None:
                if good:
                    self._send(HTTPStatus.OK, b"ok\n")
                else:
                    self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n")

            def _send(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every second; they are not worth a line."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="operations", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_port

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answers(loop: asyncio.AbstractEventLoop) -> bool:
    answered: Future[bool] = Future()
    loop.call_soon_threadsafe(answered.set_result, True)
    try:
        return answered.result(LIVENESS_TIMEOUT_SECONDS)
    except TimeoutError:
        return False
