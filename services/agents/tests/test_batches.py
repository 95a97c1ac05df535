"""The promises of AgentService's batches; that they are as many single calls is tested for every aggregate alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.agent.v1 import agent_pb2 as pb
from api_common.testing import NEVER, Caller, refused

from services.agents.tests.factories import a_tool, an_agent, create_agent

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub

S = grpc.StatusCode


def a_creation(*agents: pb.Agent) -> pb.BatchCreateAgentsRequest:
    return pb.BatchCreateAgentsRequest(requests=[pb.CreateAgentRequest(agent=one) for one in agents])


def a_change(*agents: pb.Agent) -> pb.BatchUpdateAgentsRequest:
    return pb.BatchUpdateAgentsRequest(requests=[pb.UpdateAgentRequest(agent=one) for one in agents])


def a_deletion(*ids: str) -> pb.BatchDeleteAgentsRequest:
    return pb.BatchDeleteAgentsRequest(requests=[pb.DeleteAgentRequest(id=id) for id in ids])


async def stored(agents: AgentServiceAsyncStub, caller: Caller) -> list[pb.Agent]:
    """Returns all live agents of the tenant, newest first."""
    return list((await agents.ListAgents(pb.ListAgentsRequest(), metadata=caller.metadata)).agents)


class TestBatchGetAgents:
    async def test_returns_them_in_the_order_of_the_ids(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        first, second = await create_agent(agents, admin), await create_agent(agents, admin)
        request = pb.BatchGetAgentsRequest(ids=[second.id, first.id])
        assert list((await agents.BatchGetAgents(request, metadata=admin.metadata)).agents) == [second, first]


class TestBatchCreateAgents:
    async def test_names_the_item_that_breaks_a_rule(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        twice = an_agent(tools=[a_tool("search"), a_tool("search")])
        with refused(S.INVALID_ARGUMENT, "INVALID_TOOLS") as refusal:
            await agents.BatchCreateAgents(a_creation(an_agent(), twice), metadata=admin.metadata)
        assert set(refusal.violations) == {"requests[1].agent.tools[1].name"}
        assert refusal.metadata["item"] == "requests[1]"
        large = an_agent()
        large.parameters["text"] = "x" * 70_000
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await agents.BatchCreateAgents(a_creation(large, an_agent()), metadata=admin.metadata)
        assert set(refusal.violations) == {"requests[0].agent.parameters"}
        assert await stored(agents, admin) == []


class TestBatchUpdateAgents:
    async def test_names_the_item_that_breaks_a_rule(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        first, second = await create_agent(agents, admin), await create_agent(agents, admin)
        broken = pb.Agent(id=second.id, tools=[a_tool(schema={"type": "array"})])
        with refused(S.INVALID_ARGUMENT, "INVALID_TOOLS") as refusal:
            await agents.BatchUpdateAgents(
                a_change(pb.Agent(id=first.id, display_name="New"), broken), metadata=admin.metadata
            )
        assert set(refusal.violations) == {"requests[1].agent.tools[0].input_schema"}
        assert await stored(agents, admin) == [second, first]


class TestBatchDeleteAgents:
    async def test_deletes_all_or_none(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        first, second = await create_agent(agents, admin), await create_agent(agents, admin)
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await agents.BatchDeleteAgents(a_deletion(first.id, NEVER), metadata=admin.metadata)
        assert await stored(agents, admin) == [second, first]
        await agents.BatchDeleteAgents(a_deletion(first.id, second.id), metadata=admin.metadata)
        assert await stored(agents, admin) == []
