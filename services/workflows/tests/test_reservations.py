"""A workflow that somebody needs stays as it is: what both services share is tested with agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest
import uuid_utils
from ameide.common.v1.reservation_pb2 import Holder
from ameide.workflow.v1 import reservation_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.testing import NEVER, Caller, refused

from services.workflows.tests.factories import a_definition, a_node, create_workflow
from tests.calling_process import CallingProcess

if TYPE_CHECKING:
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode
SERVICE = "/ameide.workflow.v1.ReservationService"
Process = Callable[[str], CallingProcess]


def a_holder() -> Holder:
    return Holder(id=str(uuid_utils.uuid7()), name="ipas/1/deployments/2", fencing_token=1)


async def reserve(
    process: Process, tenant: str, id: str, *, revision: int = 0, holder: Holder | None = None
) -> pb.ReserveWorkflowResponse:
    request = pb.ReserveWorkflowRequest(holder=holder or a_holder(), workflow_id=id, revision=revision)
    path = f"{SERVICE}/ReserveWorkflow"
    return await process("ipas").call(path, request, pb.ReserveWorkflowResponse, tenant_id=tenant)


async def release(process: Process, tenant: str, holder: Holder) -> None:
    request = pb.ReleaseWorkflowRequest(holder=holder)
    path = f"{SERVICE}/ReleaseWorkflow"
    await process("ipas").call(path, request, pb.ReleaseWorkflowResponse, tenant_id=tenant)


@pytest.fixture
async def published(workflows: WorkflowServiceAsyncStub, admin: Caller) -> str:
    """The id of a workflow with one revision, whose AGENT node is `ask`."""
    definition = a_definition(a_node("ask", workflow_pb2.Node.AGENT))
    workflow = await create_workflow(workflows, admin, definition=definition)
    await publish(workflows, admin, workflow.id)
    return workflow.id


async def publish(workflows: WorkflowServiceAsyncStub, caller: Caller, id: str) -> None:
    await workflows.PublishWorkflow(workflow_pb2.PublishWorkflowRequest(id=id), metadata=caller.metadata)


class TestReserveWorkflow:
    async def test_hides_other_tenants(self, process: Process, published: str, stranger: Caller) -> None:
        for unknown in (published, NEVER):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await reserve(process, stranger.tenant_id, unknown)

    async def test_pins_the_revision_and_names_its_agent_nodes(
        self, process: Process, workflows: WorkflowServiceAsyncStub, published: str, admin: Caller
    ) -> None:
        await publish(workflows, admin, published)
        for asked, pinned in ((0, 2), (1, 1), (2, 2)):
            answer = await reserve(process, admin.tenant_id, published, revision=asked)
            assert (answer.revision, list(answer.agent_nodes)) == (pinned, ["ask"])
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await reserve(process, admin.tenant_id, published, revision=3)

    async def test_refuses_what_is_not_published(
        self, process: Process, workflows: WorkflowServiceAsyncStub, published: str, admin: Caller
    ) -> None:
        draft = await create_workflow(workflows, admin)
        await workflows.ArchiveWorkflow(workflow_pb2.ArchiveWorkflowRequest(id=published), metadata=admin.metadata)
        for id in (draft.id, published):
            with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
                await reserve(process, admin.tenant_id, id)

    async def test_still_lets_it_be_edited_and_published(
        self, process: Process, workflows: WorkflowServiceAsyncStub, published: str, admin: Caller
    ) -> None:
        await reserve(process, admin.tenant_id, published)
        await publish(workflows, admin, published)


class TestReleaseWorkflow:
    async def test_hides_other_tenants(
        self, process: Process, workflows: WorkflowServiceAsyncStub, published: str, admin: Caller, stranger: Caller
    ) -> None:
        holder = a_holder()
        await reserve(process, admin.tenant_id, published, holder=holder)
        await release(process, stranger.tenant_id, holder)
        archive = workflow_pb2.ArchiveWorkflowRequest(id=published)
        with refused(S.FAILED_PRECONDITION, "STILL_REFERENCED"):
            await workflows.ArchiveWorkflow(archive, metadata=admin.metadata)
        await release(process, admin.tenant_id, holder)
        await workflows.ArchiveWorkflow(archive, metadata=admin.metadata)
