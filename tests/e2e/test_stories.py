"""What people do with the mesh, through the real edge, over REST and over gRPC."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from ameide.agent.v1 import agent_pb2, agent_pb2_grpc
from ameide.ipa.v1 import ipa_pb2, ipa_pb2_grpc
from ameide.user.v1 import user_pb2, user_pb2_grpc
from ameide.workflow.v1 import workflow_pb2, workflow_pb2_grpc
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from tests.e2e.started import token
from tools.topology import Mesh

Rest = Callable[..., httpx.Client]
NEVER = "01900000-0000-7000-8000-000000000000"
"""A well-formed id that nothing has."""


@dataclass(frozen=True)
class Aggregate:
    """What a story needs to know of an aggregate."""

    name: str
    messages: Any
    stub: Any
    body: dict[str, object]
    """A resource that may be created, as JSON."""

    @property
    def collection(self) -> str:
        return f"/v1/{self.name.lower()}s"

    def request(self, verb: str, **fields: object) -> Any:
        return getattr(self.messages, f"{verb}{self.name}Request")(**fields)


AGGREGATES = [
    Aggregate("User", user_pb2, user_pb2_grpc.UserServiceStub, {"email": "grace@navy.example", "roles": ["editor"]}),
    Aggregate("Workflow", workflow_pb2, workflow_pb2_grpc.WorkflowServiceStub, {"description": "How it is done"}),
    Aggregate("Agent", agent_pb2, agent_pb2_grpc.AgentServiceStub, {"model": "reader-1", "instructions": "Read."}),
    Aggregate("Ipa", ipa_pb2, ipa_pb2_grpc.IpaServiceStub, {"description": "It does itself"}),
]
each_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda one: one.name)


@pytest.fixture
def tenant() -> str:
    return f"t-{secrets.token_hex(8)}"


def grpc_channel(mesh: Mesh, tenant: str) -> grpc.aio.Channel:
    """Opens what a native client opens: TLS to the edge, the token with every call."""
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials((mesh.certificates / "ca.pem").read_bytes()),
        grpc.access_token_call_credentials(token(mesh, tenant, "admin")),
    )
    # The library's own limit is 4 MiB.
    options = [("grpc.max_receive_message_length", 10 * 1024 * 1024)]
    return grpc.aio.secure_channel(f"localhost:{mesh.ports['edge https']}", credentials, options)


@each_aggregate
class TestResource:
    """Created, read, listed, changed, deleted, restored."""

    def test_lives_over_rest(self, open_client: Rest, tenant: str, aggregate: Aggregate) -> None:
        ada = open_client(tenant, "admin")
        created = ada.post(aggregate.collection, json={"displayName": "First", **aggregate.body}).json()
        path = f"{aggregate.collection}/{created['id']}"
        assert created.items() >= {"displayName": "First", "tenantId": tenant, **aggregate.body}.items()
        assert ada.get(path).json() == created
        assert ids(ada, aggregate) == [created["id"]]

        changed = ada.patch(path, params={"updateMask": "displayName"}, json={"displayName": "Second"}).json()
        assert changed.items() >= {"displayName": "Second", **aggregate.body}.items()
        assert changed["etag"] != created["etag"]

        assert ada.delete(path).json()["deleteTime"]
        assert ids(ada, aggregate) == []
        assert ada.post(f"{path}:undelete", json={}).json()["displayName"] == "Second"
        assert ids(ada, aggregate) == [created["id"]]

    async def test_lives_over_grpc(self, mesh: Mesh, tenant: str, aggregate: Aggregate) -> None:
        kind, field = getattr(aggregate.messages, aggregate.name), aggregate.name.lower()
        wanted = json_format.ParseDict({"displayName": "First", **aggregate.body}, kind())
        async with grpc_channel(mesh, tenant) as channel:

            async def call(verb: str, **fields: object) -> Any:
                method = getattr(aggregate.stub(channel), f"{verb}{aggregate.name}")
                return await method(aggregate.request(verb, **fields))

            created = await call("Create", **{field: wanted})
            assert await call("Get", id=created.id) == created
            change = kind(id=created.id, display_name="Second")
            mask = FieldMask(paths=["display_name"])
            assert (await call("Update", **{field: change}, update_mask=mask)).display_name == "Second"
            assert (await call("Delete", id=created.id)).HasField("delete_time")
            assert (await call("Undelete", id=created.id)).display_name == "Second"

    def test_does_not_exist_for_another_tenant(self, open_client: Rest, tenant: str, aggregate: Aggregate) -> None:
        body = {"displayName": "First", **aggregate.body}
        created = open_client(tenant, "admin").post(aggregate.collection, json=body).json()
        eve = open_client(f"{tenant}-other", "admin", headers={"x-request-id": "6f9c2a34-8f3f-4b0e-9a51-0c8f4f0f4f10"})
        hidden, absent = (eve.get(f"{aggregate.collection}/{one}") for one in (created["id"], NEVER))
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace(created["id"], NEVER) == absent.text

    @pytest.mark.parametrize(
        ("roles", "name", "status", "reason"),
        [
            ((), "First", 401, "UNAUTHENTICATED"),
            (("viewer",), "First", 403, "PERMISSION_DENIED"),
            (("admin",), "x" * 201, 400, "INVALID_REQUEST"),
        ],
    )
    def test_is_refused_in_one_shape(
        self,
        open_client: Rest,
        tenant: str,
        aggregate: Aggregate,
        roles: tuple[str, ...],
        name: str,
        status: int,
        reason: str,
    ) -> None:
        answer = open_client(tenant, *roles).post(aggregate.collection, json={"displayName": name, **aggregate.body})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"code", "message", "details"}
        assert answer.json()["details"][0]["reason"] == reason
        assert answer.headers["x-request-id"]


class TestOneApi:
    async def test_shows_over_rest_what_grpc_made(self, mesh: Mesh, open_client: Rest, tenant: str) -> None:
        async with grpc_channel(mesh, tenant) as channel:
            agent = agent_pb2.Agent(display_name="Reader", model="reader-1")
            created = await agent_pb2_grpc.AgentServiceStub(channel).CreateAgent(
                agent_pb2.CreateAgentRequest(agent=agent)
            )
        assert open_client(tenant, "viewer").get(f"/v1/agents/{created.id}").json()["displayName"] == "Reader"

    async def test_refuses_grpc_without_a_token(self, mesh: Mesh) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['edge http']}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await user_pb2_grpc.UserServiceStub(channel).ListUsers(user_pb2.ListUsersRequest())
        assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED

    def test_binds_only_what_the_tenant_has(self, open_client: Rest, tenant: str) -> None:
        workflow = open_client(f"{tenant}-other", "admin").post("/v1/workflows", json={"displayName": "Theirs"}).json()
        refused, absent = (
            open_client(tenant, "admin").post("/v1/ipas", json={"displayName": "Mine", "workflowId": one})
            for one in (workflow["id"], NEVER)
        )
        assert refused.status_code == absent.status_code
        assert refused.status_code in {400, 404}
        assert refused.json()["details"][0]["reason"] == absent.json()["details"][0]["reason"]


def ids(client: httpx.Client, aggregate: Aggregate) -> list[str]:
    listed = client.get(aggregate.collection).json()[f"{aggregate.name.lower()}s"]
    return [one["id"] for one in listed]
