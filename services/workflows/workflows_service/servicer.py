"""The RPCs of WorkflowService, in the order of the proto."""

from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.context import RequestContext
from api_common.field_mask import paths_to_write

from workflows_service.domain import LIFECYCLE, State, validate_definition, validate_draft
from workflows_service.mapping import MUTABLE, workflow_from_proto, workflow_revision_to_proto, workflow_to_proto
from workflows_service.repository import RevisionRepository, WorkflowRepository


class WorkflowServicer:
    """Versioned graphs of steps."""

    def __init__(self, workflows: WorkflowRepository, revisions: RevisionRepository) -> None:
        self._workflows = workflows
        self._revisions = revisions

    async def CreateWorkflow(self, request: pb.CreateWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        values = {**workflow_from_proto(request.workflow), "state": State.DRAFT}
        validate_draft(values["definition"] or {})
        row = await self._workflows.insert(ctx.transaction, values, created_by=ctx.principal.subject)
        return workflow_to_proto(row)

    async def GetWorkflow(self, request: pb.GetWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        return workflow_to_proto(await self._workflows.get(ctx.transaction, request.id))

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, ctx: RequestContext) -> pb.ListWorkflowsResponse:
        page = await self._workflows.page(ctx.transaction, request, method="ListWorkflows")
        workflows = map(workflow_to_proto, page.rows)
        return pb.ListWorkflowsResponse(workflows=workflows, next_page_token=page.next_page_token)

    async def UpdateWorkflow(self, request: pb.UpdateWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        workflow = request.workflow
        values = workflow_from_proto(workflow, paths_to_write(workflow, request.update_mask, mutable=MUTABLE))
        validate_draft(values.get("definition") or {})
        row = await self._workflows.lock(ctx.transaction, workflow.id, etag=workflow.etag)
        LIFECYCLE.apply("update", row["state"])
        return workflow_to_proto(await self._workflows.update(ctx.transaction, workflow.id, values))

    async def DeleteWorkflow(self, request: pb.DeleteWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        return workflow_to_proto(await self._workflows.delete(ctx.transaction, request.id, etag=request.etag))

    async def UndeleteWorkflow(self, request: pb.UndeleteWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        return workflow_to_proto(await self._workflows.undelete(ctx.transaction, request.id, etag=request.etag))

    async def PublishWorkflow(self, request: pb.PublishWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        row = await self._workflows.lock(ctx.transaction, request.id, etag=request.etag)
        state = LIFECYCLE.apply("publish", row["state"])
        validate_definition(row["definition"] or {})
        snapshot = await self._revisions.insert(ctx.transaction, row, created_by=ctx.principal.subject)
        values = {"state": state, "revision": snapshot["revision"]}
        return workflow_to_proto(await self._workflows.update(ctx.transaction, request.id, values))

    async def ArchiveWorkflow(self, request: pb.ArchiveWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        return workflow_to_proto(await self._workflows.move(ctx.transaction, request.id, "archive", etag=request.etag))

    async def GetWorkflowRevision(
        self, request: pb.GetWorkflowRevisionRequest, ctx: RequestContext
    ) -> pb.WorkflowRevision:
        row = await self._revisions.get(ctx.transaction, request.workflow_id, request.revision)
        return workflow_revision_to_proto(row)

    async def ListWorkflowRevisions(
        self, request: pb.ListWorkflowRevisionsRequest, ctx: RequestContext
    ) -> pb.ListWorkflowRevisionsResponse:
        workflow = await self._workflows.get(ctx.transaction, request.workflow_id)
        page = await self._revisions.page(ctx.transaction, workflow["id"], request, method="ListWorkflowRevisions")
        revisions = map(workflow_revision_to_proto, page.rows)
        return pb.ListWorkflowRevisionsResponse(revisions=revisions, next_page_token=page.next_page_token)
