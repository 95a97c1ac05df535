"""What an IPA names must exist: asked of the real services, and of broken ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from ameide.agent.v1 import agent_pb2
from ameide.ipa.v1 import ipa_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.errors import FieldViolation, NotFoundError, PayloadTooLargeError
from api_common.testing import NEVER, Caller, Identity, TestDatabase, refused
from google.protobuf.field_mask_pb2 import FieldMask

from services.ipas.tests.factories import (
    a_definition,
    create_agent,
    create_ipa,
    create_workflow,
    publish_workflow,
)
from services.ipas.tests.stand_ins import SECRET, ipas_beside, refuse_as, standing_in, workflow_with

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

    Transport = grpc.aio.ServicerContext[bytes, bytes]
    Answer = Callable[[bytes, Transport], Awaitable[bytes]]

S = grpc.StatusCode


class TestWorkflow:
    async def test_must_be_live(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await publish_workflow(workflows, admin)
        await workflows.DeleteWorkflow(workflow_pb2.DeleteWorkflowRequest(id=workflow.id), metadata=admin.metadata)
        for id in (workflow.id, NEVER):
            with refused(S.NOT_FOUND, "WORKFLOW_NOT_FOUND") as refusal:
                await create_ipa(ipas, admin, workflow_id=id, workflow_revision=1)
            assert set(refusal.violations) == {"ipa.workflow_id"}

    async def test_must_have_the_revision(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        published, draft = await publish_workflow(workflows, admin), await create_workflow(workflows, admin)
        for workflow, revision in ((published, 2), (draft, 1), (published, 2**31 - 1)):
            with refused(S.NOT_FOUND, "WORKFLOW_REVISION_NOT_FOUND") as refusal:
                await create_ipa(ipas, admin, workflow_id=workflow.id, workflow_revision=revision)
            assert set(refusal.violations) == {"ipa.workflow_revision"}

    async def test_comes_before_its_revision_and_bindings(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        for incomplete in ({"workflow_revision": 1}, {"agent_bindings": {"read": NEVER}}):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await create_ipa(ipas, admin, **incomplete)
            assert set(refusal.violations) == {"ipa.workflow_id"}

    async def test_cannot_be_cleared_under_its_revision(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await publish_workflow(workflows, admin)
        ipa = await create_ipa(ipas, admin, workflow_id=workflow.id, workflow_revision=1)
        request = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id), update_mask=FieldMask(paths=["workflow_id"]))
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST"):
            await ipas.UpdateIpa(request, metadata=admin.metadata)

    async def test_is_asked_for_when_the_choice_changes_only(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await publish_workflow(workflows, admin)
        ipa = await create_ipa(ipas, admin, workflow_id=workflow.id)
        await workflows.DeleteWorkflow(workflow_pb2.DeleteWorkflowRequest(id=workflow.id), metadata=admin.metadata)
        ipa.display_name = "New"
        updated = await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=ipa), metadata=admin.metadata)
        assert (updated.display_name, updated.workflow_id) == ("New", workflow.id)
        change = pb.Ipa(id=ipa.id, workflow_revision=1)
        with refused(S.NOT_FOUND, "WORKFLOW_NOT_FOUND"):
            await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=change), metadata=admin.metadata)


class TestBindings:
    async def test_name_agent_nodes(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow, agent = await publish_workflow(workflows, admin, "read"), await create_agent(agents, admin)
        bindings = dict.fromkeys(("read", "start", "nowhere"), agent.id)
        for revision in (0, 1):
            with refused(S.INVALID_ARGUMENT, "INVALID_BINDINGS") as refusal:
                await create_ipa(
                    ipas, admin, workflow_id=workflow.id, workflow_revision=revision, agent_bindings=bindings
                )
            assert set(refusal.violations) == {"ipa.agent_bindings[start]", "ipa.agent_bindings[nowhere]"}

    async def test_are_compared_with_the_revision_or_else_with_the_draft(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow, agent = await publish_workflow(workflows, admin, "old"), await create_agent(agents, admin)
        change = workflow_pb2.Workflow(id=workflow.id, definition=a_definition("new"))
        await workflows.UpdateWorkflow(workflow_pb2.UpdateWorkflowRequest(workflow=change), metadata=admin.metadata)
        for revision, good, bad in ((1, "old", "new"), (0, "new", "old")):
            chosen: dict[str, Any] = {"workflow_id": workflow.id, "workflow_revision": revision}
            await create_ipa(ipas, admin, **chosen, agent_bindings={good: agent.id})
            with refused(S.INVALID_ARGUMENT, "INVALID_BINDINGS"):
                await create_ipa(ipas, admin, **chosen, agent_bindings={bad: agent.id})

    async def test_fit_the_workflow_that_an_update_leaves(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        first, second = await create_workflow(workflows, admin, "a"), await create_workflow(workflows, admin, "b")
        agent = await create_agent(agents, admin)
        ipa = await create_ipa(ipas, admin, workflow_id=first.id, agent_bindings={"a": agent.id})
        for half in (pb.Ipa(id=ipa.id, workflow_id=second.id), pb.Ipa(id=ipa.id, agent_bindings={"b": agent.id})):
            with refused(S.INVALID_ARGUMENT, "INVALID_BINDINGS"):
                await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=half), metadata=admin.metadata)
        both = pb.Ipa(id=ipa.id, workflow_id=second.id, agent_bindings={"b": agent.id})
        updated = await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=both), metadata=admin.metadata)
        assert (updated.workflow_id, dict(updated.agent_bindings)) == (second.id, {"b": agent.id})


class TestAgents:
    async def test_must_be_live(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow = await create_workflow(workflows, admin, "a", "b", "c", "d")
        live, deleted = await create_agent(agents, admin), await create_agent(agents, admin)
        await agents.DeleteAgent(agent_pb2.DeleteAgentRequest(id=deleted.id), metadata=admin.metadata)
        bindings = {"a": live.id, "b": deleted.id, "c": NEVER, "d": deleted.id}
        with refused(S.NOT_FOUND, "AGENT_NOT_FOUND") as refusal:
            await create_ipa(ipas, admin, workflow_id=workflow.id, agent_bindings=bindings)
        assert set(refusal.violations) == {f"ipa.agent_bindings[{node}]" for node in "bcd"}

    async def test_are_asked_for_when_bindings_change_only(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow, agent = await publish_workflow(workflows, admin, "a"), await create_agent(agents, admin)
        ipa = await create_ipa(ipas, admin, workflow_id=workflow.id, agent_bindings={"a": agent.id})
        await agents.DeleteAgent(agent_pb2.DeleteAgentRequest(id=agent.id), metadata=admin.metadata)
        change = pb.Ipa(id=ipa.id, workflow_revision=1)
        updated = await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=change), metadata=admin.metadata)
        assert (updated.workflow_revision, dict(updated.agent_bindings)) == (1, {"a": agent.id})

    async def test_are_asked_for_once_each_and_a_hundred_at_a_time(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        nodes = [f"n{number}" for number in range(500)]
        ids = [f"01900000-0000-7000-8000-{number:012}" for number in range(250)]
        asked: list[list[str]] = []

        async def get_agents(payload: bytes, _: Transport) -> bytes:
            asked.append(list(agent_pb2.BatchGetAgentsRequest.FromString(payload).ids))
            found = [agent_pb2.Agent(id=id) for id in asked[-1]]
            return agent_pb2.BatchGetAgentsResponse(agents=found).SerializeToString()

        async with (
            standing_in("ameide.agent.v1.AgentService", BatchGetAgents=get_agents) as agents,
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=workflow_with(*nodes)) as workflows,
            ipas_beside(ipas_database, identity, workflows=workflows, agents=agents) as ipas,
        ):
            bindings = {node: ids[number % 250] for number, node in enumerate(nodes)}
            ipa = await create_ipa(ipas, admin, workflow_id=NEVER, agent_bindings=bindings)
        assert dict(ipa.agent_bindings) == bindings
        assert sorted(id for some in asked for id in some) == ids
        assert sorted(map(len, asked)) == [50, 100, 100]

    async def test_are_asked_for_again_when_some_are_missing_or_all_are_too_large(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        nodes = [f"n{number}" for number in range(8)]
        ids = [f"01900000-0000-7000-8000-{number:012}" for number in range(8)]
        asked: list[int] = []

        async def get_agents(payload: bytes, transport: Transport) -> bytes:
            wanted = list(agent_pb2.BatchGetAgentsRequest.FromString(payload).ids)
            asked.append(len(wanted))
            if len(wanted) > 4:
                await refuse_as(PayloadTooLargeError(SECRET), transport)
            if missing := [place for place, id in enumerate(wanted) if id in ids[:3]]:
                fields = [FieldViolation(f"ids[{place}]", SECRET, "NOT_FOUND") for place in missing]
                await refuse_as(NotFoundError(SECRET, violations=fields), transport)
            found = [agent_pb2.Agent(id=id) for id in wanted]
            return agent_pb2.BatchGetAgentsResponse(agents=found).SerializeToString()

        async with (
            standing_in("ameide.agent.v1.AgentService", BatchGetAgents=get_agents) as agents,
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=workflow_with(*nodes)) as workflows,
            ipas_beside(ipas_database, identity, workflows=workflows, agents=agents) as ipas,
        ):
            bindings = dict(zip(nodes, ids, strict=True))
            with refused(S.NOT_FOUND, "AGENT_NOT_FOUND") as refusal:
                await create_ipa(ipas, admin, workflow_id=NEVER, agent_bindings=bindings)
        assert set(refusal.violations) == {f"ipa.agent_bindings[n{number}]" for number in range(3)}
        assert SECRET.encode() not in refusal.payload
        assert sorted(asked) == [1, 4, 4, 8]

    async def test_are_no_longer_asked_for_once_one_call_failed(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        nodes = [f"n{number}" for number in range(500)]
        asked: list[bytes] = []

        async def get_agents(payload: bytes, transport: Transport) -> bytes:
            asked.append(payload)
            await transport.abort(S.RESOURCE_EXHAUSTED, SECRET)

        async with (
            standing_in("ameide.agent.v1.AgentService", BatchGetAgents=get_agents) as agents,
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=workflow_with(*nodes)) as workflows,
            ipas_beside(ipas_database, identity, workflows=workflows, agents=agents) as ipas,
        ):
            bindings = {node: f"01900000-0000-7000-8000-{number:012}" for number, node in enumerate(nodes)}
            with refused(S.RESOURCE_EXHAUSTED, "RATE_LIMITED") as refusal:
                await create_ipa(ipas, admin, workflow_id=NEVER, agent_bindings=bindings)
        assert len(asked) == 1
        assert SECRET.encode() not in refusal.payload
