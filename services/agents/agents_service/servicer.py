"""The RPCs of AgentService, in the order of the proto."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ameide.agent.v1 import agent_pb2 as pb
from api_common.call import RequestContext, StreamContext
from api_common.contract import check_size, paths_to_write
from api_common.reservations import Reservations
from api_common.resources import Change, Quotas, list_response, map_items, with_rows
from api_common.watch import Watch

from agents_service.domain import State, validate_tools
from agents_service.mapping import MUTABLE, agent_from_proto, agent_to_proto
from agents_service.repository import AgentRepository


@dataclass(frozen=True, slots=True)
class AgentServicer:
    """Configured AI workers."""

    agents: AgentRepository
    reservations: Reservations
    watch: Watch[pb.WatchAgentsResponse]
    quotas: Quotas

    async def CreateAgent(self, request: pb.CreateAgentRequest, ctx: RequestContext) -> pb.Agent:
        row = await self.agents.insert(ctx.transaction, _created(request), created_by=ctx.principal.subject)
        return agent_to_proto(row)

    async def GetAgent(self, request: pb.GetAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self.agents.get(ctx.transaction, request.id))

    async def ListAgents(self, request: pb.ListAgentsRequest, ctx: RequestContext) -> pb.ListAgentsResponse:
        page = await self.agents.page(ctx.transaction, request, method="ListAgents")
        return await list_response(pb.ListAgentsResponse, "agents", page, agent_to_proto)

    async def UpdateAgent(self, request: pb.UpdateAgentRequest, ctx: RequestContext) -> pb.Agent:
        change = _changed(request)
        return agent_to_proto(await self.agents.update(ctx.transaction, change.id, change.values, etag=change.etag))

    async def DeleteAgent(self, request: pb.DeleteAgentRequest, ctx: RequestContext) -> pb.Agent:
        await self.agents.lock(ctx.transaction, request.id, etag=request.etag)
        await self.reservations.require_free(ctx.transaction, request.id)
        return agent_to_proto(await self.agents.delete(ctx.transaction, request.id))

    async def UndeleteAgent(self, request: pb.UndeleteAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self.agents.undelete(ctx.transaction, request.id, etag=request.etag))

    async def BatchGetAgents(self, request: pb.BatchGetAgentsRequest, ctx: RequestContext) -> pb.BatchGetAgentsResponse:
        rows = await self.agents.get_many(ctx.transaction, request.ids)
        return await with_rows(pb.BatchGetAgentsResponse(), "agents", rows, agent_to_proto)

    async def BatchCreateAgents(
        self, request: pb.BatchCreateAgentsRequest, ctx: RequestContext
    ) -> pb.BatchCreateAgentsResponse:
        items = map_items(request.requests, _created)
        rows = await self.agents.insert_many(ctx.transaction, items, created_by=ctx.principal.subject)
        return await with_rows(pb.BatchCreateAgentsResponse(), "agents", rows, agent_to_proto)

    async def BatchUpdateAgents(
        self, request: pb.BatchUpdateAgentsRequest, ctx: RequestContext
    ) -> pb.BatchUpdateAgentsResponse:
        changes = map_items(request.requests, _changed)
        before = await self.agents.lock_many(ctx.transaction, changes)
        rows = await self.agents.update_many(ctx.transaction, changes, before)
        return await with_rows(pb.BatchUpdateAgentsResponse(), "agents", rows, agent_to_proto)

    async def BatchDeleteAgents(
        self, request: pb.BatchDeleteAgentsRequest, ctx: RequestContext
    ) -> pb.BatchDeleteAgentsResponse:
        before = await self.agents.lock_many(ctx.transaction, map_items(request.requests, Change.deletion))
        await self.reservations.require_all_free(ctx.transaction, [row["id"] for row in before])
        rows = await self.agents.delete_many(ctx.transaction, before)
        return await with_rows(pb.BatchDeleteAgentsResponse(), "agents", rows, agent_to_proto)

    async def ActivateAgent(self, request: pb.ActivateAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self.agents.move(ctx.transaction, request.id, "activate", etag=request.etag))

    async def DisableAgent(self, request: pb.DisableAgentRequest, ctx: RequestContext) -> pb.Agent:
        row = await self.agents.move(ctx.transaction, request.id, "disable", etag=request.etag)
        await self.reservations.require_free(ctx.transaction, request.id)
        return agent_to_proto(row)

    def WatchAgents(self, request: pb.WatchAgentsRequest, ctx: StreamContext) -> AsyncIterator[pb.WatchAgentsResponse]:
        return self.watch.follow(request, ctx)

    async def GetAgentQuotas(self, request: pb.GetAgentQuotasRequest, ctx: RequestContext) -> pb.GetAgentQuotasResponse:
        return pb.GetAgentQuotasResponse(quotas=await self.quotas.list(ctx.transaction))


def _created(request: pb.CreateAgentRequest) -> dict[str, Any]:
    values = {**agent_from_proto(request.agent), "state": State.DRAFT}
    validate_tools(values["tools"])
    check_size("agent.parameters", values["parameters"])
    return values


def _changed(request: pb.UpdateAgentRequest) -> Change:
    agent = request.agent
    values = agent_from_proto(agent, paths_to_write(agent, request.update_mask, mutable=MUTABLE))
    validate_tools(values.get("tools", ()))
    check_size("agent.parameters", values.get("parameters"))
    return Change(agent.id, agent.etag, values)
