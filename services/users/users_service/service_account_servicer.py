"""The RPCs of ServiceAccountService, in the order of the proto."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ameide.user.v1 import service_account_pb2 as pb
from api_common.call import RequestContext
from api_common.contract import paths_to_write
from api_common.resources import list_response

from users_service.domain import AccountState
from users_service.mapping import (
    SERVICE_ACCOUNT_MUTABLE,
    api_key_to_proto,
    expire_time_from_proto,
    service_account_from_proto,
    service_account_to_proto,
)
from users_service.operations import KeyIssuer
from users_service.repository import ApiKeyRepository, ServiceAccountRepository


@dataclass(frozen=True, slots=True)
class ServiceAccountServicer:
    """Service accounts of a tenant and their API keys."""

    accounts: ServiceAccountRepository
    keys: ApiKeyRepository
    issuer: KeyIssuer

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, ctx: RequestContext
    ) -> pb.ServiceAccount:
        values = {**service_account_from_proto(request.service_account), "state": AccountState.ACTIVE}
        row = await self.accounts.insert(ctx.transaction, values, created_by=ctx.principal.subject)
        return service_account_to_proto(row)

    async def GetServiceAccount(self, request: pb.GetServiceAccountRequest, ctx: RequestContext) -> pb.ServiceAccount:
        return service_account_to_proto(await self.accounts.get(ctx.transaction, request.id))

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, ctx: RequestContext
    ) -> pb.ListServiceAccountsResponse:
        page = await self.accounts.page(ctx.transaction, request, method="ListServiceAccounts")
        return await list_response(pb.ListServiceAccountsResponse, "service_accounts", page, service_account_to_proto)

    async def UpdateServiceAccount(
        self, request: pb.UpdateServiceAccountRequest, ctx: RequestContext
    ) -> pb.ServiceAccount:
        account = request.service_account
        fields = paths_to_write(account, request.update_mask, mutable=SERVICE_ACCOUNT_MUTABLE)
        values = service_account_from_proto(account, fields)
        row = await self.accounts.update(ctx.transaction, account.id, values, etag=account.etag)
        return service_account_to_proto(row)

    async def DeleteServiceAccount(
        self, request: pb.DeleteServiceAccountRequest, ctx: RequestContext
    ) -> pb.ServiceAccount:
        return service_account_to_proto(await self.accounts.delete(ctx.transaction, request.id, etag=request.etag))

    async def UndeleteServiceAccount(
        self, request: pb.UndeleteServiceAccountRequest, ctx: RequestContext
    ) -> pb.ServiceAccount:
        return service_account_to_proto(await self.accounts.undelete(ctx.transaction, request.id, etag=request.etag))

    async def DisableServiceAccount(
        self, request: pb.DisableServiceAccountRequest, ctx: RequestContext
    ) -> pb.ServiceAccount:
        row = await self.accounts.move(ctx.transaction, request.id, "disable", etag=request.etag)
        return service_account_to_proto(row)

    async def EnableServiceAccount(
        self, request: pb.EnableServiceAccountRequest, ctx: RequestContext
    ) -> pb.ServiceAccount:
        row = await self.accounts.move(ctx.transaction, request.id, "enable", etag=request.etag)
        return service_account_to_proto(row)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, ctx: RequestContext) -> pb.CreateApiKeyResponse:
        account = await self.accounts.lock(ctx.transaction, request.service_account_id)
        expire_time = expire_time_from_proto(request.api_key)
        name = request.api_key.display_name
        issued = await self.issuer.issue(ctx, account["id"], name, expire_time=expire_time)
        return pb.CreateApiKeyResponse(api_key=api_key_to_proto(issued.row), secret=issued.secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, ctx: RequestContext) -> pb.ListApiKeysResponse:
        account = await self.accounts.get(ctx.transaction, request.service_account_id)
        page = await self.keys.page(ctx.transaction, account["id"], request, method="ListApiKeys")
        return await list_response(pb.ListApiKeysResponse, "api_keys", page, api_key_to_proto)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, ctx: RequestContext) -> pb.ApiKey:
        return api_key_to_proto(await self.keys.revoke(ctx.transaction, request.service_account_id, request.id))

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, ctx: RequestContext) -> pb.RotateApiKeyResponse:
        account = await self.accounts.lock(ctx.transaction, request.service_account_id)
        old = await self.keys.lock(ctx.transaction, account["id"], request.id)
        issued = await self.issuer.replace(
            ctx,
            old,
            expire_time=expire_time_from_proto(request.rotation),
            overlap=timedelta(seconds=request.rotation.overlap_seconds),
            now=datetime.now(UTC),
        )
        return pb.RotateApiKeyResponse(api_key=api_key_to_proto(issued.row), secret=issued.secret)
