"""The declaration of this service for the server."""

from pathlib import Path

from ameide.workflow.v1 import reservation_pb2, workflow_pb2
from api_common.reservations import Reservations
from api_common.resources import Quotas
from api_common.server import Service, ServiceDependencies

from workflows_service.mapping import workflow_to_proto
from workflows_service.repository import FIELDS, RevisionRepository, WorkflowRepository
from workflows_service.reservation_servicer import ReservationServicer
from workflows_service.servicer import WorkflowServicer
from workflows_service.tables import workflows


def _servicer(dependencies: ServiceDependencies) -> WorkflowServicer:
    watch = dependencies.watch_factory.of(
        workflows, fields=FIELDS, to_proto=workflow_to_proto, response=workflow_pb2.WatchWorkflowsResponse
    )
    stored, revisions = WorkflowRepository(dependencies.page_tokens), RevisionRepository(dependencies.page_tokens)
    quotas = Quotas(("workflows", "workflow_revisions"), dependencies.settings.quota)
    return WorkflowServicer(stored, revisions, Reservations("workflow"), watch, quotas)


def _reservation_servicer(dependencies: ServiceDependencies) -> ReservationServicer:
    stored, revisions = WorkflowRepository(dependencies.page_tokens), RevisionRepository(dependencies.page_tokens)
    return ReservationServicer(stored, revisions, Reservations("workflow"))


SERVICE = Service(
    name="workflows",
    servicers={
        workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"]: _servicer,
        reservation_pb2.DESCRIPTOR.services_by_name["ReservationService"]: _reservation_servicer,
    },
    constraints={},
    callers=("edge", "ipas"),
    siblings=("users",),
    migrations=Path(__file__).parent.parent / "migrations",
)
