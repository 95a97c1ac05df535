"""The promises of WorkflowService, one class per RPC."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.listing import MAX_PAGE_BYTES
from api_common.testing import Caller, Identity, TestService, refused
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct, Value

from services.workflows.tests.factories import a_definition, a_node, create_workflow, publish
from tests.paging import all_pages

if TYPE_CHECKING:
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode


class TestCreateWorkflow:
    async def test_needs_the_permission(
        self, workflows: WorkflowServiceAsyncStub, identity: Identity, tenant_id: str
    ) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED") as refusal:
            await create_workflow(workflows, identity.caller(tenant_id, "viewer", "operator"))
        assert refusal.metadata == {"permission": "workflows.write"}
        await create_workflow(workflows, identity.caller(tenant_id, "editor"))

    async def test_returns_what_was_stored(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        config = {"prompt": "Sort it", "limit": 3, "rate": 0.1, "on": True, "none": None, "more": [{}, [], "x"]}
        definition = a_definition(
            a_node("sort", pb.Node.AGENT, config=config), a_node("ask", pb.Node.HUMAN, config={}), a_node("pay")
        )
        definition.nodes[1].display_name = "Sort"
        definition.edges[1].condition = "amount > 100"
        created = await create_workflow(
            workflows, admin, display_name="Invoices", description="Pays", labels={"a": "1"}, definition=definition
        )
        assert (created.display_name, created.description, dict(created.labels)) == ("Invoices", "Pays", {"a": "1"})
        assert created.definition == definition
        assert (created.state, created.revision) == (pb.Workflow.DRAFT, 0)
        assert (created.tenant_id, created.created_by) == (admin.tenant_id, admin.subject)
        assert await workflows.GetWorkflow(pb.GetWorkflowRequest(id=created.id), metadata=admin.metadata) == created

    @pytest.mark.parametrize("definition", [None, pb.Definition(), pb.Definition(nodes=[a_node("a")])], ids=str)
    async def test_accepts_a_draft_that_is_not_finished(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller, definition: pb.Definition | None
    ) -> None:
        created = await create_workflow(workflows, admin, definition=definition)
        assert created.HasField("definition") == (definition is not None)
        assert created.definition == (definition or pb.Definition())

    async def test_refuses_an_ambiguous_graph(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        definition = a_definition(a_node("start"))
        definition.edges.add(source="end", target="nowhere")
        with refused(S.INVALID_ARGUMENT, "INVALID_GRAPH") as refusal:
            await create_workflow(workflows, admin, definition=definition)
        assert set(refusal.violations) == {"workflow.definition.nodes[1]", "workflow.definition.edges[2]"}

    async def test_names_every_malformed_field(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        definition = pb.Definition(
            nodes=[pb.Node(id="A"), pb.Node(type=pb.Node.TYPE_UNSPECIFIED)], edges=[pb.Edge(source="a")]
        )
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_workflow(workflows, admin, display_name="", description="x" * 10_001, definition=definition)
        assert set(refusal.violations) == {
            "workflow.display_name",
            "workflow.description",
            "workflow.definition.nodes[0].id",
            "workflow.definition.nodes[0].type",
            "workflow.definition.nodes[1].id",
            "workflow.definition.nodes[1].type",
            "workflow.definition.edges[0].target",
        }

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            (Struct(fields={"number": Value(number_value=nan)}), "INVALID_REQUEST"),
            (Struct(fields={"nothing": Value()}), "INVALID_REQUEST"),
            (Struct(fields={"text": Value(string_value="a\0b")}), "INVALID_REQUEST"),
            (Struct(fields={"text": Value(string_value="x" * 65_536)}), "INVALID_GRAPH"),
        ],
        ids=["NaN", "no kind", "NUL", "too large"],
    )
    async def test_refuses_settings_that_cannot_be_kept(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller, config: Struct, reason: str
    ) -> None:
        definition = a_definition(pb.Node(id="task", type=pb.Node.TASK, config=config))
        with refused(S.INVALID_ARGUMENT, reason) as refusal:
            await create_workflow(workflows, admin, definition=definition)
        (field,) = refusal.violations
        assert field.startswith("workflow.definition.nodes[1].config")

    @pytest.mark.parametrize("levels", [25, 30, 33, 200, 20_000])
    async def test_refuses_settings_that_nest_too_deep(
        self, workflows_service: TestService, admin: Caller, levels: int
    ) -> None:
        # Written by hand: the library does not encode what it would not decode.
        config = b""
        for _ in range(levels):
            value = _field(5, config)
            config = _field(1, _field(1, b"a") + _field(2, value))
        node = _field(1, b"task") + b"\x18\x03" + _field(4, config)
        workflow = _field(3, b"Deep") + _field(31, _field(1, node))
        create: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = workflows_service.channel.unary_unary(
            "/ameide.workflow.v1.WorkflowService/CreateWorkflow"
        )
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST"):
            await create(_field(1, workflow), metadata=admin.metadata)

    async def test_ignores_output_only_fields(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        created = await create_workflow(
            workflows, admin, state=pb.Workflow.PUBLISHED, revision=7, created_by="eve", etag='"7"'
        )
        assert (created.state, created.revision, created.created_by) == (pb.Workflow.DRAFT, 0, admin.subject)


class TestGetWorkflow:
    async def test_returns_a_deleted_workflow_with_its_delete_time(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        await workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(id=workflow.id), metadata=admin.metadata)
        found = await workflows.GetWorkflow(pb.GetWorkflowRequest(id=workflow.id), metadata=admin.metadata)
        assert found.HasField("delete_time")


class TestListWorkflows:
    async def test_filters_and_orders(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        zoe = await create_workflow(workflows, admin, display_name="Zoe", labels={"team": "a"})
        await create_workflow(workflows, admin, display_name="Amy", labels={"team": "a"})
        await publish(workflows, admin, zoe)
        for text, names in {
            "": ["Amy", "Zoe"],
            'labels.team = "a"': ["Amy", "Zoe"],
            "state = PUBLISHED": ["Zoe"],
            "revision >= 1": ["Zoe"],
            "revision = 0 AND state = DRAFT": ["Amy"],
            f'id = "{zoe.id}"': ["Zoe"],
        }.items():
            request = pb.ListWorkflowsRequest(filter=text, order_by="display_name")
            page = await workflows.ListWorkflows(request, metadata=admin.metadata)
            assert [workflow.display_name for workflow in page.workflows] == names, text

    async def test_ends_a_page_before_it_is_too_large_for_a_message(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        large = [a_node(f"n{index}", config={"text": "x" * 60_000}) for index in range(6)]
        created = [(await create_workflow(workflows, admin, definition=a_definition(*large))).id for _ in range(9)]
        pages = await all_pages(
            lambda token: workflows.ListWorkflows(
                pb.ListWorkflowsRequest(page_size=8, page_token=token), metadata=admin.metadata
            )
        )
        assert [workflow.id for page in pages for workflow in page.workflows] == created[::-1]
        assert all(0 < page.ByteSize() <= MAX_PAGE_BYTES for page in pages)


class TestUpdateWorkflow:
    async def test_writes_the_populated_fields_without_a_mask(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(workflows, admin, labels={"a": "1"})
        change = pb.Workflow(id=workflow.id, description="New", state=pb.Workflow.ARCHIVED, revision=9)
        updated = await workflows.UpdateWorkflow(pb.UpdateWorkflowRequest(workflow=change), metadata=admin.metadata)
        workflow.description, workflow.etag = "New", updated.etag
        workflow.update_time.CopyFrom(updated.update_time)
        assert updated == workflow

    async def test_clears_a_definition_that_is_named_and_absent(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        mask = FieldMask(paths=["definition"])
        request = pb.UpdateWorkflowRequest(workflow=pb.Workflow(id=workflow.id), update_mask=mask)
        updated = await workflows.UpdateWorkflow(request, metadata=admin.metadata)
        assert (updated.HasField("definition"), updated.display_name) == (False, workflow.display_name)

    async def test_refuses_an_ambiguous_graph(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        workflow = await create_workflow(workflows, admin)
        change = pb.Workflow(id=workflow.id, definition=pb.Definition(edges=[pb.Edge(source="a", target="b")]))
        with refused(S.INVALID_ARGUMENT, "INVALID_GRAPH"):
            await workflows.UpdateWorkflow(pb.UpdateWorkflowRequest(workflow=change), metadata=admin.metadata)

    async def test_refuses_an_archived_workflow(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        workflow = await publish(workflows, admin, await create_workflow(workflows, admin))
        await workflows.ArchiveWorkflow(pb.ArchiveWorkflowRequest(id=workflow.id), metadata=admin.metadata)
        request = pb.UpdateWorkflowRequest(workflow=pb.Workflow(id=workflow.id, display_name="New"))
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
            await workflows.UpdateWorkflow(request, metadata=admin.metadata)
        assert refusal.metadata["state"] == "ARCHIVED"

    async def test_refuses_an_old_etag(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        workflow = await create_workflow(workflows, admin)
        change = pb.Workflow(id=workflow.id, display_name="New", etag=workflow.etag)
        await workflows.UpdateWorkflow(pb.UpdateWorkflowRequest(workflow=change), metadata=admin.metadata)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await workflows.UpdateWorkflow(pb.UpdateWorkflowRequest(workflow=change), metadata=admin.metadata)

    async def test_refuses_to_change_the_state_by_a_mask(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        change = pb.Workflow(id=workflow.id, state=pb.Workflow.ARCHIVED, revision=3)
        request = pb.UpdateWorkflowRequest(workflow=change, update_mask=FieldMask(paths=["state", "revision"]))
        assert await workflows.UpdateWorkflow(request, metadata=admin.metadata) == workflow


class TestDeleteWorkflow:
    async def test_closes_the_workflow_but_not_its_revisions(
        self, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await publish(workflows, admin, await create_workflow(workflows, admin))
        await workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(id=workflow.id), metadata=admin.metadata)
        for call in (
            workflows.PublishWorkflow(pb.PublishWorkflowRequest(id=workflow.id), metadata=admin.metadata),
            workflows.ArchiveWorkflow(pb.ArchiveWorkflowRequest(id=workflow.id), metadata=admin.metadata),
            workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(id=workflow.id), metadata=admin.metadata),
        ):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await call
        assert not (await workflows.ListWorkflows(pb.ListWorkflowsRequest(), metadata=admin.metadata)).workflows
        request = pb.GetWorkflowRevisionRequest(workflow_id=workflow.id, revision=1)
        found = await workflows.GetWorkflowRevision(request, metadata=admin.metadata)
        listing = pb.ListWorkflowRevisionsRequest(workflow_id=workflow.id)
        assert list((await workflows.ListWorkflowRevisions(listing, metadata=admin.metadata)).revisions) == [found]


class TestUndeleteWorkflow:
    async def test_restores_state_and_revision(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        workflow = await publish(workflows, admin, await create_workflow(workflows, admin))
        await workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(id=workflow.id), metadata=admin.metadata)
        undelete = pb.UndeleteWorkflowRequest(id=workflow.id)
        restored = await workflows.UndeleteWorkflow(undelete, metadata=admin.metadata)
        assert (restored.state, restored.revision) == (pb.Workflow.PUBLISHED, 1)
        assert not restored.HasField("delete_time")
        with refused(S.ALREADY_EXISTS, "NOT_DELETED"):
            await workflows.UndeleteWorkflow(undelete, metadata=admin.metadata)


def _field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited field of the wire format."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


class TestGetWorkflowQuotas:
    async def test_counts_what_the_tenant_has(self, workflows: WorkflowServiceAsyncStub, admin: Caller) -> None:
        await create_workflow(workflows, admin)
        answer = await workflows.GetWorkflowQuotas(pb.GetWorkflowQuotasRequest(), metadata=admin.metadata)
        assert [(quota.collection, quota.used) for quota in answer.quotas] == [
            ("workflows", 1),
            ("workflow_revisions", 0),
        ]
