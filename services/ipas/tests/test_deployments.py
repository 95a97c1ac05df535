"""IPAs are put to work and released: as a whole or not at all, whatever the other services say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.agent.v1 import agent_pb2
from ameide.ipa.v1 import ipa_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.testing import NEVER, Caller, Identity, TestDatabase, refused
from google.protobuf.field_mask_pb2 import FieldMask

from services.ipas.tests.factories import (
    activate_agent,
    create_agent,
    create_ipa,
    create_workflow,
    deploy,
    publish_workflow,
    put_into_state,
    settled,
)
from tests.paging import all_pages
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode
DONE, FAILED = pb.Deployment.Step.DONE, pb.Deployment.Step.FAILED


@dataclass(frozen=True, slots=True)
class Made:
    """An IPA and what it is made of."""

    ipa: pb.Ipa
    workflow: workflow_pb2.Workflow
    agent: agent_pb2.Agent


@pytest.fixture
async def made(
    ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, agents: AgentServiceAsyncStub, admin: Caller
) -> Made:
    """An IPA that may be deployed."""
    workflow = await publish_workflow(workflows, admin, "ask", "tell")
    agent = await activate_agent(agents, admin)
    bindings = {"ask": agent.id, "tell": agent.id}
    ipa = await create_ipa(
        ipas, admin, workflow_id=workflow.id, workflow_revision=1, agent_bindings=bindings, display_name="Ready"
    )
    return Made(ipa, workflow, agent)


async def state_of(ipas: IpaServiceAsyncStub, caller: Caller, id: str) -> str:
    ipa = await ipas.GetIpa(pb.GetIpaRequest(id=id), metadata=caller.metadata)
    return pb.Ipa.State.Name(ipa.state)


class TestDeployIpa:
    async def test_answers_at_once_and_then_the_ipa_is_deployed(
        self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller
    ) -> None:
        begun = await ipas.DeployIpa(pb.DeployIpaRequest(id=made.ipa.id), metadata=admin.metadata)
        assert begun.state == pb.Deployment.DEPLOYING
        assert [step.name for step in begun.steps] == ["reserve_workflow", "reserve_agents", "activate"]
        ended = await settled(ipas, admin, begun)
        assert ended.state == pb.Deployment.DEPLOYED
        assert [(step.state, step.attempts, step.HasField("error")) for step in ended.steps] == [(DONE, 1, False)] * 3
        assert all(step.end_time.ToNanoseconds() >= step.start_time.ToNanoseconds() > 0 for step in ended.steps)
        assert (ended.created_by, ended.workflow_revision) == (admin.subject, 1)
        assert ended.etag != begun.etag
        ipa = await ipas.GetIpa(pb.GetIpaRequest(id=made.ipa.id), metadata=admin.metadata)
        assert (ipa.state, ipa.deployment_id) == (pb.Ipa.DEPLOYED, ended.id)

    async def test_is_seen_by_who_watches_ipas(self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller) -> None:
        async with watching(ipas.WatchIpas, pb.WatchIpasRequest(initial_state=True), admin) as watch:
            await watch.until("bookmark")
            deployment = await deploy(ipas, admin, made.ipa.id)
            for state in (pb.Ipa.DEPLOYING, pb.Ipa.DEPLOYED):
                what, ipa = await watch.change()
                assert (what, ipa.state, ipa.deployment_id) == ("updated", state, deployment.id)

    async def test_pins_what_was_published_last_if_no_revision_was_chosen(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        made: Made,
        admin: Caller,
    ) -> None:
        await workflows.PublishWorkflow(
            workflow_pb2.PublishWorkflowRequest(id=made.workflow.id), metadata=admin.metadata
        )
        bindings = dict(made.ipa.agent_bindings)
        ipa = await create_ipa(ipas, admin, workflow_id=made.workflow.id, agent_bindings=bindings)
        assert (await deploy(ipas, admin, ipa.id)).workflow_revision == 2

    async def test_what_is_deployed_stays_until_it_is_retired(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        made: Made,
        admin: Caller,
    ) -> None:
        workflow, agent = made.workflow.id, made.agent.id
        deployment = await deploy(ipas, admin, made.ipa.id)
        attempts = (
            lambda: workflows.ArchiveWorkflow(
                workflow_pb2.ArchiveWorkflowRequest(id=workflow), metadata=admin.metadata
            ),
            lambda: workflows.DeleteWorkflow(workflow_pb2.DeleteWorkflowRequest(id=workflow), metadata=admin.metadata),
            lambda: workflows.BatchDeleteWorkflows(
                workflow_pb2.BatchDeleteWorkflowsRequest(requests=[workflow_pb2.DeleteWorkflowRequest(id=workflow)]),
                metadata=admin.metadata,
            ),
            lambda: agents.DisableAgent(agent_pb2.DisableAgentRequest(id=agent), metadata=admin.metadata),
            lambda: agents.DeleteAgent(agent_pb2.DeleteAgentRequest(id=agent.upper()), metadata=admin.metadata),
            lambda: agents.BatchDeleteAgents(
                agent_pb2.BatchDeleteAgentsRequest(requests=[agent_pb2.DeleteAgentRequest(id=agent)]),
                metadata=admin.metadata,
            ),
        )
        for attempt in attempts:
            with refused(S.FAILED_PRECONDITION, "STILL_REFERENCED") as refusal:
                await attempt()
            assert refusal.metadata["holder"] == f"ipas/{made.ipa.id}/deployments/{deployment.id}"
        retired = await ipas.RetireIpa(pb.RetireIpaRequest(id=made.ipa.id), metadata=admin.metadata)
        await settled(ipas, admin, retired)
        await attempts[0]()
        await attempts[3]()

    async def test_the_same_call_meanwhile_returns_the_same_deployment(
        self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller
    ) -> None:
        before = made.ipa.etag
        calls = [
            ipas.DeployIpa(pb.DeployIpaRequest(id=made.ipa.id, etag=etag), metadata=admin.metadata)
            for etag in ("", before) * 5
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        begun = {answer.id for answer in answers if isinstance(answer, pb.Deployment)}
        refusals = [answer for answer in answers if not isinstance(answer, pb.Deployment)]
        # Those that came when it was deployed already.
        assert all(
            isinstance(one, grpc.aio.AioRpcError) and one.code() in {S.FAILED_PRECONDITION, S.ABORTED}
            for one in refusals
        )
        (id,) = begun
        page = await ipas.ListDeployments(pb.ListDeploymentsRequest(ipa_id=made.ipa.id), metadata=admin.metadata)
        assert [one.id for one in page.deployments] == [id]

    async def test_meanwhile_another_version_of_the_ipa_is_refused(
        self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller, ipas_database: TestDatabase
    ) -> None:
        deployed = await deploy(ipas, admin, made.ipa.id)
        await put_into_state(ipas_database, made.ipa, "DEPLOYING")
        for etag in ("", '"2"', '"3"'):
            again = await ipas.DeployIpa(pb.DeployIpaRequest(id=made.ipa.id, etag=etag), metadata=admin.metadata)
            assert again.id == deployed.id
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await ipas.DeployIpa(pb.DeployIpaRequest(id=made.ipa.id, etag='"1"'), metadata=admin.metadata)

    async def test_refuses_an_ipa_without_a_workflow(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        with refused(S.FAILED_PRECONDITION, "INCOMPLETE_IPA"):
            await ipas.DeployIpa(pb.DeployIpaRequest(id=ipa.id), metadata=admin.metadata)
        assert await state_of(ipas, admin, ipa.id) == "DRAFT"

    @pytest.mark.parametrize("state", ["DEPLOYED", "RETIRED"])
    async def test_refuses_other_states(
        self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller, ipas_database: TestDatabase, state: str
    ) -> None:
        await put_into_state(ipas_database, made.ipa, state)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await ipas.DeployIpa(pb.DeployIpaRequest(id=made.ipa.id), metadata=admin.metadata)

    async def test_needs_the_permission(
        self, ipas: IpaServiceAsyncStub, made: Made, identity: Identity, tenant_id: str
    ) -> None:
        request = pb.DeployIpaRequest(id=made.ipa.id)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await ipas.DeployIpa(request, metadata=identity.caller(tenant_id, "editor").metadata)
        operator = identity.caller(tenant_id, "operator", subject="olga")
        deployment = await ipas.DeployIpa(request, metadata=operator.metadata)
        assert (await settled(ipas, operator, deployment)).created_by == "olga"


class TestAFailure:
    """Whatever a step finds wrong: everything is as it was, and may be put right and tried again."""

    async def test_of_the_workflow_holds_nothing(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        draft = await create_workflow(workflows, admin)
        ipa = await create_ipa(ipas, admin, workflow_id=draft.id)
        deployment = await deploy(ipas, admin, ipa.id)
        assert deployment.state == pb.Deployment.FAILED
        first, *rest = deployment.steps
        assert (first.state, first.error.reason) == (FAILED, "INVALID_STATE")
        assert first.error.message == "The workflow is not PUBLISHED."
        assert first.compensation.state == DONE
        assert [step.attempts for step in rest] == [0, 0]
        assert await state_of(ipas, admin, ipa.id) == "FAILED"

    async def test_of_an_agent_releases_the_workflow(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        made: Made,
        admin: Caller,
    ) -> None:
        idle = await create_agent(agents, admin)
        bindings = {"ask": made.agent.id, "tell": idle.id}
        ipa = await create_ipa(ipas, admin, workflow_id=made.workflow.id, workflow_revision=1, agent_bindings=bindings)
        deployment = await deploy(ipas, admin, ipa.id)
        assert deployment.state == pb.Deployment.FAILED
        reserved, failed, _ = deployment.steps
        assert failed.error.message == "The agent that is bound to `tell` is not ACTIVE."
        assert (reserved.state, reserved.compensation.state, failed.compensation.state) == (DONE, DONE, DONE)
        await agents.DisableAgent(agent_pb2.DisableAgentRequest(id=made.agent.id), metadata=admin.metadata)
        await workflows.DeleteWorkflow(workflow_pb2.DeleteWorkflowRequest(id=made.workflow.id), metadata=admin.metadata)

    async def test_of_a_binding_names_the_node(self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller) -> None:
        ipa = await create_ipa(
            ipas,
            admin,
            workflow_id=made.workflow.id,
            workflow_revision=1,
            agent_bindings={"ask": made.agent.id},
        )
        deployment = await deploy(ipas, admin, ipa.id)
        assert deployment.steps[0].error.reason == "INVALID_BINDINGS"
        assert "ipa.agent_bindings[tell] is missing: the AGENT node has no agent" in deployment.steps[0].error.message

    async def test_is_put_right_and_deployed_again(
        self, ipas: IpaServiceAsyncStub, agents: AgentServiceAsyncStub, made: Made, admin: Caller
    ) -> None:
        idle = await create_agent(agents, admin)
        ipa = await create_ipa(
            ipas,
            admin,
            workflow_id=made.workflow.id,
            agent_bindings={"ask": idle.id, "tell": idle.id},
        )
        first = await deploy(ipas, admin, ipa.id)
        assert first.state == pb.Deployment.FAILED
        change = pb.Ipa(id=ipa.id, agent_bindings=made.ipa.agent_bindings)
        await ipas.UpdateIpa(
            pb.UpdateIpaRequest(ipa=change, update_mask=FieldMask(paths=["agent_bindings"])), metadata=admin.metadata
        )
        second = await deploy(ipas, admin, ipa.id)
        assert second.state == pb.Deployment.DEPLOYED
        pages = await all_pages(
            lambda token: ipas.ListDeployments(
                pb.ListDeploymentsRequest(ipa_id=ipa.id, page_size=1, page_token=token), metadata=admin.metadata
            )
        )
        assert [one.id for page in pages for one in page.deployments] == [second.id, first.id]


class TestRetireIpa:
    async def test_releases_in_the_other_order_and_ends_the_ipa(
        self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller
    ) -> None:
        deployed = await deploy(ipas, admin, made.ipa.id)
        begun = await ipas.RetireIpa(pb.RetireIpaRequest(id=made.ipa.id), metadata=admin.metadata)
        assert (begun.id, begun.state) == (deployed.id, pb.Deployment.RETIRING)
        ended = await settled(ipas, admin, begun)
        assert ended.state == pb.Deployment.RETIRED
        assert [step.name for step in ended.retire_steps] == ["release_agents", "release_workflow", "retire"]
        assert {step.state for step in ended.retire_steps} == {DONE}
        assert ended.steps == deployed.steps
        assert await state_of(ipas, admin, made.ipa.id) == "RETIRED"
        await ipas.DeleteIpa(pb.DeleteIpaRequest(id=made.ipa.id), metadata=admin.metadata)

    async def test_retires_what_failed(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        draft = await create_workflow(workflows, admin)
        ipa = await create_ipa(ipas, admin, workflow_id=draft.id)
        await deploy(ipas, admin, ipa.id)
        begun = await ipas.RetireIpa(pb.RetireIpaRequest(id=ipa.id), metadata=admin.metadata)
        assert (await settled(ipas, admin, begun)).state == pb.Deployment.RETIRED

    async def test_the_same_call_meanwhile_is_one(self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller) -> None:
        await deploy(ipas, admin, made.ipa.id)
        request = pb.RetireIpaRequest(id=made.ipa.id)
        answers = await asyncio.gather(
            *(ipas.RetireIpa(request, metadata=admin.metadata) for _ in range(10)), return_exceptions=True
        )
        assert len({answer.id for answer in answers if isinstance(answer, pb.Deployment)}) == 1
        (ended,) = (
            await ipas.ListDeployments(pb.ListDeploymentsRequest(ipa_id=made.ipa.id), metadata=admin.metadata)
        ).deployments
        assert {step.attempts for step in (await settled(ipas, admin, ended)).retire_steps} == {1}

    async def test_refuses_a_draft(self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller) -> None:
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await ipas.RetireIpa(pb.RetireIpaRequest(id=made.ipa.id), metadata=admin.metadata)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await ipas.RetireIpa(pb.RetireIpaRequest(id=made.ipa.id, etag='"9"'), metadata=admin.metadata)


class TestGetDeployment:
    async def test_knows_it_under_its_own_ipa_only(self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller) -> None:
        deployment = await deploy(ipas, admin, made.ipa.id)
        other = await create_ipa(ipas, admin)
        for ipa_id, id in ((other.id, deployment.id), (made.ipa.id, NEVER)):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await ipas.GetDeployment(pb.GetDeploymentRequest(ipa_id=ipa_id, id=id), metadata=admin.metadata)
        request = pb.GetDeploymentRequest(ipa_id=made.ipa.id.upper(), id=deployment.id.upper())
        assert (await ipas.GetDeployment(request, metadata=admin.metadata)).id == deployment.id


class TestListDeployments:
    async def test_lists_those_of_the_ipa_only(self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller) -> None:
        other = await create_ipa(ipas, admin)
        deployment = await deploy(ipas, admin, made.ipa.id)
        for id, expected in ((made.ipa.id, [deployment.id]), (other.id, [])):
            page = await ipas.ListDeployments(pb.ListDeploymentsRequest(ipa_id=id), metadata=admin.metadata)
            assert [one.id for one in page.deployments] == expected


class TestResumeDeployment:
    async def test_leaves_alone_what_needs_no_attention(
        self, ipas: IpaServiceAsyncStub, made: Made, admin: Caller
    ) -> None:
        deployment = await deploy(ipas, admin, made.ipa.id)
        request = pb.ResumeDeploymentRequest(ipa_id=made.ipa.id, id=deployment.id)
        assert await ipas.ResumeDeployment(request, metadata=admin.metadata) == deployment
