"""Deleting and restoring an IPA through a real stub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.testing import Caller, TestDatabase, refused

from services.ipas.tests.factories import (
    create_ipa,
    put_into_state,
)
from services.ipas.tests.test_servicer import a_struct

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub

S = grpc.StatusCode


class TestDeleteIpa:
    async def test_is_not_found_the_second_time(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        await ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id), metadata=admin.metadata)
        for call in (
            ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id), metadata=admin.metadata),
            ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, display_name="x")), metadata=admin.metadata),
            ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, workflow_revision=1)), metadata=admin.metadata),
        ):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await call

    async def test_keeps_an_ipa_that_has_changed(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id, etag='"9"'), metadata=admin.metadata)
        await ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id, etag=ipa.etag), metadata=admin.metadata)

    async def test_keeps_an_ipa_that_is_at_work(
        self, ipas: IpaServiceAsyncStub, ipas_database: TestDatabase, admin: Caller
    ) -> None:
        ipa = await create_ipa(ipas, admin)
        for state in ("DEPLOYING", "DEPLOYED"):
            await put_into_state(ipas_database, ipa, state)
            with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
                await ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id), metadata=admin.metadata)
            assert (refusal.metadata["verb"], refusal.metadata["state"]) == ("delete", state)
        for state in ("FAILED", "RETIRED"):
            other = await create_ipa(ipas, admin)
            await put_into_state(ipas_database, other, state)
            deleted = await ipas.DeleteIpa(pb.DeleteIpaRequest(id=other.id), metadata=admin.metadata)
            assert deleted.HasField("delete_time")


class TestUndeleteIpa:
    async def test_restores_a_deleted_ipa_as_it_was(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin, labels={"a": "1"}, variables=a_struct(a=1))
        await ipas.DeleteIpa(pb.DeleteIpaRequest(id=ipa.id), metadata=admin.metadata)
        restored = await ipas.UndeleteIpa(pb.UndeleteIpaRequest(id=ipa.id), metadata=admin.metadata)
        assert not restored.HasField("delete_time")
        assert (restored.state, dict(restored.labels), restored.variables) == (
            pb.Ipa.DRAFT,
            {"a": "1"},
            a_struct(a=1),
        )

    async def test_refuses_a_live_ipa(self, ipas: IpaServiceAsyncStub, admin: Caller) -> None:
        ipa = await create_ipa(ipas, admin)
        with refused(S.ALREADY_EXISTS, "NOT_DELETED"):
            await ipas.UndeleteIpa(pb.UndeleteIpaRequest(id=ipa.id), metadata=admin.metadata)
