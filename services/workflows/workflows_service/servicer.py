"""The RPCs of WorkflowService, in the order of the proto."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.call import RequestContext, StreamContext
from api_common.contract import paths_to_write
from api_common.db import Row
from api_common.reservations import Reservations
from api_common.resources import Change, Quotas, list_response, map_items, with_rows
from api_common.watch import Watch

from workflows_service.domain import LIFECYCLE, State, validate_definition, validate_draft
from workflows_service.mapping import MUTABLE, workflow_from_proto, workflow_revision_to_proto, workflow_to_proto
from workflows_service.repository import RevisionRepository, WorkflowRepository


@dataclass(frozen=True, slots=True)
class WorkflowServicer:
    """Versioned graphs of steps."""

    workflows: WorkflowRepository
    revisions: RevisionRepository
    reservations: Reservations
    watch: Watch[pb.WatchWorkflowsResponse]
    quotas: Quotas

    async def CreateWorkflow(self, request: pb.CreateWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        row = await self.workflows.insert(ctx.transaction, _created(request), created_by=ctx.principal.subject)
        return workflow_to_proto(row)

    async def GetWorkflow(self, request: pb.GetWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        return workflow_to_proto(await self.workflows.get(ctx.transaction, request.id))

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, ctx: RequestContext) -> pb.ListWorkflowsResponse:
        page = await self.workflows.page(ctx.transaction, request, method="ListWorkflows")
        return await list_response(pb.ListWorkflowsResponse, "workflows", page, workflow_to_proto)

    async def UpdateWorkflow(self, request: pb.UpdateWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        change = _changed(request)
        _require_changeable(await self.workflows.lock(ctx.transaction, change.id, etag=change.etag))
        return workflow_to_proto(await self.workflows.update(ctx.transaction, change.id, change.values))

    async def DeleteWorkflow(self, request: pb.DeleteWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        await self.workflows.lock(ctx.transaction, request.id, etag=request.etag)
        await self.reservations.require_free(ctx.transaction, request.id)
        return workflow_to_proto(await self.workflows.delete(ctx.transaction, request.id))

    async def UndeleteWorkflow(self, request: pb.UndeleteWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        return workflow_to_proto(await self.workflows.undelete(ctx.transaction, request.id, etag=request.etag))

    async def BatchGetWorkflows(
        self, request: pb.BatchGetWorkflowsRequest, ctx: RequestContext
    ) -> pb.BatchGetWorkflowsResponse:
        rows = await self.workflows.get_many(ctx.transaction, request.ids)
        return await with_rows(pb.BatchGetWorkflowsResponse(), "workflows", rows, workflow_to_proto)

    async def BatchCreateWorkflows(
        self, request: pb.BatchCreateWorkflowsRequest, ctx: RequestContext
    ) -> pb.BatchCreateWorkflowsResponse:
        items = map_items(request.requests, _created)
        rows = await self.workflows.insert_many(ctx.transaction, items, created_by=ctx.principal.subject)
        return await with_rows(pb.BatchCreateWorkflowsResponse(), "workflows", rows, workflow_to_proto)

    async def BatchUpdateWorkflows(
        self, request: pb.BatchUpdateWorkflowsRequest, ctx: RequestContext
    ) -> pb.BatchUpdateWorkflowsResponse:
        changes = map_items(request.requests, _changed)
        before = await self.workflows.lock_many(ctx.transaction, changes, reading=("state",))
        map_items(before, _require_changeable)
        rows = await self.workflows.update_many(ctx.transaction, changes, before)
        return await with_rows(pb.BatchUpdateWorkflowsResponse(), "workflows", rows, workflow_to_proto)

    async def BatchDeleteWorkflows(
        self, request: pb.BatchDeleteWorkflowsRequest, ctx: RequestContext
    ) -> pb.BatchDeleteWorkflowsResponse:
        before = await self.workflows.lock_many(ctx.transaction, map_items(request.requests, Change.deletion))
        await self.reservations.require_all_free(ctx.transaction, [row["id"] for row in before])
        rows = await self.workflows.delete_many(ctx.transaction, before)
        return await with_rows(pb.BatchDeleteWorkflowsResponse(), "workflows", rows, workflow_to_proto)

    async def PublishWorkflow(self, request: pb.PublishWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        row = await self.workflows.lock(ctx.transaction, request.id, etag=request.etag)
        state = LIFECYCLE.apply("publish", row["state"])
        validate_definition(row["definition"] or {})
        snapshot = await self.revisions.insert_next(ctx.transaction, row, created_by=ctx.principal.subject)
        values = {"state": state, "revision": snapshot["revision"]}
        return workflow_to_proto(await self.workflows.update(ctx.transaction, request.id, values))

    async def ArchiveWorkflow(self, request: pb.ArchiveWorkflowRequest, ctx: RequestContext) -> pb.Workflow:
        row = await self.workflows.move(ctx.transaction, request.id, "archive", etag=request.etag)
        await self.reservations.require_free(ctx.transaction, request.id)
        return workflow_to_proto(row)

    async def GetWorkflowRevision(
        self, request: pb.GetWorkflowRevisionRequest, ctx: RequestContext
    ) -> pb.WorkflowRevision:
        row = await self.revisions.get(ctx.transaction, request.workflow_id, request.revision)
        return workflow_revision_to_proto(row)

    async def ListWorkflowRevisions(
        self, request: pb.ListWorkflowRevisionsRequest, ctx: RequestContext
    ) -> pb.ListWorkflowRevisionsResponse:
        workflow = await self.workflows.get(ctx.transaction, request.workflow_id)
        page = await self.revisions.page(ctx.transaction, workflow["id"], request, method="ListWorkflowRevisions")
        return await list_response(pb.ListWorkflowRevisionsResponse, "revisions", page, workflow_revision_to_proto)

    def WatchWorkflows(
        self, request: pb.WatchWorkflowsRequest, ctx: StreamContext
    ) -> AsyncIterator[pb.WatchWorkflowsResponse]:
        return self.watch.follow(request, ctx)

    async def GetWorkflowQuotas(
        self, request: pb.GetWorkflowQuotasRequest, ctx: RequestContext
    ) -> pb.GetWorkflowQuotasResponse:
        return pb.GetWorkflowQuotasResponse(quotas=await self.quotas.list(ctx.transaction))


def _created(request: pb.CreateWorkflowRequest) -> dict[str, Any]:
    values = {**workflow_from_proto(request.workflow), "state": State.DRAFT}
    validate_draft(values["definition"] or {})
    return values


def _changed(request: pb.UpdateWorkflowRequest) -> Change:
    workflow = request.workflow
    values = workflow_from_proto(workflow, paths_to_write(workflow, request.update_mask, mutable=MUTABLE))
    validate_draft(values.get("definition") or {})
    return Change(workflow.id, workflow.etag, values)


def _require_changeable(row: Row) -> None:
    LIFECYCLE.apply("update", row["state"])
