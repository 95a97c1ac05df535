"""The RPCs of ReservationService."""

from ameide.workflow.v1 import reservation_pb2 as pb
from api_common.call import RequestContext
from api_common.reservations import Reservations

from workflows_service.domain import LIFECYCLE, ids_of
from workflows_service.repository import RevisionRepository, WorkflowRepository


class ReservationServicer:
    """Reservations of workflows, for deployments."""

    def __init__(
        self, workflows: WorkflowRepository, revisions: RevisionRepository, reservations: Reservations
    ) -> None:
        self._workflows = workflows
        self._revisions = revisions
        self._reservations = reservations

    async def ReserveWorkflow(
        self, request: pb.ReserveWorkflowRequest, ctx: RequestContext
    ) -> pb.ReserveWorkflowResponse:
        row = await self._workflows.lock(ctx.transaction, request.workflow_id)
        LIFECYCLE.apply("reserve", row["state"])
        revision = request.revision or row["revision"]
        pinned = await self._revisions.get(ctx.transaction, request.workflow_id, revision)
        await self._reservations.reserve(ctx.transaction, request.holder, [row["id"]])
        return pb.ReserveWorkflowResponse(revision=revision, agent_nodes=ids_of(pinned["definition"], "AGENT"))

    async def ReleaseWorkflow(
        self, request: pb.ReleaseWorkflowRequest, ctx: RequestContext
    ) -> pb.ReleaseWorkflowResponse:
        await self._reservations.release(ctx.transaction, request.holder)
        return pb.ReleaseWorkflowResponse()
