"""The promises of IpaService, one class per RPC."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.testing import NEVER, Caller, Identity, TestDatabase, refused
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from services.ipas.tests.factories import (
    an_ipa,
    create_agent,
    create_ipa,
    create_workflow,
    publish_workflow,
    put_into_state,
)

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode
CLOSED = ("DEPLOYING", "DEPLOYED", "RETIRED")
"""States in which what is deployed stays as it is."""


def a_struct(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


class TestCreateIpa:
    async def test_hides_other_tenants(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
        stranger: Caller,
    ) -> None:
        """What another tenant has is refused, byte for byte, as what never existed is."""
        own = await publish_workflow(workflows, stranger, "read")
        workflow, agent = await publish_workflow(workflows, admin, "read"), await create_agent(agents, admin)
        for reason, id, named in (
            ("WORKFLOW_NOT_FOUND", workflow.id, lambda id: {"workflow_id": id}),
            ("WORKFLOW_NOT_FOUND", workflow.id, lambda id: {"workflow_id": id, "workflow_revision": 1}),
            ("AGENT_NOT_FOUND", agent.id, lambda id: {"workflow_id": own.id, "agent_bindings": {"read": id}}),
        ):
            with refused(S.NOT_FOUND, reason) as other:
                await create_ipa(ipas, stranger, display_name="x", **named(id))
            with refused(S.NOT_FOUND, reason) as never:
                await create_ipa(ipas, stranger, display_name="x", **named(NEVER))
            assert other.payload.replace(id.encode(), b"") == never.payload.replace(NEVER.encode(), b"")
        assert not (await ipas.ListIpas(pb.ListIpasRequest(), metadata=stranger.metadata)).ipas

    async def test_needs_the_permission(self, ipas: IpaServiceAsyncStub, identity: Identity, tenant_id: str) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED") as refusal:
            await create_ipa(ipas, identity.caller(tenant_id, "viewer", "operator"))
        assert refusal.metadata == {"permission": "ipas.write"}

    async def test_returns_what_was_stored(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        identity: Identity,
        admin: Caller,
    ) -> None:
        editor = identity.caller(admin.tenant_id, "editor", subject="grace")
        workflow = await publish_workflow(workflows, admin, "read", "answer")
        agent = await create_agent(agents, admin)
        created = await create_ipa(
            ipas,
            editor,
            display_name="Mail",
            description="Answers mail",
            labels={"team": "navy"},
            workflow_id=workflow.id,
            workflow_revision=1,
            agent_bindings={"read": agent.id, "answer": agent.id},
            variables=a_struct(limit=5, nested={"on": True, "list": [1, None, "x"]}),
        )
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", created.id)
        assert (created.tenant_id, created.created_by) == (admin.tenant_id, "grace")
        assert (created.display_name, created.description) == ("Mail", "Answers mail")
        assert dict(created.labels) == {"team": "navy"}
        assert (created.workflow_id, created.workflow_revision) == (workflow.id, 1)
        assert dict(created.agent_bindings) == {"read": agent.id, "answer": agent.id}
        assert created.variables == a_struct(limit=5, nested={"on": True, "list": [1, None, "x"]})
        assert created.state == pb.Ipa.DRAFT
        assert created.create_time == created.update_time
        assert not created.HasField("delete_time")
        assert await ipas.GetIpa(pb.GetIpaRequest(id=created.id), metadata=admin.metadata) == created

    async def test_lets_a_draft_name_nothing(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        created = await create_ipa(ipas, admin)
        assert (created.workflow_id, created.workflow_revision, dict(created.agent_bindings)) == ("", 0, {})
        assert not created.HasField("variables")

    async def test_binds_nodes_of_an_unpublished_workflow(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow, agent = await create_workflow(workflows, admin, "read"), await create_agent(agents, admin)
        created = await create_ipa(ipas, admin, workflow_id=workflow.id, agent_bindings={"read": agent.id})
        assert dict(created.agent_bindings) == {"read": agent.id}

    async def test_keeps_ids_in_lower_case(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow, agent = await create_workflow(workflows, admin, "read"), await create_agent(agents, admin)
        created = await create_ipa(
            ipas, admin, workflow_id=workflow.id.upper(), agent_bindings={"read": agent.id.upper()}
        )
        assert (created.workflow_id, created.agent_bindings["read"]) == (workflow.id, agent.id)

    async def test_names_every_malformed_field(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_ipa(
                ipas,
                admin,
                display_name="",
                workflow_id="1",
                workflow_revision=-1,
                agent_bindings={"read": "x"},
                labels={"BAD KEY": "x"},
            )
        assert set(refusal.violations) == {
            "ipa.display_name",
            "ipa.workflow_id",
            "ipa.workflow_revision",
            "ipa.agent_bindings[read]",
            "ipa.labels[BAD KEY]",
        }

    @pytest.mark.parametrize("variables", [{"x": float("nan")}, {"x": "a" * 70_000}, {"a\0b": 1}, {"x": "a\0b"}])
    async def test_refuses_variables_that_cannot_be_kept(
        self, ipas: IpaServiceAsyncStub, admin: Caller, variables: dict[str, Any]
    ) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_ipa(ipas, admin, variables=a_struct(**variables))
        assert all(field.startswith("ipa.variables") for field in refusal.violations)

    async def test_ignores_output_only_fields(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        forged = {"id": NEVER, "tenant_id": "other", "state": pb.Ipa.DEPLOYED, "created_by": "eve", "etag": '"7"'}
        ipa = await create_ipa(ipas, admin, **forged)
        assert ipa.id != NEVER
        assert (ipa.tenant_id, ipa.state, ipa.created_by) == (admin.tenant_id, pb.Ipa.DRAFT, admin.subject)

    async def test_makes_one_of_many_parallel_calls_with_the_same_key(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await create_workflow(workflows, admin)
        request = pb.CreateIpaRequest(ipa=an_ipa(workflow_id=workflow.id))
        metadata = (*admin.metadata, ("idempotency-key", "once"))
        answers = await asyncio.gather(*(ipas.CreateIpa(request, metadata=metadata) for _ in range(20)))
        assert len({answer.id for answer in answers}) == 1


class TestGetIpa:
    async def test_needs_a_role(self, ipas: IpaServiceAsyncStub, nobody: Caller) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await ipas.GetIpa(pb.GetIpaRequest(id=NEVER), metadata=nobody.metadata)

    async def test_returns_a_deleted_ipa_with_its_delete_time(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        await ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id), metadata=admin.metadata)
        found = await ipas.GetIpa(pb.GetIpaRequest(id=ipa.id), metadata=admin.metadata)
        assert found.HasField("delete_time")


class TestListIpas:
    async def test_walks_every_ipa_once_newest_first(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        created = [(await create_ipa(ipas, admin)).id for _ in range(5)]
        seen: list[str] = []
        token = ""
        while True:
            page = await ipas.ListIpas(pb.ListIpasRequest(page_size=2, page_token=token), metadata=admin.metadata)
            seen += [ipa.id for ipa in page.ipas]
            if not (token := page.next_page_token):
                break
        assert seen == created[::-1]

    async def test_filters_and_orders(
        self, ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, admin: Caller
    ) -> None:
        workflow = await publish_workflow(workflows, admin)
        await create_ipa(ipas, admin, display_name="Zoe", workflow_id=workflow.id, workflow_revision=1)
        await create_ipa(ipas, admin, display_name="Amy", workflow_id=workflow.id, labels={"team": "a"})
        await create_ipa(ipas, admin, display_name="Bob")
        for text, names in {
            f'workflow_id = "{workflow.id}"': ["Amy", "Zoe"],
            f'NOT workflow_id = "{workflow.id}"': ["Bob"],
            "workflow_revision > 0": ["Zoe"],
            'state = DRAFT AND labels.team = "a"': ["Amy"],
            'display_name:"o"': ["Bob", "Zoe"],
        }.items():
            request = pb.ListIpasRequest(filter=text, order_by="display_name")
            page = await ipas.ListIpas(request, metadata=admin.metadata)
            assert [ipa.display_name for ipa in page.ipas] == names, text

    async def test_shows_deleted_ipas_on_demand(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        await ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id), metadata=admin.metadata)
        assert not (await ipas.ListIpas(pb.ListIpasRequest(), metadata=admin.metadata)).ipas
        page = await ipas.ListIpas(pb.ListIpasRequest(show_deleted=True), metadata=admin.metadata)
        assert [found.id for found in page.ipas] == [ipa.id]


class TestUpdateIpa:
    async def test_writes_the_populated_fields_without_a_mask(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin, labels={"a": "1"}, variables=a_struct(a=1))
        change = pb.Ipa(id=ipa.id, display_name="New", variables=a_struct(b=2))
        updated = await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=change), metadata=admin.metadata)
        assert (updated.display_name, dict(updated.labels), updated.variables) == ("New", {"a": "1"}, a_struct(b=2))
        assert updated.etag != ipa.etag

    async def test_clears_what_is_named_and_absent(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        agents: AgentServiceAsyncStub,
        admin: Caller,
    ) -> None:
        workflow, agent = await create_workflow(workflows, admin, "read"), await create_agent(agents, admin)
        ipa = await create_ipa(
            ipas, admin, workflow_id=workflow.id, agent_bindings={"read": agent.id}, variables=a_struct(a=1)
        )
        mask = FieldMask(paths=["workflow_id", "agent_bindings", "variables"])
        request = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id), update_mask=mask)
        updated = await ipas.UpdateIpa(request, metadata=admin.metadata)
        assert (updated.workflow_id, dict(updated.agent_bindings)) == ("", {})
        assert not updated.HasField("variables")

    async def test_never_writes_output_only_fields(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        forged = pb.Ipa(id=ipa.id, display_name="New", tenant_id="other", created_by="eve", state=pb.Ipa.DEPLOYED)
        for mask in (None, FieldMask(paths=["tenant_id", "state", "created_by", "display_name"])):
            updated = await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=forged, update_mask=mask), metadata=admin.metadata)
            assert (updated.tenant_id, updated.created_by, updated.state) == (
                ipa.tenant_id,
                ipa.created_by,
                pb.Ipa.DRAFT,
            )

    async def test_refuses_a_mask_that_names_nothing(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        for path in ("password", "agent_bindings.read", "variables.a"):
            request = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id), update_mask=FieldMask(paths=[path]))
            with refused(S.INVALID_ARGUMENT, "INVALID_UPDATE_MASK"):
                await ipas.UpdateIpa(request, metadata=admin.metadata)

    @pytest.mark.parametrize("change", [{"display_name": "W"}, {"variables": a_struct(a=1)}])
    async def test_lets_one_of_many_writers_with_the_same_etag_win(
        self, ipas: IpaServiceAsyncStub, admin: Caller, change: dict[str, Any]
    ) -> None:
        ipa = await create_ipa(ipas, admin)
        request = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, etag=ipa.etag, **change))
        calls = [ipas.UpdateIpa(request, metadata=admin.metadata) for _ in range(20)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        codes = [result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert codes == [S.ABORTED] * 19

    async def test_refuses_an_old_etag_before_it_asks_anybody(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        for change in ({"display_name": "New"}, {"workflow_id": NEVER}, {"variables": a_struct(a=1)}):
            request = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, etag='"99"', **change))
            with refused(S.ABORTED, "ETAG_MISMATCH"):
                await ipas.UpdateIpa(request, metadata=admin.metadata)

    async def test_changes_what_is_deployed_in_draft_and_failed_only(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        ipas_database: TestDatabase,
        admin: Caller,
    ) -> None:
        workflow = await publish_workflow(workflows, admin)
        changes: tuple[dict[str, Any], ...] = (
            {"workflow_id": NEVER},
            {"workflow_revision": 1},
            {"agent_bindings": {"read": NEVER}},
            {"variables": a_struct(a=1)},
        )
        ipa = await create_ipa(ipas, admin, workflow_id=workflow.id)
        for state in CLOSED:
            await put_into_state(ipas_database, ipa, state)
            for change in changes:
                request = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, **change))
                with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
                    await ipas.UpdateIpa(request, metadata=admin.metadata)
                assert refusal.metadata["state"] == state
        await put_into_state(ipas_database, ipa, "FAILED")
        request = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, workflow_revision=1, variables=a_struct(a=1)))
        updated = await ipas.UpdateIpa(request, metadata=admin.metadata)
        assert (updated.state, updated.workflow_revision) == (pb.Ipa.FAILED, 1)

    async def test_changes_names_in_every_state(
        self, ipas: IpaServiceAsyncStub, ipas_database: TestDatabase, admin: Caller
    ) -> None:
        ipa = await create_ipa(ipas, admin)
        for state in CLOSED:
            await put_into_state(ipas_database, ipa, state)
            change = pb.Ipa(id=ipa.id, display_name=state, description=state, labels={"state": state})
            updated = await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=change), metadata=admin.metadata)
            assert (updated.display_name, updated.description, updated.labels["state"]) == (state, state, state)

    async def test_takes_back_what_was_read_in_every_state(
        self,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        ipas_database: TestDatabase,
        admin: Caller,
    ) -> None:
        workflow = await publish_workflow(workflows, admin)
        ipa = await create_ipa(
            ipas, admin, workflow_id=workflow.id, workflow_revision=1, variables=a_struct(n=1e20, yes=True)
        )
        ipa.ClearField("etag")
        await put_into_state(ipas_database, ipa, "DEPLOYED")
        ipa.display_name, ipa.workflow_id = "New", workflow.id.upper()
        for mask in (None, FieldMask(paths=["*"])):
            request = pb.UpdateIpaRequest(ipa=ipa, update_mask=mask)
            updated = await ipas.UpdateIpa(request, metadata=admin.metadata)
            assert (updated.display_name, updated.variables) == ("New", ipa.variables)
        ipa.variables["yes"] = 1
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=ipa), metadata=admin.metadata)


class TestGetIpaQuotas:
    async def test_counts_what_the_tenant_has(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        await create_ipa(ipas, admin)
        answer = await ipas.GetIpaQuotas(pb.GetIpaQuotasRequest(), metadata=admin.metadata)
        assert [(quota.collection, quota.used) for quota in answer.quotas] == [("ipas", 1), ("deployments", 0)]
