"""What people do with the mesh, through the real edge, over REST and over gRPC."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from google.protobuf.field_mask_pb2 import FieldMask

from tests.e2e.conftest import token
from tools.topology import Mesh

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

Rest = Callable[..., httpx.Client]


@pytest.fixture
def tenant() -> str:
    return f"t-{secrets.token_hex(8)}"


def grpc_channel(mesh: Mesh, tenant: str) -> grpc.aio.Channel:
    """Opens what a native client opens: TLS to the edge, the token with every call."""
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials((mesh.certificates / "ca.pem").read_bytes()),
        grpc.access_token_call_credentials(token(mesh, tenant, "admin")),
    )
    return grpc.aio.secure_channel(f"localhost:{mesh.ports['edge https']}", credentials)


class TestUserOverRest:
    def test_is_created_read_listed_changed_deleted_and_restored(self, rest: Rest, tenant: str) -> None:
        ada = rest(tenant, "admin")
        created = ada.post("/v1/users", json={"displayName": "Grace", "email": "grace@navy.example"}).json()
        path = f"/v1/users/{created['id']}"
        assert created["state"] == "ACTIVE"
        assert ada.get(path).json() == created
        assert ada.get("/v1/users").json()["users"] == [created]

        changed = ada.patch(path, params={"updateMask": "displayName"}, json={"displayName": "Admiral"}).json()
        assert (changed["displayName"], changed["email"]) == ("Admiral", "grace@navy.example")
        assert changed["etag"] != created["etag"]

        assert ada.delete(path).json()["deleteTime"]
        assert ada.get("/v1/users").json()["users"] == []
        assert ada.post(f"{path}:undelete", json={}).json()["displayName"] == "Admiral"
        assert [user["id"] for user in ada.get("/v1/users").json()["users"]] == [created["id"]]

    def test_does_not_exist_for_another_tenant(self, rest: Rest, tenant: str) -> None:
        created = rest(tenant, "admin").post("/v1/users", json={"displayName": "G", "email": "g@x.example"}).json()
        eve = rest(f"{tenant}-other", "admin")
        hidden, absent = (
            eve.get(f"/v1/users/{user_id}", headers={"x-request-id": "6f9c2a34-8f3f-4b0e-9a51-0c8f4f0f4f10"})
            for user_id in (created["id"], "01900000-0000-7000-8000-000000000000")
        )
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace(created["id"], "ID") == absent.text.replace(
            "01900000-0000-7000-8000-000000000000", "ID"
        )

    @pytest.mark.parametrize(
        ("roles", "body", "status", "reason"),
        [
            ((), {"displayName": "G", "email": "g@x.example"}, 401, "UNAUTHENTICATED"),
            (("viewer",), {"displayName": "G", "email": "g@x.example"}, 403, "PERMISSION_DENIED"),
            (("admin",), {"displayName": "G", "email": "no address"}, 400, "INVALID_REQUEST"),
        ],
    )
    def test_is_refused_in_one_shape(
        self, rest: Rest, tenant: str, roles: tuple[str, ...], body: dict[str, str], status: int, reason: str
    ) -> None:
        answer = rest(tenant, *roles).post("/v1/users", json=body)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"code", "message", "details"}
        assert answer.json()["details"][0]["reason"] == reason
        assert answer.headers["x-request-id"]


class TestUserOverGrpc:
    async def test_is_created_read_listed_changed_deleted_and_restored(self, mesh: Mesh, tenant: str) -> None:
        async with grpc_channel(mesh, tenant) as channel:
            users: UserServiceAsyncStub = UserServiceStub(channel)
            user = pb.User(display_name="Grace", email="grace@navy.example")
            created = await users.CreateUser(pb.CreateUserRequest(user=user))
            assert await users.GetUser(pb.GetUserRequest(id=created.id)) == created
            assert list((await users.ListUsers(pb.ListUsersRequest())).users) == [created]
            change = pb.User(id=created.id, display_name="Admiral")
            mask = FieldMask(paths=["display_name"])
            assert (await users.UpdateUser(pb.UpdateUserRequest(user=change, update_mask=mask))).email == user.email
            assert (await users.DeleteUser(pb.DeleteUserRequest(id=created.id))).HasField("delete_time")
            assert (await users.UndeleteUser(pb.UndeleteUserRequest(id=created.id))).display_name == "Admiral"

    async def test_is_the_user_that_rest_sees(self, mesh: Mesh, rest: Rest, tenant: str) -> None:
        async with grpc_channel(mesh, tenant) as channel:
            user = pb.User(display_name="Grace", email="grace@navy.example")
            created = await UserServiceStub(channel).CreateUser(pb.CreateUserRequest(user=user))
        assert rest(tenant, "viewer").get(f"/v1/users/{created.id}").json()["displayName"] == "Grace"

    async def test_is_refused_without_a_token(self, mesh: Mesh) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['edge http']}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await UserServiceStub(channel).ListUsers(pb.ListUsersRequest())
        assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
