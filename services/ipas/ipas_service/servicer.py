"""The RPCs of IpaService, in the order of the proto."""

from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.context import RequestContext
from api_common.field_mask import paths_to_write

from ipas_service.domain import DEPLOYED_FIELDS, State, require_changeable, require_deletable
from ipas_service.mapping import MUTABLE, changed_fields, ipa_from_proto, ipa_to_proto
from ipas_service.operations import Composition
from ipas_service.repository import IpaRepository


class IpaServicer:
    """Workflows bound to agents."""

    def __init__(self, ipas: IpaRepository, composition: Composition) -> None:
        self._ipas = ipas
        self._composition = composition

    async def CreateIpa(self, request: pb.CreateIpaRequest, ctx: RequestContext) -> pb.Ipa:
        values = {**ipa_from_proto(request.ipa), "state": State.DRAFT}
        await self._composition.validate(ctx, values, changed=MUTABLE)
        return ipa_to_proto(await self._ipas.insert(ctx.transaction, values, created_by=ctx.principal.subject))

    async def GetIpa(self, request: pb.GetIpaRequest, ctx: RequestContext) -> pb.Ipa:
        return ipa_to_proto(await self._ipas.get(ctx.transaction, request.id))

    async def ListIpas(self, request: pb.ListIpasRequest, ctx: RequestContext) -> pb.ListIpasResponse:
        page = await self._ipas.page(ctx.transaction, request, method="ListIpas")
        return pb.ListIpasResponse(ipas=map(ipa_to_proto, page.rows), next_page_token=page.next_page_token)

    async def UpdateIpa(self, request: pb.UpdateIpaRequest, ctx: RequestContext) -> pb.Ipa:
        ipa = request.ipa
        values = ipa_from_proto(ipa, paths_to_write(ipa, request.update_mask, mutable=MUTABLE))
        if not DEPLOYED_FIELDS.isdisjoint(values):
            row = await self._ipas.lock(ctx.transaction, ipa.id, etag=ipa.etag)
            changed = changed_fields(row, values)
            require_changeable(row["state"], changed)
            await self._composition.validate(ctx, {**row, **values}, changed=changed)
        return ipa_to_proto(await self._ipas.update(ctx.transaction, ipa.id, values, etag=ipa.etag))

    async def DeleteIpa(self, request: pb.DeleteIpaRequest, ctx: RequestContext) -> pb.Ipa:
        row = await self._ipas.lock(ctx.transaction, request.id, etag=request.etag)
        require_deletable(row["state"])
        return ipa_to_proto(await self._ipas.delete(ctx.transaction, request.id))

    async def UndeleteIpa(self, request: pb.UndeleteIpaRequest, ctx: RequestContext) -> pb.Ipa:
        return ipa_to_proto(await self._ipas.undelete(ctx.transaction, request.id, etag=request.etag))
