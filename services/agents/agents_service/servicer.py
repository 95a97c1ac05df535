"""The RPCs of AgentService, in the order of the proto."""

from ameide.agent.v1 import agent_pb2 as pb
from api_common.context import RequestContext
from api_common.field_mask import paths_to_write

from agents_service.domain import State, validate_parameters, validate_tools
from agents_service.mapping import MUTABLE, agent_from_proto, agent_to_proto
from agents_service.repository import AgentRepository


class AgentServicer:
    """Configured AI workers."""

    def __init__(self, agents: AgentRepository) -> None:
        self._agents = agents

    async def CreateAgent(self, request: pb.CreateAgentRequest, ctx: RequestContext) -> pb.Agent:
        values = {**agent_from_proto(request.agent), "state": State.DRAFT}
        validate_tools(values["tools"])
        validate_parameters(values["parameters"] or {})
        return agent_to_proto(await self._agents.insert(ctx.transaction, values, created_by=ctx.principal.subject))

    async def GetAgent(self, request: pb.GetAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self._agents.get(ctx.transaction, request.id))

    async def ListAgents(self, request: pb.ListAgentsRequest, ctx: RequestContext) -> pb.ListAgentsResponse:
        page = await self._agents.page(ctx.transaction, request, method="ListAgents")
        return pb.ListAgentsResponse(agents=map(agent_to_proto, page.rows), next_page_token=page.next_page_token)

    async def UpdateAgent(self, request: pb.UpdateAgentRequest, ctx: RequestContext) -> pb.Agent:
        agent = request.agent
        values = agent_from_proto(agent, paths_to_write(agent, request.update_mask, mutable=MUTABLE))
        validate_tools(values.get("tools", ()))
        validate_parameters(values.get("parameters") or {})
        return agent_to_proto(await self._agents.update(ctx.transaction, agent.id, values, etag=agent.etag))

    async def DeleteAgent(self, request: pb.DeleteAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self._agents.delete(ctx.transaction, request.id, etag=request.etag))

    async def UndeleteAgent(self, request: pb.UndeleteAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self._agents.undelete(ctx.transaction, request.id, etag=request.etag))

    async def ActivateAgent(self, request: pb.ActivateAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self._agents.move(ctx.transaction, request.id, "activate", etag=request.etag))

    async def DisableAgent(self, request: pb.DisableAgentRequest, ctx: RequestContext) -> pb.Agent:
        return agent_to_proto(await self._agents.move(ctx.transaction, request.id, "disable", etag=request.etag))
