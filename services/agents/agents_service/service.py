"""The declaration of this service for the server."""

from pathlib import Path

from ameide.agent.v1 import agent_pb2, reservation_pb2
from api_common.reservations import Reservations
from api_common.resources import Quotas
from api_common.server import Service, ServiceDependencies

from agents_service.mapping import agent_to_proto
from agents_service.repository import FIELDS, AgentRepository
from agents_service.reservation_servicer import ReservationServicer
from agents_service.servicer import AgentServicer
from agents_service.tables import agents


def _servicer(dependencies: ServiceDependencies) -> AgentServicer:
    watch = dependencies.watch_factory.of(
        agents, fields=FIELDS, to_proto=agent_to_proto, response=agent_pb2.WatchAgentsResponse
    )
    quotas = Quotas(("agents",), dependencies.settings.quota)
    return AgentServicer(AgentRepository(dependencies.page_tokens), Reservations("agent"), watch, quotas)


def _reservation_servicer(dependencies: ServiceDependencies) -> ReservationServicer:
    return ReservationServicer(AgentRepository(dependencies.page_tokens), Reservations("agent"))


SERVICE = Service(
    name="agents",
    servicers={
        agent_pb2.DESCRIPTOR.services_by_name["AgentService"]: _servicer,
        reservation_pb2.DESCRIPTOR.services_by_name["ReservationService"]: _reservation_servicer,
    },
    constraints={},
    callers=("edge", "ipas"),
    siblings=("users",),
    migrations=Path(__file__).parent.parent / "migrations",
)
