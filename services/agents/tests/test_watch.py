"""Watching agents; what all watches share is tested in services/users/tests/test_watch.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.agent.v1 import agent_pb2 as pb
from api_common.testing import Caller

from services.agents.tests.factories import an_agent
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub

S = grpc.StatusCode


class TestWatchAgents:
    async def test_tells_what_happens_as_the_other_methods_would(
        self, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        before = await agents.CreateAgent(
            pb.CreateAgentRequest(agent=an_agent(labels={"team": "a"})), metadata=admin.metadata
        )
        request = pb.WatchAgentsRequest(initial_state=True, filter='labels.team = "a"')
        async with watching(agents.WatchAgents, request, admin) as watch:
            assert await watch.change() == ("created", before)
            await watch.until("bookmark")
            changed = pb.Agent(id=before.id, display_name="Other")
            updated = await agents.UpdateAgent(pb.UpdateAgentRequest(agent=changed), metadata=admin.metadata)
            assert await watch.change() == ("updated", updated)
            deleted = await agents.DeleteAgent(pb.DeleteAgentRequest(id=before.id), metadata=admin.metadata)
            assert await watch.change() == ("deleted", deleted)
