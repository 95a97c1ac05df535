"""The promises of WorkflowService's batches; that they are as many single calls is tested for every aggregate alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.testing import NEVER, Caller, refused
from google.protobuf.struct_pb2 import Struct

from services.workflows.tests.factories import a_definition, a_node, a_workflow, create_workflow, publish

if TYPE_CHECKING:
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode
MIB = 1024 * 1024
AMBIGUOUS = pb.Definition(nodes=[a_node("a"), a_node("b"), a_node("a")])


def a_creation(*workflows: pb.Workflow) -> pb.BatchCreateWorkflowsRequest:
    return pb.BatchCreateWorkflowsRequest(requests=[pb.CreateWorkflowRequest(workflow=one) for one in workflows])


def a_change(*workflows: pb.Workflow) -> pb.BatchUpdateWorkflowsRequest:
    return pb.BatchUpdateWorkflowsRequest(requests=[pb.UpdateWorkflowRequest(workflow=one) for one in workflows])


def a_deletion(*ids: str) -> pb.BatchDeleteWorkflowsRequest:
    return pb.BatchDeleteWorkflowsRequest(requests=[pb.DeleteWorkflowRequest(id=id) for id in ids])


def a_large_workflow(size: int) -> pb.Workflow:
    """Returns a workflow whose definition is about ``size`` bytes as JSON, in steps that hold 60,000 at most."""
    text = "x" * 60_000
    return a_workflow(definition=a_definition(*(a_node(f"n{n}", config={"text": text}) for n in range(size // 60_000))))


async def stored(workflows: WorkflowServiceAsyncStub, caller: Caller) -> list[pb.Workflow]:
    """Returns all live workflows of the tenant, newest first."""
    return list((await workflows.ListWorkflows(pb.ListWorkflowsRequest(), metadata=caller.metadata)).workflows)


class TestBatchGetWorkflows:
    async def test_refuses_an_answer_that_is_too_large(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        definition = a_large_workflow(MIB).definition
        large = [await create_workflow(workflows, admin, definition=definition) for _ in range(11)]
        ids = [workflow.id for workflow in large]
        answer = await workflows.BatchGetWorkflows(pb.BatchGetWorkflowsRequest(ids=ids[1:]), metadata=admin.metadata)
        assert list(answer.workflows) == large[1:]
        before = [(workflow.id, workflow.etag) for workflow in large]
        renamed = a_change(*(pb.Workflow(id=id, display_name="New") for id in ids))
        for call in (
            workflows.BatchGetWorkflows(pb.BatchGetWorkflowsRequest(ids=ids), metadata=admin.metadata),
            workflows.BatchUpdateWorkflows(renamed, metadata=admin.metadata),
            workflows.BatchDeleteWorkflows(a_deletion(*ids), metadata=admin.metadata),
        ):
            with refused(S.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE") as refusal:
                await call
            assert refusal.metadata == {"max_bytes": str(10 * MIB)}
        # Nothing was written either.
        answer = await workflows.BatchGetWorkflows(pb.BatchGetWorkflowsRequest(ids=ids[1:]), metadata=admin.metadata)
        assert [(workflow.id, workflow.etag) for workflow in answer.workflows] == before[1:]


class TestBatchCreateWorkflows:
    async def test_names_the_item_that_breaks_a_rule(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_GRAPH") as refusal:
            await workflows.BatchCreateWorkflows(
                a_creation(a_workflow(), a_workflow(definition=AMBIGUOUS)), metadata=admin.metadata
            )
        assert set(refusal.violations) == {"requests[1].workflow.definition.nodes[2]"}
        assert refusal.metadata["item"] == "requests[1]"
        endless = Struct()
        endless["number"] = float("nan")
        node = pb.Node(id="a", type=pb.Node.TASK, config=endless)
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await workflows.BatchCreateWorkflows(
                a_creation(a_workflow(), a_workflow(definition=pb.Definition(nodes=[node]))), metadata=admin.metadata
            )
        assert set(refusal.violations) == {"requests[1].workflow.definition.nodes[0].config"}
        assert await stored(workflows, admin) == []

    async def test_takes_what_a_message_holds(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        """The answer is larger than the request, which is as large as a request may be."""
        request = a_creation(*(a_large_workflow(MIB - 40_000) for _ in range(10)))
        last = request.requests.add().workflow
        last.CopyFrom(a_workflow(description="x" * 1000))
        # First about as many bytes as are missing, then exactly, in a text whose length takes two bytes anyway.
        last.definition.nodes[0].config["text"] = ""
        room = 10 * MIB - request.ByteSize()
        steps = [a_node(f"n{n}", config={"text": "x" * 60_000}) for n in range(room // 61_000)]
        last.definition.nodes.extend(steps)
        last.description += "x" * 100
        last.definition.nodes[0].config["text"] = "x" * (10 * MIB - request.ByteSize() - 3000)
        last.description += "x" * (10 * MIB - request.ByteSize())
        assert request.ByteSize() == 10 * MIB
        answer = await workflows.BatchCreateWorkflows(request, metadata=admin.metadata)
        assert len(answer.workflows) == 11
        last.description += "x"
        with refused(S.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE"):
            await workflows.BatchCreateWorkflows(request, metadata=admin.metadata)


class TestBatchUpdateWorkflows:
    async def test_names_the_item_whose_state_or_graph_forbids_it(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        draft, archived = await create_workflow(workflows, admin), await create_workflow(workflows, admin)
        await publish(workflows, admin, archived)
        await workflows.ArchiveWorkflow(pb.ArchiveWorkflowRequest(id=archived.id), metadata=admin.metadata)
        before = await stored(workflows, admin)
        renamed, broken = (
            pb.Workflow(id=draft.id, display_name="New"),
            pb.Workflow(id=archived.id, definition=AMBIGUOUS),
        )
        for changes, code, reason, field in (
            (
                (renamed, pb.Workflow(id=archived.id, display_name="New")),
                S.FAILED_PRECONDITION,
                "INVALID_STATE",
                "requests[1]",
            ),
            (
                (renamed, broken),
                S.INVALID_ARGUMENT,
                "INVALID_GRAPH",
                "requests[1].workflow.definition.nodes[2]",
            ),
        ):
            with refused(code, reason) as refusal:
                await workflows.BatchUpdateWorkflows(a_change(*changes), metadata=admin.metadata)
            assert set(refusal.violations) == {field}
            assert refusal.metadata["item"] == "requests[1]"
        assert await stored(workflows, admin) == before


class TestBatchDeleteWorkflows:
    async def test_deletes_all_or_none(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        first, second = await create_workflow(workflows, admin), await create_workflow(workflows, admin)
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await workflows.BatchDeleteWorkflows(a_deletion(first.id, NEVER), metadata=admin.metadata)
        assert await stored(workflows, admin) == [second, first]
        await workflows.BatchDeleteWorkflows(a_deletion(first.id, second.id), metadata=admin.metadata)
        assert await stored(workflows, admin) == []
