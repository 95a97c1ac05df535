"""What the server needs to know of this service."""

from pathlib import Path

from ameide.agent.v1 import agent_pb2
from api_common.server import Parts, Service

from agents_service.repository import AgentRepository
from agents_service.servicer import AgentServicer


def _servicer(parts: Parts) -> AgentServicer:
    return AgentServicer(AgentRepository(parts.page_tokens))


SERVICE = Service(
    name="agents",
    servicers={agent_pb2.DESCRIPTOR.services_by_name["AgentService"]: _servicer},
    constraints={},
    callers=("edge", "ipas"),
    siblings=("users",),
    migrations=Path(__file__).parent.parent / "migrations",
)
