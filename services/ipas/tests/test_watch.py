"""Watching IPAs; what all watches share is tested in services/users/tests/test_watch.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.testing import Caller

from services.ipas.tests.factories import an_ipa
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub

S = grpc.StatusCode


class TestWatchIpas:
    async def test_tells_what_happens_as_the_other_methods_would(
        self, ipas: IpaServiceAsyncStub, admin: Caller
    ) -> None:
        before = await ipas.CreateIpa(pb.CreateIpaRequest(ipa=an_ipa(labels={"team": "a"})), metadata=admin.metadata)
        request = pb.WatchIpasRequest(initial_state=True, filter='labels.team = "a"')
        async with watching(ipas.WatchIpas, request, admin) as watch:
            assert await watch.change() == ("created", before)
            await watch.until("bookmark")
            changed = pb.Ipa(id=before.id, display_name="Other")
            updated = await ipas.UpdateIpa(pb.UpdateIpaRequest(ipa=changed), metadata=admin.metadata)
            assert await watch.change() == ("updated", updated)
            deleted = await ipas.DeleteIpa(pb.DeleteIpaRequest(id=before.id), metadata=admin.metadata)
            assert await watch.change() == ("deleted", deleted)
