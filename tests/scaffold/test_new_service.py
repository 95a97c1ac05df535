"""`make new-service NAME=connectors` in a copy of the repository: the service works, and its own tests pass."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.ports import mesh_offset
from tests.scaffold.scratch import Scratch
from tools.secrets import identity
from tools.topology import Mesh

PATH: Final = "/v1/connectors"

# The copy runs it: only there clients know connectors.
OVER_GRPC: Final = """
import sys

from ameide_client import Client
from ameide_client.errors import PermissionDeniedError, ResourceNotFoundError, UnauthenticatedError
from ameide_client.types import Connector, CreateConnectorRequest

def refused(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"not refused with {error.__name__}")

url, editor, viewer, stranger = sys.argv[1:]
with Client(url, token=editor) as client:
    one = client.connectors.create(Connector(display_name="One"))
    requests = [CreateConnectorRequest(connector=Connector(display_name=name)) for name in ("Two", "Three")]
    two, three = client.connectors.batch_create(requests).connectors
    assert client.connectors.get(one.id) == one
    assert [found.id for found in client.connectors.list(order_by="create_time")][-3:] == [one.id, two.id, three.id]
    assert list(client.connectors.batch_get([two.id, one.id]).connectors) == [two, one]
    change = next(iter(client.connectors.watch(initial_state=True, filter=f'id = "{two.id}"')))
    assert (change.kind, change.resource) == ("created", two)
    one.display_name = "First"
    assert client.connectors.update(one, update_mask=["display_name"]).etag != one.etag
with Client(url, token=viewer) as client:
    client.connectors.get(one.id)
    refused(PermissionDeniedError, lambda: client.connectors.delete(one.id))
with Client(url, token=stranger) as client:
    refused(ResourceNotFoundError, lambda: client.connectors.get(one.id))
    assert not list(client.connectors.list())
with Client(url) as client:
    refused(UnauthenticatedError, lambda: client.connectors.get(one.id))
"""


class Running:
    """A mesh with connectors in it."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def token(self, tenant: str, role: str, *, sub: str = "ada") -> str:
        return identity.mint(self.mesh.issuer, sub=sub, tenant=tenant, roles=[role])

    def rest(self, token: str = "") -> httpx.Client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.mesh.url, headers=headers, timeout=20)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    made = Scratch(tmp_path_factory.mktemp("repository"))
    made.make("new-service", NAME="connectors")
    return made


@pytest.fixture(scope="module")
def running(scratch: Scratch) -> Iterator[Running]:
    # Not below pytest's folder: every pytest that root starts closes it to Postgres, which runs as another user.
    with tempfile.TemporaryDirectory(prefix="mesh") as folder, mesh_offset() as offset:
        settings = {"AMEIDE_LOCAL_DIR": folder, "PORT_OFFSET": str(offset), "DETACH": "1"}
        scratch.make("up", **settings)
        try:
            yield Running(Mesh(Path(folder), offset))
        finally:
            scratch.make("down", **settings)


@pytest.mark.timeout(300)
class TestNewService:
    def test_serves_rest(self, running: Running) -> None:
        with running.rest(running.token("acme", "editor")) as client:
            one = client.post(PATH, json={"displayName": "One"}).raise_for_status().json()
            assert (one["displayName"], one["state"], one["tenantId"]) == ("One", "DRAFT", "acme")
            assert client.get(f"{PATH}/{one['id']}").json() == one
            batch = {"requests": [{"connector": {"displayName": "Two"}}]}
            (two,) = client.post(f"{PATH}:batchCreate", json=batch).raise_for_status().json()["connectors"]
            assert client.get(PATH, params={"orderBy": "create_time"}).json()["connectors"] == [one, two]
            chosen = client.get(f"{PATH}:batchGet", params=[("ids", two["id"]), ("ids", one["id"])])
            assert chosen.json()["connectors"] == [two, one]
            with client.stream("GET", f"{PATH}:watch", params={"initialState": "true"}) as watch:
                assert one["id"] in next(watch.iter_text())
            active = client.post(f"{PATH}/{one['id']}:activate", json={}).raise_for_status().json()
            assert active["state"] == "ACTIVE"
        with running.rest(running.token("other", "admin")) as stranger:
            assert stranger.get(f"{PATH}/{one['id']}").status_code == 404
            assert stranger.get(PATH).json()["connectors"] == []
        with running.rest(running.token("acme", "viewer")) as viewer:
            assert viewer.get(f"{PATH}/{one['id']}").status_code == 200
            assert viewer.delete(f"{PATH}/{one['id']}").status_code == 403
        with running.rest() as anonymous:
            assert anonymous.get(f"{PATH}/{one['id']}").status_code == 401

    def test_serves_grpc(self, running: Running, scratch: Scratch) -> None:
        tokens = [running.token("grpc", "editor"), running.token("grpc", "viewer"), running.token("else", "admin")]
        command = [str(scratch.python), "-c", OVER_GRPC, running.mesh.url, *tokens]
        done = subprocess.run(command, cwd=scratch.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_asks_the_users_service_what_a_stored_user_may_do(self, running: Running) -> None:
        """The list of services says whom users serves: none of its callers can be forgotten."""
        with running.rest(running.token("acme", "admin")) as admin:
            user = {"displayName": "Eve", "email": "eve@example.com", "roles": ["viewer"]}
            eve = admin.post("/v1/users", json=user).raise_for_status().json()
        with running.rest(running.token("acme", "admin", sub=eve["id"])) as client:
            assert client.get(PATH).status_code == 200
            # Her stored role counts, not the one of her token.
            assert client.post(PATH, json={"displayName": "No"}).status_code == 403

    def test_is_in_the_document_and_the_metrics(self, running: Running) -> None:
        with running.rest() as client:
            assert f"{PATH}/{{id}}:activate" in client.get("/openapi.json").json()["paths"]
        port = running.mesh.port_offset + 9106
        assert "ameide.connector.v1.ConnectorService/" in httpx.get(f"http://127.0.0.1:{port}/metrics").text

    def test_has_tests_that_pass(self, scratch: Scratch) -> None:
        assert " passed" in scratch.make("test-connectors")

    def test_keeps_the_rules_of_the_house(self, scratch: Scratch) -> None:
        programs, service = scratch.folder / ".venv" / "bin", "services/connectors"
        for name, *arguments in (
            ("ruff", "check", service),
            ("ruff", "format", "--check", service),
            ("buf", "lint"),
            ("python", "-m", "tools.imports"),
        ):
            subprocess.run([str(programs / name), *arguments], cwd=scratch.folder, check=True)
