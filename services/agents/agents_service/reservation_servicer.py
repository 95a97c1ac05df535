"""The RPCs of ReservationService."""

from dataclasses import dataclass

from ameide.agent.v1 import reservation_pb2 as pb
from api_common.call import RequestContext
from api_common.reservations import Reservations

from agents_service.domain import require_active
from agents_service.repository import AgentRepository


@dataclass(frozen=True, slots=True)
class ReservationServicer:
    """Reservations of agents, for deployments."""

    agents: AgentRepository
    reservations: Reservations

    async def ReserveAgents(self, request: pb.ReserveAgentsRequest, ctx: RequestContext) -> pb.ReserveAgentsResponse:
        rows = await self.agents.lock_live(ctx.transaction, request.ids, reading=("state",))
        require_active([row["state"] for row in rows])
        await self.reservations.reserve(ctx.transaction, request.holder, request.ids)
        return pb.ReserveAgentsResponse()

    async def ReleaseAgents(self, request: pb.ReleaseAgentsRequest, ctx: RequestContext) -> pb.ReleaseAgentsResponse:
        await self.reservations.release(ctx.transaction, request.holder)
        return pb.ReleaseAgentsResponse()
