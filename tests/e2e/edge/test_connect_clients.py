"""The official clients of Connect through the real edge: connect-node, connect-web in a browser, and `buf curl`.

What they call is in clients/typescript/test/connect-calls.ts.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import DomainError, FieldViolation, ValidationError, render
from users_service.errors import EmailTakenError

from tests.e2e.browser import chromium
from tests.e2e.edge.backend import Backend
from tests.e2e.edge.histories import watch_users
from tests.e2e.edge.plugin import Edge
from tools.clients import typescript
from tools.contract.generate import DESCRIPTOR_SET

pytestmark = pytest.mark.timeout(180)
SEEN: Final = {
    "created": ["good", '"3"'],
    "read": "one",
    "large": 100_000,
    "cancelled": ["Canceled"],
    "late": "DeadlineExceeded",
    "malformed": ["InvalidArgument", "INVALID_REQUEST", "user.email"],
    "taken": ["AlreadyExists", "EMAIL_TAKEN"],
    "anonymous": ["Unauthenticated", "UNAUTHENTICATED"],
    "down": ["Unavailable", "UNAVAILABLE"],
    # A bookmark, two changes, a heartbeat and the end.
    "watched": 5,
    "interrupted": ["Unavailable", "UNAVAILABLE"],
    "refused": ["PermissionDenied", "PERMISSION_DENIED"],
    "unwatched": ["Unauthenticated", "UNAUTHENTICATED"],
}
FAILURES: Final[dict[str, DomainError]] = {
    "malformed": ValidationError(
        "No.", violations=[FieldViolation("user.email", "must be an address", "INVALID_FORMAT")]
    ),
    "taken": EmailTakenError("taken"),
}
# How a browser finds the packages that Node.js finds by itself.
PARTS: Final = {
    "@bufbuild/protobuf": ("", "/codegenv2", "/reflect", "/wire", "/wkt"),
    "@connectrpc/connect": ("", "/protocol", "/protocol-connect", "/protocol-grpc", "/protocol-grpc-web"),
    "@connectrpc/connect-web": ("",),
}
PAGE: Final = """
async ([edge, token, codec]) => {
  const { createConnectTransport } = await import("@connectrpc/connect-web");
  const { calls } = await import("/dist/test/connect-calls.js");
  const transport = (token) => createConnectTransport({
    baseUrl: edge, useBinaryFormat: codec === "proto", useHttpGet: true,
    interceptors: token ? [(next) => (call) => (call.header.set("authorization", `Bearer ${token}`), next(call))] : [],
  });
  return calls(transport(token), transport());
}
"""


@pytest.fixture(scope="module")
def built() -> None:
    typescript.build()


async def create(request: pb.CreateUserRequest, context: Any) -> pb.User:
    name = request.user.display_name
    if name in FAILURES:
        await context.abort(*render(FAILURES[name], request_id="the-id"))
    await context.send_initial_metadata((("etag", '"3"'),))
    return pb.User(display_name=name, email="x" * 100_000 if name == "large" else "")


@pytest.fixture
def answering(backend: Backend) -> Iterator[list[str]]:
    """The service with its answers; what waited and was cancelled is in the list."""
    ended: list[str] = []

    async def create_late(request: pb.CreateUserRequest, context: Any) -> pb.User:
        if request.user.display_name in {"late", "cancelled"}:
            try:
                await asyncio.sleep(20)
            finally:
                ended.append(request.user.display_name)
        return await create(request, context)

    async def get(request: pb.GetUserRequest, _context: Any) -> pb.User:
        return pb.User(id=request.id)

    backend.script |= {"CreateUser": create_late, "GetUser": get, "WatchUsers": watch_users()}
    yield ended
    made = [call for call in backend.calls if call.method == "CreateUser"]
    good = made[0].metadata
    assert (good["idempotency-key"], good["if-match"]) == ("mine", '"1"')
    late = next(call for call in made if call.request.user.display_name == "late")
    assert late.seconds_left and late.seconds_left <= 0.3


async def both_ended(ended: list[str]) -> None:
    async with asyncio.timeout(10):
        while sorted(ended) != ["cancelled", "late"]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("options", [("1.1", "proto"), ("1.1", "json", "get"), ("2", "proto", "get"), ("2", "json")])
async def test_connect_node(edge: Edge, answering: list[str], built: None, options: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        *("node", "dist/test/connect-node.js", *options),
        cwd=typescript.PACKAGE,
        env={**os.environ, "EDGE_URL": edge.url, "TOKEN": edge.token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert json.loads(output) == SEEN
    await both_ended(answering)


@pytest.fixture(scope="module")
def origin(built: None) -> Iterator[str]:
    """A site of another origin, with the client and a page that finds its packages."""

    class Site(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                super().do_GET()
                return
            imports = {
                f"{package}{part}": f"/node_modules/{package}/dist/esm{part}/index.js"
                for package, parts in PARTS.items()
                for part in parts
            }
            page = f'<script type="importmap">{json.dumps({"imports": imports})}</script>'.encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(typescript.PACKAGE))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("codec", ["proto", "json"])
async def test_connect_web(edge: Edge, answering: list[str], origin: str, codec: str) -> None:
    def run() -> Any:
        with chromium() as browser:
            page = browser.new_page()
            page.goto(origin)
            return page.evaluate(PAGE, [edge.url, edge.token, codec])

    assert await asyncio.to_thread(run) == SEEN
    await both_ended(answering)


async def buf_curl(edge: Edge, method: str, data: dict[str, Any], *options: str) -> str:
    headers = {"authorization": f"Bearer {edge.token}", "idempotency-key": "mine"}
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("buf")), "curl", "--schema", f"{DESCRIPTOR_SET}#format=binpb", *options),
        *("--protocol", "connect", "--data", json.dumps(data)),
        *(word for name, value in headers.items() for word in ("--header", f"{name}: {value}")),
        f"{edge.url}/ameide.user.v1.UserService/{method}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return (output + errors).decode()


@pytest.mark.parametrize("options", [(), ("--http2-prior-knowledge",)])
async def test_buf_curl(edge: Edge, backend: Backend, options: tuple[str, ...]) -> None:
    backend.script |= {"CreateUser": create, "WatchUsers": watch_users()}
    said = await buf_curl(edge, "CreateUser", {"user": {"displayName": "good"}}, *options)
    assert json.loads(said)["displayName"] == "good"
    assert backend.calls[0].metadata["idempotency-key"] == "mine"
    refused = json.loads(await buf_curl(edge, "CreateUser", {"user": {"displayName": "malformed"}}, *options))
    assert refused["code"] == "invalid_argument"
    assert refused["details"][0]["type"] == "google.rpc.ErrorInfo"
    said = await buf_curl(edge, "WatchUsers", {"filter": "unavailable"}, *options)
    assert (said.count("resumeToken"), said.count('"code": "unavailable"')) == (4, 1)
