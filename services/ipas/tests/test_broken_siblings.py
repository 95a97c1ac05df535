"""A broken sibling fails its own calls and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.ipa.v1 import ipa_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.testing import NEVER, Caller, Identity, TestDatabase, refused

from services.ipas.tests.factories import an_ipa
from services.ipas.tests.stand_ins import POOL_SIZE, SECRET, ipas_beside, standing_in

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub

    Transport = grpc.aio.ServicerContext[bytes, bytes]
    Answer = Callable[[bytes, Transport], Awaitable[bytes]]

S = grpc.StatusCode

PATIENCE = 30
"""Seconds: a call that hangs fails its test before the test's own time-out, and says which call it was."""


class TestBrokenSibling:
    """It breaks the call that needs it, within the caller's deadline, and nothing else."""

    @pytest.fixture
    def ipa(self) -> pb.Ipa:
        return an_ipa(workflow_id=NEVER)

    async def test_that_is_away_is_unavailable(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller, ipa: pb.Ipa
    ) -> None:
        async with talking(b"") as address:
            pass
        async with ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas:
            with refused(S.UNAVAILABLE, "UNAVAILABLE") as refusal:
                await ipas.CreateIpa(pb.CreateIpaRequest(ipa=ipa), metadata=admin.metadata, timeout=5)
            await assert_unharmed(ipas, admin)
        assert address.encode() not in refusal.payload

    async def test_that_talks_rubbish_is_unavailable(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller, ipa: pb.Ipa
    ) -> None:
        async with (
            talking(b"HTTP/1.1 500 Oops\r\n\r\n" + SECRET.encode()) as address,
            ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas,
        ):
            with refused(S.UNAVAILABLE, "UNAVAILABLE") as refusal:
                await ipas.CreateIpa(pb.CreateIpaRequest(ipa=ipa), metadata=admin.metadata, timeout=5)
            await assert_unharmed(ipas, admin)
        assert SECRET.encode() not in refusal.payload

    @pytest.mark.parametrize("code", [S.UNKNOWN, S.INVALID_ARGUMENT, S.UNIMPLEMENTED, S.INTERNAL, S.DATA_LOSS])
    async def test_that_refuses_what_is_right_is_a_defect_of_ours(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller, ipa: pb.Ipa, code: grpc.StatusCode
    ) -> None:
        async def refuse(_: bytes, transport: Transport) -> bytes:
            await transport.abort(code, SECRET)

        async with (
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=refuse) as address,
            ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas,
        ):
            with refused(S.INTERNAL, "INTERNAL") as refusal:
                await ipas.CreateIpa(pb.CreateIpaRequest(ipa=ipa), metadata=admin.metadata, timeout=PATIENCE)
            await assert_unharmed(ipas, admin)
        assert SECRET.encode() not in refusal.payload

    async def test_that_answers_bytes_of_no_message_is_a_defect_of_ours(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller, ipa: pb.Ipa
    ) -> None:
        async def answer(_: bytes, __: Transport) -> bytes:
            return b"\xff" * 9

        async with (
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=answer) as address,
            ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas,
        ):
            with refused(S.INTERNAL, "INTERNAL"):
                await ipas.CreateIpa(pb.CreateIpaRequest(ipa=ipa), metadata=admin.metadata, timeout=PATIENCE)
            await assert_unharmed(ipas, admin)

    async def test_that_is_slow_holds_nobody_beyond_the_deadline(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller, ipa: pb.Ipa
    ) -> None:
        stopped = asyncio.Semaphore(0)

        async def dawdle(_: bytes, __: Transport) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.release()
            return b""

        async with (
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=dawdle) as address,
            ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas,
        ):
            request = pb.CreateIpaRequest(ipa=ipa)
            calls = (ipas.CreateIpa(request, metadata=admin.metadata, timeout=0.5) for _ in range(POOL_SIZE))
            async with asyncio.timeout(10):
                for failure in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(failure, grpc.aio.AioRpcError)
                    assert failure.code() == S.DEADLINE_EXCEEDED
                for _ in range(POOL_SIZE):
                    await stopped.acquire()
            await assert_unharmed(ipas, admin)


class TestSlowSibling:
    """It holds no connection to the database, whatever the call that waits for it has read, locked or claimed."""

    CALLERS = 30

    async def test_lets_others_work_meanwhile(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller, stranger: Caller
    ) -> None:
        asked, answer = asyncio.Semaphore(0), asyncio.Event()

        async def dawdle(_: bytes, __: Transport) -> bytes:
            asked.release()
            await answer.wait()
            return b""

        def keyed(number: int) -> tuple[tuple[str, str], ...]:
            return (*admin.metadata, ("idempotency-key", f"slow-{number}"))

        async with (
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=dawdle) as address,
            ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas,
        ):
            stored = [
                await ipas.CreateIpa(pb.CreateIpaRequest(ipa=an_ipa()), metadata=admin.metadata, timeout=PATIENCE)
                for _ in "ab"
            ]
            create = pb.CreateIpaRequest(ipa=an_ipa(workflow_id=NEVER))
            changes = [pb.UpdateIpaRequest(ipa=pb.Ipa(id=one.id, workflow_id=NEVER)) for one in stored]
            calls: list[Awaitable[object]] = [
                *(ipas.CreateIpa(create, metadata=keyed(number), timeout=PATIENCE) for number in range(self.CALLERS)),
                *(ipas.UpdateIpa(change, metadata=admin.metadata, timeout=PATIENCE) for change in changes),
                ipas.BatchUpdateIpas(
                    pb.BatchUpdateIpasRequest(requests=changes), metadata=keyed(self.CALLERS), timeout=PATIENCE
                ),
            ]
            tasks = [asyncio.ensure_future(reason_of(call)) for call in calls]
            async with asyncio.timeout(3):
                for _ in tasks:
                    await asked.acquire()
                await assert_unharmed(ipas, stranger)
            answer.set()
            assert set(await asyncio.gather(*tasks)) == {"WORKFLOW_NOT_FOUND"}

    async def test_does_not_turn_one_key_into_two_effects(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        both = asyncio.Barrier(2)

        async def find(_: bytes, __: Transport) -> bytes:
            await both.wait()
            found = workflow_pb2.Workflow(id=NEVER)
            return workflow_pb2.BatchGetWorkflowsResponse(workflows=[found]).SerializeToString()

        async with (
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=find) as address,
            ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas,
        ):
            create = pb.CreateIpaRequest(ipa=an_ipa(workflow_id=NEVER))
            metadata = (*admin.metadata, ("idempotency-key", "one"))
            made = await asyncio.gather(
                *(ipas.CreateIpa(create, metadata=metadata, timeout=PATIENCE) for _ in range(2))
            )
            assert made[0] == made[1] == await ipas.CreateIpa(create, metadata=metadata, timeout=PATIENCE)
            page = await ipas.ListIpas(pb.ListIpasRequest(), metadata=admin.metadata, timeout=PATIENCE)
            assert list(page.ipas) == [made[0]]

    async def test_checks_again_what_changed_meanwhile(
        self, ipas_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        asked: list[str] = []
        other = "01900000-0000-7000-8000-000000000001"

        async def find(payload: bytes, _: Transport) -> bytes:
            ids = workflow_pb2.BatchGetWorkflowsRequest.FromString(payload).ids
            asked.extend(ids)
            if len(asked) == 1:
                change = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, workflow_id=other))
                await ipas.UpdateIpa(change, metadata=admin.metadata, timeout=PATIENCE)
            found = [workflow_pb2.Workflow(id=id) for id in ids]
            return workflow_pb2.BatchGetWorkflowsResponse(workflows=found).SerializeToString()

        async with (
            standing_in("ameide.workflow.v1.WorkflowService", BatchGetWorkflows=find) as address,
            ipas_beside(ipas_database, identity, workflows=address, agents=address) as ipas,
        ):
            ipa = await ipas.CreateIpa(pb.CreateIpaRequest(ipa=an_ipa()), metadata=admin.metadata, timeout=PATIENCE)
            change = pb.UpdateIpaRequest(ipa=pb.Ipa(id=ipa.id, workflow_id=NEVER))
            changed = await ipas.UpdateIpa(change, metadata=admin.metadata, timeout=PATIENCE)
            assert (changed.workflow_id, asked) == (NEVER, [NEVER, other, NEVER])


async def reason_of(call: Awaitable[object]) -> str:
    """Returns why a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return str(dict(tuple(caught.value.trailing_metadata() or ()))["error-type"])


async def assert_unharmed(ipas: IpaServiceAsyncStub, caller: Caller) -> None:
    """Nothing was stored, and as many calls as there are connections are served at once."""
    calls = (ipas.ListIpas(pb.ListIpasRequest(), metadata=caller.metadata, timeout=5) for _ in range(POOL_SIZE))
    for page in await asyncio.gather(*calls):
        assert not page.ipas


@asynccontextmanager
async def talking(text: bytes) -> AsyncIterator[str]:
    """Yields the address of a server that sends ``text`` to every connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
