"""The headers that make writing safe, through the real edge, in each of its languages."""

import secrets
import time
from collections.abc import Callable

import httpx
import pytest
from ameide.user.v1 import user_pb2, user_pb2_grpc

from tests.e2e.started import token
from tests.e2e.test_stories import grpc_channel
from tools.topology import Mesh

Rest = Callable[..., httpx.Client]


@pytest.fixture
def tenant() -> str:
    return f"t-{secrets.token_hex(8)}"


def a_user() -> dict[str, str]:
    return {"displayName": "Grace", "email": f"{secrets.token_hex(4)}@navy.example"}


class TestAge:
    def test_is_accepted_by_those_who_say_so(self, open_client: Rest, tenant: str) -> None:
        ada = open_client(tenant, "admin")
        path = f"/v1/users/{ada.post('/v1/users', json=a_user()).json()['id']}"
        wanted = {"cache-control": "max-age=30"}
        ends = time.monotonic() + 20
        # The feed of changes may still have to tell of the creation.
        while "age" not in (kept := ada.get(path, headers=wanted)).headers:
            assert time.monotonic() < ends
        assert 0 <= int(kept.headers["age"]) <= 30
        assert kept.headers["etag"] == kept.json()["etag"]
        assert ada.get(path, headers=wanted | {"if-none-match": kept.headers["etag"]}).status_code == 304
        assert "age" not in ada.get(path).headers

        assert open_client(f"{tenant}-other", "admin", headers=wanted).get(path).status_code == 404
        assert open_client(tenant, headers=wanted).get(path).status_code == 401
        ada.patch(path, json={"displayName": "Hopper"})
        assert ada.get(path, headers=wanted).json()["displayName"] == "Hopper"
        ada.delete(path)
        assert "deleteTime" in ada.get(path, headers=wanted).json()


class TestEtag:
    def test_guards_every_change_over_rest(self, open_client: Rest, tenant: str) -> None:
        ada = open_client(tenant, "admin")
        created = ada.post("/v1/users", json=a_user())
        path, first = f"/v1/users/{created.json()['id']}", created.headers["etag"]
        assert first == created.json()["etag"] == ada.get(path).headers["etag"]

        changed = ada.patch(path, json={"displayName": "Hopper"}, headers={"if-match": first})
        second = changed.headers["etag"]
        assert (changed.status_code, second == changed.json()["etag"]) == (200, True)
        assert second != first

        for stale in (
            ada.patch(path, json={"displayName": "Lost"}, headers={"if-match": first}),
            ada.post(f"{path}:suspend", json={}, headers={"if-match": first}),
            ada.delete(path, headers={"if-match": first}),
        ):
            assert (stale.status_code, stale.headers["error-type"]) == (409, "ETAG_MISMATCH")
        assert ada.get(path).json()["displayName"] == "Hopper"
        assert ada.get("/v1/users", headers={"if-match": first}).status_code == 400
        assert ada.delete(path, headers={"if-match": second}).status_code == 200
        assert "etag" not in ada.get("/v1/users").headers

    async def test_guards_over_grpc_too(self, mesh: Mesh, tenant: str) -> None:
        async with grpc_channel(mesh, tenant) as channel:
            users = user_pb2_grpc.UserServiceStub(channel)
            user = user_pb2.User(display_name="Grace", email="grace@navy.example")
            created = await users.CreateUser(user_pb2.CreateUserRequest(user=user))
            request = user_pb2.SuspendUserRequest(id=created.id)
            call = users.SuspendUser(request, metadata=(("if-match", '"9"'),))
            assert ("error-type", "ETAG_MISMATCH") in tuple(await call.trailing_metadata())
            suspended = await users.SuspendUser(request, metadata=(("if-match", created.etag),))
            assert suspended.state == user_pb2.User.SUSPENDED


class TestReplay:
    """A repeated mutation says that it is one, wherever it is asked."""

    def test_over_rest(self, open_client: Rest, tenant: str) -> None:
        ada, body = open_client(tenant, "admin", headers={"idempotency-key": "k"}), a_user()
        first, second = (ada.post("/v1/users", json=body) for _ in range(2))
        assert first.content == second.content
        assert first.headers["etag"] == second.headers["etag"]
        assert "idempotent-replayed" not in first.headers
        assert second.headers["idempotent-replayed"] == "true"

    def test_over_rest_of_a_key_that_is_none(self, open_client: Rest, tenant: str) -> None:
        ada = open_client(tenant, "admin")
        for keys in ([b""], [b"a" * 256], [b"a b"], ["ä".encode()], [b"a", b"b"]):
            refused = ada.post("/v1/users", json=a_user(), headers=[(b"idempotency-key", key) for key in keys])
            assert (refused.status_code, refused.headers["error-type"]) == (400, "INVALID_REQUEST"), keys
        assert ada.get("/v1/users").json()["users"] == []

    async def test_over_grpc(self, mesh: Mesh, tenant: str) -> None:
        async with grpc_channel(mesh, tenant) as channel:
            users = user_pb2_grpc.UserServiceStub(channel)
            user = user_pb2.User(display_name="Grace", email="grace@navy.example")
            calls = []
            for _ in range(2):
                metadata = (("idempotency-key", "k"),)
                calls.append(users.CreateUser(user_pb2.CreateUserRequest(user=user), metadata=metadata))
                await calls[-1]
            said = [("idempotent-replayed", "true") in tuple(await call.initial_metadata()) for call in calls]
        assert said == [False, True]

    def test_over_grpc_web(self, mesh: Mesh, tenant: str) -> None:
        user = user_pb2.User(display_name="Grace", email="grace@navy.example")
        message = user_pb2.CreateUserRequest(user=user).SerializeToString()
        headers = {
            "authorization": f"Bearer {token(mesh, tenant, 'admin')}",
            "content-type": "application/grpc-web+proto",
            "idempotency-key": "k",
        }
        with httpx.Client(base_url=mesh.url, headers=headers) as page:
            frame = b"\0" + len(message).to_bytes(4, "big") + message
            said = [page.post("/ameide.user.v1.UserService/CreateUser", content=frame) for _ in range(2)]
        assert [answer.headers.get("idempotent-replayed") for answer in said] == [None, "true"]
        assert said[0].content == said[1].content
