"""The RPCs of UserService, in the order of the proto."""

from ameide.user.v1 import user_pb2 as pb
from api_common.context import RequestContext
from api_common.field_mask import paths_to_write

from users_service.domain import State
from users_service.mapping import MUTABLE, user_from_proto, user_to_proto
from users_service.repository import UserRepository


class UserServicer:
    """People of a tenant and their roles."""

    def __init__(self, users: UserRepository) -> None:
        self._users = users

    async def CreateUser(self, request: pb.CreateUserRequest, ctx: RequestContext) -> pb.User:
        values = {**user_from_proto(request.user), "state": State.ACTIVE}
        return user_to_proto(await self._users.insert(ctx.transaction, values, created_by=ctx.principal.subject))

    async def GetUser(self, request: pb.GetUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self._users.get(ctx.transaction, request.id))

    async def GetMe(self, request: pb.GetMeRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self._users.find_principal(ctx.transaction, ctx.principal))

    async def ListUsers(self, request: pb.ListUsersRequest, ctx: RequestContext) -> pb.ListUsersResponse:
        page = await self._users.page(ctx.transaction, request, method="ListUsers")
        return pb.ListUsersResponse(users=map(user_to_proto, page.rows), next_page_token=page.next_page_token)

    async def UpdateUser(self, request: pb.UpdateUserRequest, ctx: RequestContext) -> pb.User:
        user = request.user
        fields = paths_to_write(user, request.update_mask, mutable=MUTABLE)
        values = user_from_proto(user, fields)
        return user_to_proto(await self._users.update(ctx.transaction, user.id, values, etag=user.etag))

    async def DeleteUser(self, request: pb.DeleteUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self._users.delete(ctx.transaction, request.id, etag=request.etag))

    async def UndeleteUser(self, request: pb.UndeleteUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self._users.undelete(ctx.transaction, request.id, etag=request.etag))

    async def SuspendUser(self, request: pb.SuspendUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self._users.move(ctx.transaction, request.id, "suspend", etag=request.etag))

    async def ActivateUser(self, request: pb.ActivateUserRequest, ctx: RequestContext) -> pb.User:
        return user_to_proto(await self._users.move(ctx.transaction, request.id, "activate", etag=request.etag))
