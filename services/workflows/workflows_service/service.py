"""What the server needs to know of this service."""

from pathlib import Path

from ameide.workflow.v1 import reservation_pb2, workflow_pb2
from api_common.reservations import Reservations
from api_common.server import Parts, Service

from workflows_service.repository import RevisionRepository, WorkflowRepository
from workflows_service.reservation_servicer import ReservationServicer
from workflows_service.servicer import WorkflowServicer


def _servicer(parts: Parts) -> WorkflowServicer:
    workflows, revisions = WorkflowRepository(parts.page_tokens), RevisionRepository(parts.page_tokens)
    return WorkflowServicer(workflows, revisions, Reservations("workflow"))


def _reservation_servicer(parts: Parts) -> ReservationServicer:
    workflows, revisions = WorkflowRepository(parts.page_tokens), RevisionRepository(parts.page_tokens)
    return ReservationServicer(workflows, revisions, Reservations("workflow"))


SERVICE = Service(
    name="workflows",
    servicers={
        workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"]: _servicer,
        reservation_pb2.DESCRIPTOR.services_by_name["ReservationService"]: _reservation_servicer,
    },
    constraints={},
    callers=("edge", "ipas"),
    internal_callers=("ipas",),
    siblings=("users",),
    migrations=Path(__file__).parent.parent / "migrations",
)
