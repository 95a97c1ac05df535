"""The rows of workflows and of their revisions."""

from api_common.db import Row, Transaction, compile_statement
from api_common.errors import NotFoundError, ResourceInfo
from api_common.listing import IntegerField, PageTokens
from api_common.resources import BatchRepository, PartRepository, resource_fields
from sqlalchemy import bindparam, select

from workflows_service.domain import LIFECYCLE, State
from workflows_service.tables import workflow_revisions, workflows

FIELDS = resource_fields(workflows, State, revision=IntegerField(workflows.c.revision))

_GET_REVISION = compile_statement(
    select(workflow_revisions).where(
        *(workflow_revisions.c[name] == bindparam(name) for name in ("tenant_id", "workflow_id", "revision"))
    )
)


class WorkflowRepository(BatchRepository):
    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(workflows, resource="workflow", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)


class RevisionRepository(PartRepository):
    """The published revisions of a tenant's workflows; the application may not change or delete them."""

    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(workflow_revisions, parent="workflow_id", order=("revision",), page_tokens=page_tokens)

    async def insert_next(self, transaction: Transaction, workflow: Row, *, created_by: str) -> Row:
        """Stores the definition of ``workflow``, which must be locked, as its next revision, and returns that."""
        values = {
            "workflow_id": workflow["id"],
            "revision": workflow["revision"] + 1,
            "definition": workflow["definition"],
            "created_by": created_by,
        }
        return await self.insert(transaction, values)

    async def get(self, transaction: Transaction, workflow_id: str, revision: int) -> Row:
        """Returns a revision, also of a deleted workflow.

        Raises:
            NotFoundError: the tenant has no such workflow, or the workflow has no such revision.
        """
        values = {"tenant_id": transaction.tenant_id, "workflow_id": workflow_id, "revision": revision}
        row = await transaction.fetch_one(_GET_REVISION, values)
        if row is None:
            name = f"{workflow_id}/revisions/{revision}"
            raise NotFoundError(
                "There is no such revision of this workflow.", resource=ResourceInfo("workflow_revision", name)
            )
        return row
