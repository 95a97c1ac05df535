"""What gRPC core would write by itself stays out of the log of a service."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from api_common.testing import tls_of

_A_FAILED_HANDSHAKE: Final = """
import asyncio, socket, sys
from pathlib import Path

from api_common.authn import server_credentials
from api_common.settings import TlsSettings
import grpc


async def main():
    server = grpc.aio.server()
    credentials = server_credentials(TlsSettings.model_validate_json(sys.argv[1]))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        client.setblocking(False)
        # The server closes the connection once it has seen, and would have reported, that this is no handshake.
        while await asyncio.get_running_loop().sock_recv(client, 1024):
            pass
    await server.stop(None)


asyncio.run(main())
"""


def test_a_failed_handshake_writes_no_line_of_grpc_core(certificates: Path) -> None:
    settings = tls_of(certificates, "users").model_dump_json()
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-c", _A_FAILED_HANDSHAKE, settings],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
