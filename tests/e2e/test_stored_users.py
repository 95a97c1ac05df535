"""For users in the directory, stored roles override token claims, through the real mesh."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import httpx
import pytest

from tools.secrets import identity
from tools.topology import Mesh

Rest = Callable[..., httpx.Client]
COLLECTIONS = ("/v1/users", "/v1/workflows", "/v1/agents", "/v1/ipas")


@pytest.fixture
def tenant() -> str:
    return f"t-{secrets.token_hex(8)}"


@pytest.fixture
def admin(open_client: Rest, tenant: str) -> httpx.Client:
    return open_client(tenant, "admin")


@pytest.fixture
def bearer(mesh: Mesh, admin: httpx.Client, tenant: str) -> Iterator[Callable[..., tuple[str, httpx.Client]]]:
    """Creates a user with stored roles and a client with its token: `bearer(*stored, claims=(…))`."""
    clients: list[httpx.Client] = []

    def create(*stored: str, claims: tuple[str, ...]) -> tuple[str, httpx.Client]:
        body = {"displayName": "Grace", "email": f"{secrets.token_hex(4)}@navy.example", "roles": stored}
        id = admin.post("/v1/users", json=body).json()["id"]
        token = identity.mint(mesh.issuer, sub=id, tenant=tenant, roles=claims)
        credentials = {"authorization": f"Bearer {token}"}
        clients.append(httpx.Client(base_url=mesh.url, headers=credentials, timeout=20, verify=False))
        return f"/v1/users/{id}", clients[-1]

    yield create
    for client in clients:
        client.close()


def test_an_existing_token_dies_with_its_user_everywhere(
    admin: httpx.Client, bearer: Callable[..., tuple[str, httpx.Client]]
) -> None:
    path, grace = bearer("viewer", claims=("admin",))
    assert grace.get("/v1/me").status_code == 200
    assert admin.post(f"{path}:suspend", json={}).status_code == 200
    # Nobody but users had asked about her yet, and users knows of its own changes: no half a minute to wait for.
    for collection in COLLECTIONS:
        answer = grace.get(collection)
        assert (answer.status_code, answer.json()["details"][0]["reason"]) == (401, "UNAUTHENTICATED")


def test_stored_roles_count_in_every_service(bearer: Callable[..., tuple[str, httpx.Client]]) -> None:
    _, viewer = bearer("viewer", claims=("admin",))
    _, editor = bearer("editor", claims=())
    body = {"displayName": "W"}
    for collection in COLLECTIONS:
        assert viewer.get(collection).status_code == 200
    for collection in COLLECTIONS[1:]:
        assert viewer.post(collection, json=body).status_code == 403
    workflow = editor.post("/v1/workflows", json=body).json()
    # The IPA service asks the workflow service in her name, and that one looks at what is stored, too.
    ipa = editor.post("/v1/ipas", json={**body, "workflowId": workflow["id"]})
    assert ipa.status_code == 200, ipa.text
