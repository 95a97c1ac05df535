"""The RPCs of IpaService, in the order of the proto."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.call import RequestContext, StreamContext
from api_common.contract import paths_to_write
from api_common.db import Row
from api_common.resources import Change, Quotas, list_response, map_items, with_rows
from api_common.watch import Watch

from ipas_service.deployments import Deployments
from ipas_service.domain import DEPLOYED_FIELDS, LIFECYCLE, State, require_changeable
from ipas_service.mapping import MUTABLE, changed_fields, deployment_to_proto, ipa_from_proto, ipa_to_proto
from ipas_service.operations import Choice, Composition, lock_checked, visit_one
from ipas_service.repository import COLUMNS, DeploymentRepository, IpaRepository


@dataclass(frozen=True, slots=True)
class IpaServicer:
    """Workflows bound to agents."""

    ipas: IpaRepository
    composition: Composition
    stored_deployments: DeploymentRepository
    deployments: Deployments
    watch: Watch[pb.WatchIpasResponse]
    watch_deployments: Watch[pb.WatchDeploymentsResponse]
    quotas: Quotas

    async def CreateIpa(self, request: pb.CreateIpaRequest, ctx: RequestContext) -> pb.Ipa:
        values = _created(request)
        await self.composition.validate(ctx, [Choice(values, MUTABLE)], visit=visit_one)
        return ipa_to_proto(await self.ipas.insert(ctx.transaction, values, created_by=ctx.principal.subject))

    async def GetIpa(self, request: pb.GetIpaRequest, ctx: RequestContext) -> pb.Ipa:
        return ipa_to_proto(await self.ipas.get(ctx.transaction, request.id))

    async def ListIpas(self, request: pb.ListIpasRequest, ctx: RequestContext) -> pb.ListIpasResponse:
        page = await self.ipas.page(ctx.transaction, request, method="ListIpas")
        return await list_response(pb.ListIpasResponse, "ipas", page, ipa_to_proto)

    async def UpdateIpa(self, request: pb.UpdateIpaRequest, ctx: RequestContext) -> pb.Ipa:
        change = _changed(request)
        if not DEPLOYED_FIELDS.isdisjoint(change.values):

            async def lock() -> Sequence[Row]:
                return [await self.ipas.lock(ctx.transaction, change.id, etag=change.etag)]

            async def check(rows: Sequence[Row]) -> None:
                await self.composition.validate(ctx, [_choice((rows[0], change))], visit=visit_one)

            await lock_checked(ctx, lock, check)
        return ipa_to_proto(await self.ipas.update(ctx.transaction, change.id, change.values, etag=change.etag))

    async def DeleteIpa(self, request: pb.DeleteIpaRequest, ctx: RequestContext) -> pb.Ipa:
        row = await self.ipas.lock(ctx.transaction, request.id, etag=request.etag)
        LIFECYCLE.apply("delete", row["state"])
        return ipa_to_proto(await self.ipas.delete(ctx.transaction, request.id))

    async def UndeleteIpa(self, request: pb.UndeleteIpaRequest, ctx: RequestContext) -> pb.Ipa:
        return ipa_to_proto(await self.ipas.undelete(ctx.transaction, request.id, etag=request.etag))

    async def BatchGetIpas(self, request: pb.BatchGetIpasRequest, ctx: RequestContext) -> pb.BatchGetIpasResponse:
        rows = await self.ipas.get_many(ctx.transaction, request.ids)
        return await with_rows(pb.BatchGetIpasResponse(), "ipas", rows, ipa_to_proto)

    async def BatchCreateIpas(
        self, request: pb.BatchCreateIpasRequest, ctx: RequestContext
    ) -> pb.BatchCreateIpasResponse:
        items = map_items(request.requests, _created)
        await self.composition.validate(ctx, [Choice(values, MUTABLE) for values in items])
        rows = await self.ipas.insert_many(ctx.transaction, items, created_by=ctx.principal.subject)
        return await with_rows(pb.BatchCreateIpasResponse(), "ipas", rows, ipa_to_proto)

    async def BatchUpdateIpas(
        self, request: pb.BatchUpdateIpasRequest, ctx: RequestContext
    ) -> pb.BatchUpdateIpasResponse:
        changes = map_items(request.requests, _changed)

        async def lock() -> Sequence[Row]:
            return await self.ipas.lock_many(ctx.transaction, changes, reading=COLUMNS)

        async def check(rows: Sequence[Row]) -> None:
            await self.composition.validate(ctx, map_items(zip(rows, changes, strict=True), _choice))

        before = await lock_checked(ctx, lock, check)
        rows = await self.ipas.update_many(ctx.transaction, changes, before)
        return await with_rows(pb.BatchUpdateIpasResponse(), "ipas", rows, ipa_to_proto)

    async def BatchDeleteIpas(
        self, request: pb.BatchDeleteIpasRequest, ctx: RequestContext
    ) -> pb.BatchDeleteIpasResponse:
        before = await self.ipas.lock_many(
            ctx.transaction, map_items(request.requests, Change.deletion), reading=("state",)
        )
        map_items([row["state"] for row in before], partial(LIFECYCLE.apply, "delete"))
        rows = await self.ipas.delete_many(ctx.transaction, before)
        return await with_rows(pb.BatchDeleteIpasResponse(), "ipas", rows, ipa_to_proto)

    async def DeployIpa(self, request: pb.DeployIpaRequest, ctx: RequestContext) -> pb.Deployment:
        return deployment_to_proto(await self.deployments.deploy(ctx, request.id, etag=request.etag))

    async def RetireIpa(self, request: pb.RetireIpaRequest, ctx: RequestContext) -> pb.Deployment:
        return deployment_to_proto(await self.deployments.retire(ctx, request.id, etag=request.etag))

    async def GetDeployment(self, request: pb.GetDeploymentRequest, ctx: RequestContext) -> pb.Deployment:
        return deployment_to_proto(await self.stored_deployments.get(ctx.transaction, request.ipa_id, request.id))

    async def ListDeployments(
        self, request: pb.ListDeploymentsRequest, ctx: RequestContext
    ) -> pb.ListDeploymentsResponse:
        ipa = await self.ipas.get(ctx.transaction, request.ipa_id)
        page = await self.stored_deployments.page(ctx.transaction, ipa["id"], request, method="ListDeployments")
        return await list_response(pb.ListDeploymentsResponse, "deployments", page, deployment_to_proto)

    async def ResumeDeployment(self, request: pb.ResumeDeploymentRequest, ctx: RequestContext) -> pb.Deployment:
        return deployment_to_proto(await self.deployments.resume(ctx.transaction, request.ipa_id, request.id))

    def WatchIpas(self, request: pb.WatchIpasRequest, ctx: StreamContext) -> AsyncIterator[pb.WatchIpasResponse]:
        return self.watch.follow(request, ctx)

    def WatchDeployments(
        self, request: pb.WatchDeploymentsRequest, ctx: StreamContext
    ) -> AsyncIterator[pb.WatchDeploymentsResponse]:
        ipa = partial(self.ipas.get, id=request.ipa_id)
        return self.watch_deployments.follow(request, ctx, within=f"ipa_id = {request.ipa_id}", parent=ipa)

    async def GetIpaQuotas(self, request: pb.GetIpaQuotasRequest, ctx: RequestContext) -> pb.GetIpaQuotasResponse:
        return pb.GetIpaQuotasResponse(quotas=await self.quotas.list(ctx.transaction))


def _created(request: pb.CreateIpaRequest) -> dict[str, Any]:
    return {**ipa_from_proto(request.ipa), "state": State.DRAFT}


def _changed(request: pb.UpdateIpaRequest) -> Change:
    ipa = request.ipa
    values = ipa_from_proto(ipa, paths_to_write(ipa, request.update_mask, mutable=MUTABLE))
    return Change(ipa.id, ipa.etag, values)


def _choice(item: tuple[Row, Change]) -> Choice:
    row, change = item
    changed = changed_fields(row, change.values)
    require_changeable(row["state"], changed)
    return Choice({**row, **change.values}, changed)
