"""The revisions of a workflow through a real stub: published, read, archived."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest
from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.testing import Caller, Identity, TestDatabase, refused

from services.workflows.tests.factories import a_definition, a_node, create_workflow, publish
from tests.paging import all_pages

if TYPE_CHECKING:
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode


class TestPublishWorkflow:
    async def test_keeps_the_definition_as_the_next_revision(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller, identity: Identity
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        first = await publish(workflows, admin, workflow)
        assert (first.state, first.revision, first.definition) == (pb.Workflow.PUBLISHED, 1, workflow.definition)
        changed = a_definition(a_node("more", config={"n": 1}))
        change = pb.UpdateWorkflowRequest(workflow=pb.Workflow(id=workflow.id, definition=changed))
        draft = await workflows.UpdateWorkflow(change, metadata=admin.metadata)
        assert (draft.state, draft.revision) == (pb.Workflow.PUBLISHED, 1)
        second = await publish(workflows, identity.caller(admin.tenant_id, "editor", subject="bob"), workflow)
        assert (second.revision, second.created_by) == (2, admin.subject)
        for number, definition, author in ((1, workflow.definition, admin.subject), (2, changed, "bob")):
            request = pb.GetWorkflowRevisionRequest(workflow_id=workflow.id, revision=number)
            kept = await workflows.GetWorkflowRevision(request, metadata=admin.metadata)
            assert (kept.tenant_id, kept.workflow_id) == (admin.tenant_id, workflow.id)
            assert (kept.revision, kept.definition, kept.created_by) == (number, definition, author)
            assert kept.HasField("create_time")

    async def test_refuses_an_unfinished_graph_and_leaves_nothing_behind(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(
            workflows, admin, definition=pb.Definition(nodes=[a_node("start", pb.Node.START)])
        )
        with refused(S.INVALID_ARGUMENT, "INVALID_GRAPH") as refusal:
            await publish(workflows, admin, workflow)
        assert "workflow.definition.nodes" in refusal.violations
        assert await workflows.GetWorkflow(pb.GetWorkflowRequest(id=workflow.id), metadata=admin.metadata) == workflow
        listing = pb.ListWorkflowRevisionsRequest(workflow_id=workflow.id)
        assert not (await workflows.ListWorkflowRevisions(listing, metadata=admin.metadata)).revisions

    async def test_refuses_a_workflow_without_a_definition(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_GRAPH"):
            await publish(workflows, admin, await create_workflow(workflows, admin, definition=None))

    async def test_refuses_an_old_etag(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        workflow = await create_workflow(workflows, admin)
        request = pb.PublishWorkflowRequest(id=workflow.id, etag=workflow.etag)
        await workflows.PublishWorkflow(request, metadata=admin.metadata)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await workflows.PublishWorkflow(request, metadata=admin.metadata)

    async def test_gives_every_one_of_many_parallel_calls_a_revision_of_its_own(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        published = await asyncio.gather(*(publish(workflows, admin, workflow) for _ in range(12)))
        assert sorted(one.revision for one in published) == list(range(1, 13))

    async def test_makes_revisions_that_the_application_cannot_change(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller, workflows_database: TestDatabase
    ) -> None:
        await publish(workflows, admin, await create_workflow(workflows, admin))
        application = await asyncpg.connect(workflows_database.url)
        await application.execute("SELECT set_config('app.tenant_id', $1, false)", admin.tenant_id)
        assert await application.fetchval("SELECT count(*) FROM workflow_revisions") == 1
        for statement in ("UPDATE workflow_revisions SET revision = 2", "DELETE FROM workflow_revisions"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await application.execute(statement)
        await application.close()


class TestArchiveWorkflow:
    async def test_archives_a_published_workflow_once_and_for_all(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        archive = pb.ArchiveWorkflowRequest(id=workflow.id)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await workflows.ArchiveWorkflow(archive, metadata=admin.metadata)
        await publish(workflows, admin, workflow)
        archived = await workflows.ArchiveWorkflow(archive, metadata=admin.metadata)
        assert (archived.state, archived.revision) == (pb.Workflow.ARCHIVED, 1)
        for call in (workflows.ArchiveWorkflow(archive, metadata=admin.metadata), publish(workflows, admin, workflow)):
            with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
                await call


class TestGetWorkflowRevision:
    async def test_finds_published_revisions_only(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        workflow = await publish(workflows, admin, await create_workflow(workflows, admin))
        for number in (2, 2**31 - 1):
            request = pb.GetWorkflowRevisionRequest(workflow_id=workflow.id, revision=number)
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await workflows.GetWorkflowRevision(request, metadata=admin.metadata)

    async def test_names_malformed_fields(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        request = pb.GetWorkflowRevisionRequest(workflow_id="1", revision=-1)
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await workflows.GetWorkflowRevision(request, metadata=admin.metadata)
        assert set(refusal.violations) == {"workflow_id", "revision"}


class TestListWorkflowRevisions:
    async def test_walks_the_revisions_of_one_workflow_newest_first(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow, other = await create_workflow(workflows, admin), await create_workflow(workflows, admin)
        for one in (workflow, other, workflow, workflow, other, workflow, workflow):
            await publish(workflows, admin, one)
        pages = await all_pages(
            lambda token: workflows.ListWorkflowRevisions(
                pb.ListWorkflowRevisionsRequest(workflow_id=workflow.id, page_size=2, page_token=token),
                metadata=admin.metadata,
            )
        )
        assert [[one.revision for one in page.revisions] for page in pages] == [[5, 4], [3, 2], [1]]
        assert {one.workflow_id for page in pages for one in page.revisions} == {workflow.id}

    async def test_binds_page_tokens_to_the_workflow(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        workflow, other = await create_workflow(workflows, admin), await create_workflow(workflows, admin)
        for one in (workflow, workflow, other, other):
            await publish(workflows, admin, one)
        first = pb.ListWorkflowRevisionsRequest(workflow_id=workflow.id, page_size=1)
        token = (await workflows.ListWorkflowRevisions(first, metadata=admin.metadata)).next_page_token
        with refused(S.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await workflows.ListWorkflowRevisions(
                pb.ListWorkflowRevisionsRequest(workflow_id=other.id, page_size=1, page_token=token),
                metadata=admin.metadata,
            )
        with refused(S.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await workflows.ListWorkflows(pb.ListWorkflowsRequest(page_token=token), metadata=admin.metadata)
