"""The promises of AgentService, one class per RPC."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.agent.v1 import agent_pb2 as pb
from api_common.contract import struct_from_json
from api_common.listing import MAX_PAGE_BYTES
from api_common.testing import Caller, Identity, refused
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct, Value

from services.agents.tests.factories import a_tool, create_agent
from tests.paging import all_pages

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub

S = grpc.StatusCode


class TestCreateAgent:
    async def test_needs_the_permission(
        self, agents: AgentServiceAsyncStub, identity: Identity, tenant_id: str
    ) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED") as refusal:
            await create_agent(agents, identity.caller(tenant_id, "viewer", "operator"))
        assert refusal.metadata == {"permission": "agents.write"}
        await create_agent(agents, identity.caller(tenant_id, "editor"))

    async def test_returns_what_was_stored(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        schema = {"type": "object", "properties": {"query": {"type": "string", "minLength": 1}}, "required": ["query"]}
        tools = [a_tool("search", schema=schema), a_tool("Stop_2")]
        tools[0].description = "Looks it up"
        parameters = struct_from_json({"temperature": 0.7, "seed": 2**53, "stop": ["a", None], "deep": {"on": True}})
        created = await create_agent(
            agents,
            admin,
            display_name="Sorter",
            description="Sorts mail",
            labels={"team": "post"},
            model="mistralai/Mistral-7B-v0.3",
            instructions="Be short.\nΣ ✓",
            tools=tools,
            parameters=parameters,
        )
        assert (created.display_name, created.description, created.model, created.instructions) == (
            "Sorter",
            "Sorts mail",
            "mistralai/Mistral-7B-v0.3",
            "Be short.\nΣ ✓",
        )
        assert (list(created.tools), created.parameters, dict(created.labels)) == (tools, parameters, {"team": "post"})
        assert created.state == pb.Agent.DRAFT
        assert (created.tenant_id, created.created_by) == (admin.tenant_id, admin.subject)
        assert await agents.GetAgent(pb.GetAgentRequest(id=created.id), metadata=admin.metadata) == created

    @pytest.mark.parametrize("parameters", [None, Struct()], ids=["absent", "empty"])
    async def test_tells_no_parameters_from_empty_ones(
        self, agents: AgentServiceAsyncStub, admin: Caller, parameters: Struct | None
    ) -> None:
        created = await create_agent(agents, admin, parameters=parameters)
        assert created.HasField("parameters") == (parameters is not None)

    async def test_refuses_tools_that_cannot_be_called(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        tools = [
            a_tool("a"),
            a_tool("a"),
            a_tool("b", schema={"type": "object", "properties": 1}),
            a_tool("c", schema={}),
        ]
        with refused(S.INVALID_ARGUMENT, "INVALID_TOOLS") as refusal:
            await create_agent(agents, admin, tools=tools)
        assert set(refusal.violations) == {
            "agent.tools[1].name",
            "agent.tools[2].input_schema",
            "agent.tools[3].input_schema",
        }

    async def test_names_every_malformed_field(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_agent(
                agents,
                admin,
                display_name="",
                model="no spaces",
                instructions="é" * 51_201,
                tools=[pb.Tool(name="1st"), a_tool("fine")],
            )
        assert set(refusal.violations) == {
            "agent.display_name",
            "agent.model",
            "agent.instructions",
            "agent.tools[0].name",
            "agent.tools[0].input_schema",
        }

    async def test_keeps_the_longest_instructions(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        longest = "é" * 51_200
        assert (await create_agent(agents, admin, instructions=longest)).instructions == longest

    @pytest.mark.parametrize(
        "value",
        [Value(number_value=inf), Value(), Value(string_value="a\0b"), Value(string_value="x" * 65_536)],
        ids=["Infinity", "no kind", "NUL", "too large"],
    )
    async def test_refuses_parameters_that_cannot_be_kept(
        self, agents: AgentServiceAsyncStub, admin: Caller, value: Value
    ) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_agent(agents, admin, parameters=Struct(fields={"value": value}))
        (field,) = refusal.violations
        assert field.startswith("agent.parameters")

    async def test_names_the_tool_whose_schema_cannot_be_kept(
        self, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        schema = Struct(fields={"type": Value(string_value="object"), "maximum": Value(number_value=inf)})
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_agent(agents, admin, tools=[a_tool(), pb.Tool(name="bad", input_schema=schema)])
        assert set(refusal.violations) == {"agent.tools[1].input_schema"}

    async def test_ignores_output_only_fields(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        created = await create_agent(agents, admin, state=pb.Agent.ACTIVE, created_by="eve", etag='"7"')
        assert (created.state, created.created_by) == (pb.Agent.DRAFT, admin.subject)


class TestGetAgent:
    async def test_returns_a_deleted_agent_with_its_delete_time(
        self, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        agent = await create_agent(agents, admin)
        await agents.DeleteAgent(pb.DeleteAgentRequest(id=agent.id), metadata=admin.metadata)
        found = await agents.GetAgent(pb.GetAgentRequest(id=agent.id), metadata=admin.metadata)
        assert found.HasField("delete_time")


class TestListAgents:
    async def test_filters_and_orders(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        zoe = await create_agent(agents, admin, display_name="Zoe", labels={"team": "a"}, model="a-model")
        await create_agent(agents, admin, display_name="Amy", labels={"team": "a"}, model="z-model")
        await agents.ActivateAgent(pb.ActivateAgentRequest(id=zoe.id), metadata=admin.metadata)
        for text, order, names in (
            ('labels.team = "a"', "display_name", ["Amy", "Zoe"]),
            ("", "model", ["Zoe", "Amy"]),
            ("state = ACTIVE", "", ["Zoe"]),
            ('model = "z-*"', "", ["Amy"]),
            ("NOT model:z", "", ["Zoe"]),
        ):
            request = pb.ListAgentsRequest(filter=text, order_by=order)
            page = await agents.ListAgents(request, metadata=admin.metadata)
            assert [agent.display_name for agent in page.agents] == names, text

    async def test_shows_an_agent_that_is_larger_than_a_page(
        self, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        tools = [a_tool(f"tool_{index}") for index in range(128)]
        for tool in tools:
            tool.description = "\N{ROCKET}" * 5_000
        created = [(await create_agent(agents, admin, tools=tools)).id for _ in range(2)]
        pages = await all_pages(
            lambda token: agents.ListAgents(pb.ListAgentsRequest(page_token=token), metadata=admin.metadata)
        )
        assert [[agent.id for agent in page.agents] for page in pages] == [[id] for id in created[::-1]]
        assert all(page.ByteSize() > MAX_PAGE_BYTES for page in pages)


class TestUpdateAgent:
    async def test_writes_the_populated_fields_without_a_mask(
        self, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        agent = await create_agent(agents, admin, instructions="Old", tools=[a_tool()])
        change = pb.Agent(id=agent.id, instructions="New", state=pb.Agent.DISABLED)
        updated = await agents.UpdateAgent(pb.UpdateAgentRequest(agent=change), metadata=admin.metadata)
        agent.instructions, agent.etag = "New", updated.etag
        agent.update_time.CopyFrom(updated.update_time)
        assert updated == agent

    async def test_clears_what_is_named_and_absent(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        agent = await create_agent(agents, admin, tools=[a_tool()], parameters=Struct(), instructions="Stay")
        mask = FieldMask(paths=["tools", "parameters"])
        request = pb.UpdateAgentRequest(agent=pb.Agent(id=agent.id), update_mask=mask)
        updated = await agents.UpdateAgent(request, metadata=admin.metadata)
        assert (list(updated.tools), updated.HasField("parameters"), updated.instructions) == ([], False, "Stay")

    async def test_refuses_to_clear_the_model(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        agent = await create_agent(agents, admin)
        request = pb.UpdateAgentRequest(agent=pb.Agent(id=agent.id), update_mask=FieldMask(paths=["model"]))
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await agents.UpdateAgent(request, metadata=admin.metadata)
        assert set(refusal.violations) == {"agent.model"}

    async def test_checks_what_it_writes(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        agent = await create_agent(agents, admin)
        too_large = struct_from_json({"text": "x" * 65_536})
        for change, reason, field in (
            (pb.Agent(id=agent.id, tools=[a_tool(), a_tool()]), "INVALID_TOOLS", "agent.tools[1].name"),
            (pb.Agent(id=agent.id, parameters=too_large), "INVALID_REQUEST", "agent.parameters"),
        ):
            with refused(S.INVALID_ARGUMENT, reason) as refusal:
                await agents.UpdateAgent(pb.UpdateAgentRequest(agent=change), metadata=admin.metadata)
            assert set(refusal.violations) == {field}
        assert await agents.GetAgent(pb.GetAgentRequest(id=agent.id), metadata=admin.metadata) == agent

    async def test_refuses_an_old_etag(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        agent = await create_agent(agents, admin)
        change = pb.UpdateAgentRequest(agent=pb.Agent(id=agent.id, display_name="New", etag=agent.etag))
        await agents.UpdateAgent(change, metadata=admin.metadata)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await agents.UpdateAgent(change, metadata=admin.metadata)


class TestDeleteAgent:
    async def test_hides_the_agent_from_everything_but_get(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        agent = await create_agent(agents, admin)
        deleted = await agents.DeleteAgent(pb.DeleteAgentRequest(id=agent.id), metadata=admin.metadata)
        assert deleted.HasField("delete_time")
        assert not (await agents.ListAgents(pb.ListAgentsRequest(), metadata=admin.metadata)).agents
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await agents.ActivateAgent(pb.ActivateAgentRequest(id=agent.id), metadata=admin.metadata)
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await agents.DeleteAgent(pb.DeleteAgentRequest(id=agent.id), metadata=admin.metadata)


class TestUndeleteAgent:
    async def test_restores_a_deleted_agent_only(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        agent = await create_agent(agents, admin, tools=[a_tool()])
        await agents.ActivateAgent(pb.ActivateAgentRequest(id=agent.id), metadata=admin.metadata)
        await agents.DeleteAgent(pb.DeleteAgentRequest(id=agent.id), metadata=admin.metadata)
        undelete = pb.UndeleteAgentRequest(id=agent.id)
        restored = await agents.UndeleteAgent(undelete, metadata=admin.metadata)
        assert (restored.state, list(restored.tools)) == (pb.Agent.ACTIVE, list(agent.tools))
        assert not restored.HasField("delete_time")
        with refused(S.ALREADY_EXISTS, "NOT_DELETED"):
            await agents.UndeleteAgent(undelete, metadata=admin.metadata)


class TestActivateAgent:
    async def test_activates_a_draft_once(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        agent = await create_agent(agents, admin)
        activate = pb.ActivateAgentRequest(id=agent.id, etag=agent.etag)
        active = await agents.ActivateAgent(activate, metadata=admin.metadata)
        assert (active.state, active.etag != agent.etag) == (pb.Agent.ACTIVE, True)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await agents.ActivateAgent(activate, metadata=admin.metadata)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
            await agents.ActivateAgent(pb.ActivateAgentRequest(id=agent.id), metadata=admin.metadata)
        assert refusal.metadata["state"] == "ACTIVE"


class TestDisableAgent:
    async def test_disables_an_active_agent_until_it_is_activated_again(
        self, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        agent = await create_agent(agents, admin)
        disable, activate = pb.DisableAgentRequest(id=agent.id), pb.ActivateAgentRequest(id=agent.id)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await agents.DisableAgent(disable, metadata=admin.metadata)
        await agents.ActivateAgent(activate, metadata=admin.metadata)
        disabled = await agents.DisableAgent(disable, metadata=admin.metadata)
        assert disabled.state == pb.Agent.DISABLED
        assert (await agents.ActivateAgent(activate, metadata=admin.metadata)).state == pb.Agent.ACTIVE


class TestGetAgentQuotas:
    async def test_counts_what_the_tenant_has(self, agents: AgentServiceAsyncStub, admin: Caller) -> None:
        await create_agent(agents, admin)
        answer = await agents.GetAgentQuotas(pb.GetAgentQuotasRequest(), metadata=admin.metadata)
        assert [(quota.collection, quota.used) for quota in answer.quotas] == [("agents", 1)]
