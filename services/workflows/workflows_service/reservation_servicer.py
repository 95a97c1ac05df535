"""The RPCs of ReservationService."""

from dataclasses import dataclass

from ameide.workflow.v1 import reservation_pb2 as pb
from api_common.call import RequestContext
from api_common.reservations import Reservations

from workflows_service.domain import LIFECYCLE, ids_of
from workflows_service.repository import RevisionRepository, WorkflowRepository


@dataclass(frozen=True, slots=True)
class ReservationServicer:
    """Reservations of workflows, for deployments."""

    workflows: WorkflowRepository
    revisions: RevisionRepository
    reservations: Reservations

    async def ReserveWorkflow(
        self, request: pb.ReserveWorkflowRequest, ctx: RequestContext
    ) -> pb.ReserveWorkflowResponse:
        row = await self.workflows.lock(ctx.transaction, request.workflow_id)
        LIFECYCLE.apply("reserve", row["state"])
        revision = request.revision or row["revision"]
        pinned = await self.revisions.get(ctx.transaction, request.workflow_id, revision)
        await self.reservations.reserve(ctx.transaction, request.holder, [row["id"]])
        return pb.ReserveWorkflowResponse(revision=revision, agent_nodes=ids_of(pinned["definition"], "AGENT"))

    async def ReleaseWorkflow(
        self, request: pb.ReleaseWorkflowRequest, ctx: RequestContext
    ) -> pb.ReleaseWorkflowResponse:
        await self.reservations.release(ctx.transaction, request.holder)
        return pb.ReleaseWorkflowResponse()
