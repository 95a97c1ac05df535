"""The RPCs of UserService, in the order of the proto."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ameide.user.v1 import user_pb2 as pb
from api_common.call import RequestContext, StreamContext
from api_common.contract import paths_to_write
from api_common.resources import Change, Quotas, list_response, map_items, with_rows
from api_common.watch import Watch

from users_service.domain import State
from users_service.mapping import MUTABLE, user_from_proto, user_to_proto
from users_service.repository import UserRepository


@dataclass(frozen=True, slots=True)
class UserServicer:
    """People of a tenant and their roles."""

    users: UserRepository
    watch: Watch[pb.WatchUsersResponse]
    quotas: Quotas

    async def CreateUser(self, request: pb.CreateUserRequest, ctx: RequestContext) -> pb.User:
        row = await self.users.insert(ctx.transaction, _created(request), created_by=ctx.principal.subject)
        return user_to_proto(row)

    async def GetUser(self, request: pb.GetUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self.users.get(ctx.transaction, request.id))

    async def GetMe(self, request: pb.GetMeRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self.users.find_principal(ctx.transaction, ctx.principal))

    async def ListUsers(self, request: pb.ListUsersRequest, ctx: RequestContext) -> pb.ListUsersResponse:
        page = await self.users.page(ctx.transaction, request, method="ListUsers")
        return await list_response(pb.ListUsersResponse, "users", page, user_to_proto)

    async def UpdateUser(self, request: pb.UpdateUserRequest, ctx: RequestContext) -> pb.User:
        change = _changed(request)
        return user_to_proto(await self.users.update(ctx.transaction, change.id, change.values, etag=change.etag))

    async def DeleteUser(self, request: pb.DeleteUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self.users.delete(ctx.transaction, request.id, etag=request.etag))

    async def UndeleteUser(self, request: pb.UndeleteUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self.users.undelete(ctx.transaction, request.id, etag=request.etag))

    async def BatchGetUsers(self, request: pb.BatchGetUsersRequest, ctx: RequestContext) -> pb.BatchGetUsersResponse:
        rows = await self.users.get_many(ctx.transaction, request.ids)
        return await with_rows(pb.BatchGetUsersResponse(), "users", rows, user_to_proto)

    async def BatchCreateUsers(
        self, request: pb.BatchCreateUsersRequest, ctx: RequestContext
    ) -> pb.BatchCreateUsersResponse:
        items = map_items(request.requests, _created)
        rows = await self.users.insert_many(ctx.transaction, items, created_by=ctx.principal.subject)
        return await with_rows(pb.BatchCreateUsersResponse(), "users", rows, user_to_proto)

    async def BatchUpdateUsers(
        self, request: pb.BatchUpdateUsersRequest, ctx: RequestContext
    ) -> pb.BatchUpdateUsersResponse:
        changes = map_items(request.requests, _changed)
        before = await self.users.lock_many(ctx.transaction, changes)
        rows = await self.users.update_many(ctx.transaction, changes, before)
        return await with_rows(pb.BatchUpdateUsersResponse(), "users", rows, user_to_proto)

    async def BatchDeleteUsers(
        self, request: pb.BatchDeleteUsersRequest, ctx: RequestContext
    ) -> pb.BatchDeleteUsersResponse:
        before = await self.users.lock_many(ctx.transaction, map_items(request.requests, Change.deletion))
        rows = await self.users.delete_many(ctx.transaction, before)
        return await with_rows(pb.BatchDeleteUsersResponse(), "users", rows, user_to_proto)

    async def SuspendUser(self, request: pb.SuspendUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self.users.move(ctx.transaction, request.id, "suspend", etag=request.etag))

    async def ActivateUser(self, request: pb.ActivateUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self.users.move(ctx.transaction, request.id, "activate", etag=request.etag))

    def WatchUsers(self, request: pb.WatchUsersRequest, ctx: StreamContext) -> AsyncIterator[pb.WatchUsersResponse]:
        return self.watch.follow(request, ctx)

    async def GetUserQuotas(self, request: pb.GetUserQuotasRequest, ctx: RequestContext) -> pb.GetUserQuotasResponse:
        return pb.GetUserQuotasResponse(quotas=await self.quotas.list(ctx.transaction))


def _created(request: pb.CreateUserRequest) -> dict[str, Any]:
    return {**user_from_proto(request.user), "state": State.ACTIVE}


def _changed(request: pb.UpdateUserRequest) -> Change:
    user = request.user
    fields = paths_to_write(user, request.update_mask, mutable=MUTABLE)
    return Change(user.id, user.etag, user_from_proto(user, fields))
