"""The RPC of DirectoryService."""

from dataclasses import dataclass

from ameide.user.v1 import directory_pb2 as pb
from api_common.call import RequestContext

from users_service.repository import UserRepository


@dataclass(frozen=True, slots=True)
class DirectoryServicer:
    """Answers siblings about the users for whom they act."""

    users: UserRepository

    async def ResolvePrincipal(
        self, request: pb.ResolvePrincipalRequest, ctx: RequestContext
    ) -> pb.ResolvePrincipalResponse:
        user = await self.users.find_standing(ctx.transaction, ctx.principal.subject)
        if user is None:
            return pb.ResolvePrincipalResponse(standing=pb.ResolvePrincipalResponse.UNKNOWN)
        if not user.is_active:
            return pb.ResolvePrincipalResponse(standing=pb.ResolvePrincipalResponse.LOCKED_OUT)
        return pb.ResolvePrincipalResponse(standing=pb.ResolvePrincipalResponse.ACTIVE, roles=sorted(user.roles))
