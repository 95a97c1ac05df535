"""Watching workflows; what all watches share is tested in services/users/tests/test_watch.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.testing import Caller

from services.workflows.tests.factories import a_workflow
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode


class TestWatchWorkflows:
    async def test_tells_what_happens_as_the_other_methods_would(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        before = await workflows.CreateWorkflow(
            pb.CreateWorkflowRequest(workflow=a_workflow(labels={"team": "a"})), metadata=admin.metadata
        )
        request = pb.WatchWorkflowsRequest(initial_state=True, filter='labels.team = "a"')
        async with watching(workflows.WatchWorkflows, request, admin) as watch:
            assert await watch.change() == ("created", before)
            await watch.until("bookmark")
            changed = pb.Workflow(id=before.id, display_name="Other")
            updated = await workflows.UpdateWorkflow(
                pb.UpdateWorkflowRequest(workflow=changed), metadata=admin.metadata
            )
            assert await watch.change() == ("updated", updated)
            deleted = await workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(id=before.id), metadata=admin.metadata)
            assert await watch.change() == ("deleted", deleted)
