"""Agents to test with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from ameide.agent.v1 import agent_pb2 as pb
from api_common.contract import struct_from_json
from api_common.testing import Caller

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub

_numbers = count(1)


def a_tool(name: str = "search", *, schema: Mapping[str, Any] | None = None) -> pb.Tool:
    """Returns a tool that takes an object; ``schema`` replaces its input schema."""
    return pb.Tool(name=name, input_schema=struct_from_json({"type": "object"} if schema is None else schema))


def an_agent(**fields: Any) -> pb.Agent:
    """Returns an agent that may be created; ``fields`` replace its own."""
    return pb.Agent(**{"display_name": f"Agent {next(_numbers)}", "model": "gpt-4o", **fields})


async def create_agent(agents: AgentServiceAsyncStub, caller: Caller, **fields: Any) -> pb.Agent:
    """Creates an agent as ``caller``."""
    return await agents.CreateAgent(pb.CreateAgentRequest(agent=an_agent(**fields)), metadata=caller.metadata)
