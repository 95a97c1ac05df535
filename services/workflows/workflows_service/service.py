"""What the server needs to know of this service."""

from pathlib import Path

from ameide.workflow.v1 import workflow_pb2
from api_common.server import Parts, Service

from workflows_service.repository import RevisionRepository, WorkflowRepository
from workflows_service.servicer import WorkflowServicer


def _servicer(parts: Parts) -> WorkflowServicer:
    return WorkflowServicer(WorkflowRepository(parts.page_tokens), RevisionRepository(parts.page_tokens))


SERVICE = Service(
    name="workflows",
    servicers={workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"]: _servicer},
    constraints={},
    callers=("edge", "ipas"),
    siblings=("users",),
    migrations=Path(__file__).parent.parent / "migrations",
)
