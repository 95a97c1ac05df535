"""Large messages through the whole mesh, and how they travel."""

import secrets
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest
from ameide.agent.v1 import agent_pb2, agent_pb2_grpc
from ameide.workflow.v1 import workflow_pb2, workflow_pb2_grpc

from tests.e2e.started import token
from tests.e2e.test_stories import grpc_channel
from tools.topology import Mesh

Rest = Callable[..., httpx.Client]
LIMIT = 10 * 1024 * 1024
CONFIG = 60 * 1024


@pytest.fixture
def tenant() -> str:
    return f"t-{secrets.token_hex(8)}"


def large_workflow(configs: int) -> dict[str, Any]:
    """A workflow with so many nodes of 60 KiB."""
    nodes = [{"id": f"n{i}", "type": "TASK", "config": {"text": f"{i:04}" * (CONFIG // 4)}} for i in range(configs)]
    return {"displayName": "Large", "definition": {"nodes": nodes}}


class TestWorkflow:
    """The largest resource there is; the limit of a message is ten times as much."""

    async def test_goes_in_and_out_in_full(self, mesh: Mesh, open_client: Rest, tenant: str) -> None:
        editor = open_client(tenant, "editor")
        body = httpx.Request("POST", "http://x", json=large_workflow(17)).content
        headers = {"content-type": "application/json"}

        refused = editor.post("/v1/workflows", content=body.ljust(LIMIT + 1), headers=headers)
        assert (refused.status_code, refused.headers["error-type"]) == (413, "PAYLOAD_TOO_LARGE")
        created = editor.post("/v1/workflows", content=body.ljust(LIMIT), headers=headers)
        assert created.status_code == 200, created.text[:500]
        read = editor.get(f"/v1/workflows/{created.json()['id']}")
        assert read.headers["content-encoding"] == "gzip"
        assert read.num_bytes_downloaded < len(body) / 20
        texts = [node["config"]["text"] for node in read.json()["definition"]["nodes"]]
        assert texts == [node["config"]["text"] for node in large_workflow(17)["definition"]["nodes"]]

        async with grpc_channel(mesh, tenant) as channel:
            request = workflow_pb2.GetWorkflowRequest(id=created.json()["id"])
            same = await workflow_pb2_grpc.WorkflowServiceStub(channel).GetWorkflow(request)
        assert [node.config["text"] for node in same.definition.nodes] == texts


class TestMessageOfGrpc:
    @pytest.fixture
    async def path(self, mesh: Mesh, tenant: str) -> str:
        """The agent to read, whose instructions are long."""
        async with grpc_channel(mesh, tenant) as channel:
            agent = agent_pb2.Agent(display_name="Long", model="m", instructions="word " * 20_000)
            created = await agent_pb2_grpc.AgentServiceStub(channel).CreateAgent(
                agent_pb2.CreateAgentRequest(agent=agent)
            )
        return str(created.id)

    @pytest.mark.parametrize("accepted", ["identity,deflate,gzip", "identity", None])
    async def test_is_compressed_for_who_accepts_it(
        self, mesh: Mesh, tenant: str, path: str, accepted: str | None
    ) -> None:
        request = agent_pb2.GetAgentRequest(id=path).SerializeToString()
        headers = {
            "authorization": f"Bearer {token(mesh, tenant, 'admin')}",
            "content-type": "application/grpc",
            "te": "trailers",
        } | ({"grpc-accept-encoding": accepted} if accepted else {})
        frame = b"\0" + len(request).to_bytes(4, "big") + request
        async with httpx.AsyncClient(base_url=mesh.url, http1=False, http2=True, headers=headers) as client:
            response = await client.post("/ameide.agent.v1.AgentService/GetAgent", content=frame)
        compressed = accepted is not None and "gzip" in accepted
        assert response.content[0] == compressed
        assert (len(response.content) < 5_000) == compressed
        assert (response.headers.get("grpc-encoding") == "gzip") == compressed

    def test_is_none_for_rest(self, open_client: Rest, tenant: str, path: str) -> None:
        """The transcoder cannot read it, whatever headers the client sends."""
        response = open_client(tenant, "admin").get(f"/v1/agents/{path}", headers={"grpc-accept-encoding": "gzip"})
        assert response.status_code == 200
        assert response.json()["instructions"] == "word " * 20_000

    async def test_that_is_large_decompressed_is_refused(self, mesh: Mesh, tenant: str) -> None:
        async with grpc_channel(mesh, tenant) as channel:
            path = "/ameide.agent.v1.AgentService/CreateAgent"
            method = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
            call = method(b"\0" * (LIMIT + 1), compression=grpc.Compression.Gzip)
            assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert ("error-type", "PAYLOAD_TOO_LARGE") in tuple(await call.trailing_metadata())
