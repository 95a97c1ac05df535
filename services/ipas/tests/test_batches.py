"""The promises of IpaService's batches; that they are as many single calls is tested for every aggregate alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from ameide.ipa.v1 import ipa_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.testing import NEVER, Caller, Statements, TestDatabase, refused

from services.ipas.tests.factories import (
    an_ipa,
    create_agent,
    create_ipa,
    create_workflow,
    publish_workflow,
    put_into_state,
)

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode


def a_creation(*ipas: pb.Ipa) -> pb.BatchCreateIpasRequest:
    return pb.BatchCreateIpasRequest(requests=[pb.CreateIpaRequest(ipa=one) for one in ipas])


def a_change(*ipas: pb.Ipa) -> pb.BatchUpdateIpasRequest:
    return pb.BatchUpdateIpasRequest(requests=[pb.UpdateIpaRequest(ipa=one) for one in ipas])


def a_deletion(*ids: str) -> pb.BatchDeleteIpasRequest:
    return pb.BatchDeleteIpasRequest(requests=[pb.DeleteIpaRequest(id=id) for id in ids])


async def stored(ipas: IpaServiceAsyncStub, caller: Caller) -> list[pb.Ipa]:
    """Returns all live IPAs of the tenant, newest first."""
    return list((await ipas.ListIpas(pb.ListIpasRequest(), metadata=caller.metadata)).ipas)


class TestBatchGetIpas:
    async def test_returns_them_in_the_order_of_the_ids(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        first, second = await create_ipa(ipas, admin), await create_ipa(ipas, admin)
        request = pb.BatchGetIpasRequest(ids=[second.id, first.id])
        assert list((await ipas.BatchGetIpas(request, metadata=admin.metadata)).ipas) == [second, first]


class TestBatchCreateIpas:
    async def test_names_the_item_and_what_is_wrong_with_it(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        published, agent = await publish_workflow(workflows, admin, "a", "b"), await create_agent(agents, admin)
        deleted = await create_workflow(workflows, admin)
        await workflows.DeleteWorkflow(workflow_pb2.DeleteWorkflowRequest(id=deleted.id), metadata=admin.metadata)
        good: dict[str, Any] = {"workflow_id": published.id, "agent_bindings": {"a": agent.id}}
        cases: tuple[tuple[dict[str, Any], grpc.StatusCode, str, str], ...] = (
            ({"workflow_id": deleted.id}, S.NOT_FOUND, "WORKFLOW_NOT_FOUND", "workflow_id"),
            ({"workflow_id": NEVER}, S.NOT_FOUND, "WORKFLOW_NOT_FOUND", "workflow_id"),
            ({**good, "workflow_revision": 2}, S.NOT_FOUND, "WORKFLOW_REVISION_NOT_FOUND", "workflow_revision"),
            ({"workflow_revision": 1}, S.INVALID_ARGUMENT, "INVALID_REQUEST", "workflow_id"),
            (
                {**good, "agent_bindings": {"start": agent.id}},
                S.INVALID_ARGUMENT,
                "INVALID_BINDINGS",
                "agent_bindings[start]",
            ),
            ({**good, "agent_bindings": {"b": NEVER}}, S.NOT_FOUND, "AGENT_NOT_FOUND", "agent_bindings[b]"),
        )
        for fields, code, reason, field in cases:
            with refused(code, reason) as refusal:
                await ipas.BatchCreateIpas(
                    a_creation(an_ipa(**good), an_ipa(), an_ipa(**fields)), metadata=admin.metadata
                )
            assert set(refusal.violations) == {f"requests[2].ipa.{field}"}
            assert refusal.metadata["item"] == "requests[2]"
        assert await stored(ipas, admin) == []

    async def test_asks_for_all_workflows_and_for_all_agents_at_once(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
        statements: Statements,
    ) -> None:
        chosen = [(await create_workflow(workflows, admin, "a"), await create_agent(agents, admin)) for _ in range(10)]
        items = [an_ipa(workflow_id=workflow.id, agent_bindings={"a": agent.id}) for workflow, agent in chosen]
        statements.clear()
        created = (await ipas.BatchCreateIpas(a_creation(*items), metadata=admin.metadata)).ipas
        assert [ipa.workflow_id for ipa in created] == [workflow.id for workflow, _ in chosen]
        # In this process run the siblings, too: one statement of each of the three.
        assert len(statements) == 3


class TestBatchUpdateIpas:
    async def test_names_the_item_whose_state_or_choice_forbids_it(
        self,
        ipas: IpaServiceAsyncStub,
        ipas_database: TestDatabase,
        workflows: WorkflowServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        draft, deployed = await create_ipa(ipas, admin), await create_ipa(ipas, admin)
        await put_into_state(ipas_database, deployed, "DEPLOYED")
        before = await stored(ipas, admin)
        good = pb.Ipa(id=draft.id, workflow_id=workflow.id)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
            await ipas.BatchUpdateIpas(
                a_change(good, pb.Ipa(id=deployed.id, workflow_id=workflow.id)), metadata=admin.metadata
            )
        assert set(refusal.violations) == {"requests[1]"}
        with refused(S.NOT_FOUND, "WORKFLOW_NOT_FOUND") as refusal:
            await ipas.BatchUpdateIpas(
                a_change(pb.Ipa(id=deployed.id, display_name="New"), pb.Ipa(id=draft.id, workflow_id=NEVER)),
                metadata=admin.metadata,
            )
        assert set(refusal.violations) == {"requests[1].ipa.workflow_id"}
        assert await stored(ipas, admin) == before
        renamed = a_change(good, pb.Ipa(id=deployed.id, display_name="New"))
        answer = await ipas.BatchUpdateIpas(renamed, metadata=admin.metadata)
        assert [ipa.workflow_id for ipa in answer.ipas] == [workflow.id, ""]


class TestBatchDeleteIpas:
    async def test_names_the_item_that_is_at_work(
        self, ipas: IpaServiceAsyncStub, ipas_database: TestDatabase, admin: Caller
    ) -> None:
        draft, deployed = await create_ipa(ipas, admin), await create_ipa(ipas, admin)
        await put_into_state(ipas_database, deployed, "DEPLOYED")
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
            await ipas.BatchDeleteIpas(a_deletion(draft.id, deployed.id), metadata=admin.metadata)
        assert (set(refusal.violations), refusal.metadata["item"]) == ({"requests[1]"}, "requests[1]")
        assert {ipa.id for ipa in await stored(ipas, admin)} == {draft.id, deployed.id}
