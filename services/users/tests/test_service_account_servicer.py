"""The promises of ServiceAccountService, one class per RPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.user.v1 import service_account_pb2 as pb
from api_common.testing import Caller, Identity, refused
from google.protobuf.field_mask_pb2 import FieldMask

from services.users.tests.factories import create_account

if TYPE_CHECKING:
    from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceAsyncStub

S = grpc.StatusCode


class TestCreateServiceAccount:
    async def test_needs_the_permission(
        self, accounts: ServiceAccountServiceAsyncStub, identity: Identity, tenant_id: str
    ) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED") as refusal:
            await create_account(accounts, identity.caller(tenant_id, "viewer", "editor", "operator"))
        assert refusal.metadata == {"permission": "serviceAccounts.admin"}

    async def test_returns_what_was_stored(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        created = await create_account(accounts, admin, display_name="CI", roles=["editor"], labels={"team": "navy"})
        assert (created.tenant_id, created.created_by) == (admin.tenant_id, admin.subject)
        assert (created.display_name, list(created.roles), created.state) == (
            "CI",
            ["editor"],
            pb.ServiceAccount.ACTIVE,
        )
        request = pb.GetServiceAccountRequest(id=created.id)
        assert await accounts.GetServiceAccount(request, metadata=admin.metadata) == created

    async def test_names_every_malformed_field(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await create_account(accounts, admin, display_name="", roles=["root"])
        assert set(refusal.violations) == {"service_account.display_name", "service_account.roles[0]"}


class TestGetServiceAccount:
    async def test_returns_what_was_created(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        account = await create_account(accounts, admin)
        request = pb.GetServiceAccountRequest(id=account.id)
        assert await accounts.GetServiceAccount(request, metadata=admin.metadata) == account


class TestListServiceAccounts:
    async def test_filters_and_orders(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        for name, role in (("Zoe", "editor"), ("Amy", "viewer"), ("Bob", "editor")):
            await create_account(accounts, admin, display_name=name, roles=[role])
        request = pb.ListServiceAccountsRequest(filter="roles:editor AND state = ACTIVE", order_by="display_name")
        page = await accounts.ListServiceAccounts(request, metadata=admin.metadata)
        assert [account.display_name for account in page.service_accounts] == ["Bob", "Zoe"]


class TestUpdateServiceAccount:
    async def test_writes_what_the_mask_names(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        account = await create_account(accounts, admin, roles=["viewer"])
        change = pb.ServiceAccount(id=account.id, roles=["editor"], display_name="Ignored", etag=account.etag)
        request = pb.UpdateServiceAccountRequest(service_account=change, update_mask=FieldMask(paths=["roles"]))
        updated = await accounts.UpdateServiceAccount(request, metadata=admin.metadata)
        assert (updated.display_name, list(updated.roles)) == (account.display_name, ["editor"])
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await accounts.UpdateServiceAccount(request, metadata=admin.metadata)


class TestDeleteServiceAccount:
    async def test_hides_the_account_from_lists(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        account = await create_account(accounts, admin)
        request = pb.DeleteServiceAccountRequest(id=account.id)
        assert (await accounts.DeleteServiceAccount(request, metadata=admin.metadata)).HasField("delete_time")
        page = await accounts.ListServiceAccounts(pb.ListServiceAccountsRequest(), metadata=admin.metadata)
        assert not page.service_accounts


class TestUndeleteServiceAccount:
    async def test_restores_it(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        account = await create_account(accounts, admin)
        await accounts.DeleteServiceAccount(pb.DeleteServiceAccountRequest(id=account.id), metadata=admin.metadata)
        request = pb.UndeleteServiceAccountRequest(id=account.id)
        assert not (await accounts.UndeleteServiceAccount(request, metadata=admin.metadata)).HasField("delete_time")


class TestDisableServiceAccount:
    async def test_moves_an_active_one_only(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        account = await create_account(accounts, admin)
        request = pb.DisableServiceAccountRequest(id=account.id)
        disabled = await accounts.DisableServiceAccount(request, metadata=admin.metadata)
        assert disabled.state == pb.ServiceAccount.DISABLED
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await accounts.DisableServiceAccount(request, metadata=admin.metadata)


class TestEnableServiceAccount:
    async def test_moves_a_disabled_one_only(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        account = await create_account(accounts, admin)
        request = pb.EnableServiceAccountRequest(id=account.id)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await accounts.EnableServiceAccount(request, metadata=admin.metadata)
        await accounts.DisableServiceAccount(pb.DisableServiceAccountRequest(id=account.id), metadata=admin.metadata)
        enabled = await accounts.EnableServiceAccount(request, metadata=admin.metadata)
        assert enabled.state == pb.ServiceAccount.ACTIVE
