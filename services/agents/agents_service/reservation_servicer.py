"""The RPCs of ReservationService."""

from ameide.agent.v1 import reservation_pb2 as pb
from api_common.call import RequestContext
from api_common.reservations import Reservations

from agents_service.domain import require_active
from agents_service.repository import AgentRepository


class ReservationServicer:
    """Reservations of agents, for deployments."""

    def __init__(self, agents: AgentRepository, reservations: Reservations) -> None:
        self._agents = agents
        self._reservations = reservations

    async def ReserveAgents(self, request: pb.ReserveAgentsRequest, ctx: RequestContext) -> pb.ReserveAgentsResponse:
        rows = await self._agents.lock_live(ctx.transaction, request.ids, reading=("state",))
        require_active([row["state"] for row in rows])
        await self._reservations.reserve(ctx.transaction, request.holder, request.ids)
        return pb.ReserveAgentsResponse()

    async def ReleaseAgents(self, request: pb.ReleaseAgentsRequest, ctx: RequestContext) -> pb.ReleaseAgentsResponse:
        await self._reservations.release(ctx.transaction, request.holder)
        return pb.ReleaseAgentsResponse()
