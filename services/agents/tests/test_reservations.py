"""What somebody needs stays: reserved once, released once, and never by a worker that was replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest
import uuid_utils
from ameide.agent.v1 import agent_pb2
from ameide.agent.v1 import reservation_pb2 as pb
from ameide.common.v1.reservation_pb2 import Holder
from api_common.testing import NEVER, Caller, Identity, refused

from services.agents.tests.factories import create_agent
from tests.calling_process import CallingProcess

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub

S = grpc.StatusCode
SERVICE = "/ameide.agent.v1.ReservationService"
Process = Callable[[str], CallingProcess]


def a_holder(token: int = 5, *, id: str = "") -> Holder:
    return Holder(id=id or str(uuid_utils.uuid7()), name="ipas/1/deployments/2", fencing_token=token)


def again(holder: Holder, token: int) -> Holder:
    return a_holder(token, id=holder.id)


async def reserve(process: Process, tenant: str, holder: Holder, *ids: str, name: str = "ipas") -> None:
    request = pb.ReserveAgentsRequest(holder=holder, ids=ids)
    await process(name).call(f"{SERVICE}/ReserveAgents", request, pb.ReserveAgentsResponse, tenant_id=tenant)


async def release(process: Process, tenant: str, holder: Holder, *, name: str = "ipas") -> None:
    request = pb.ReleaseAgentsRequest(holder=holder)
    await process(name).call(f"{SERVICE}/ReleaseAgents", request, pb.ReleaseAgentsResponse, tenant_id=tenant)


async def at_work(agents: AgentServiceAsyncStub, caller: Caller) -> str:
    """Returns the id of an agent that is ACTIVE."""
    agent = await create_agent(agents, caller)
    await agents.ActivateAgent(agent_pb2.ActivateAgentRequest(id=agent.id), metadata=caller.metadata)
    return agent.id


async def is_held(agents: AgentServiceAsyncStub, caller: Caller, id: str) -> bool:
    """Tells whether an agent is kept at work; one that is not stops here."""
    try:
        await agents.DisableAgent(agent_pb2.DisableAgentRequest(id=id), metadata=caller.metadata)
    except grpc.aio.AioRpcError as error:
        return ("error-type", "STILL_REFERENCED") in tuple(error.trailing_metadata() or ())
    return False


class TestReserveAgents:
    async def test_hides_other_tenants(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller, stranger: Caller
    ) -> None:
        id = await at_work(agents, admin)
        for unknown in (id, NEVER):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND") as refusal:
                await reserve(process, stranger.tenant_id, a_holder(), unknown)
            assert set(refusal.violations) == {"ids[0]"}
        assert not await is_held(agents, admin, id)

    @pytest.mark.parametrize("name", ["edge", "users", "workflows", "agents"])
    async def test_is_for_ipas_only(self, process: Process, tenant_id: str, name: str) -> None:
        for call in (reserve, release):
            with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
                await call(process, tenant_id, a_holder(), name=name)

    @pytest.mark.parametrize("role", ["admin", "service"])
    async def test_refuses_users_whatever_their_roles(
        self, agents_service: object, identity: Identity, tenant_id: str, role: str, agents: AgentServiceAsyncStub
    ) -> None:
        channel: grpc.aio.Channel = agents_service.channel  # type: ignore[attr-defined]
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{SERVICE}/ReserveAgents")
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await method(b"", metadata=identity.caller(tenant_id, role).metadata)

    async def test_is_all_or_nothing_and_says_which(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        ready, idle = await at_work(agents, admin), (await create_agent(agents, admin)).id
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE") as refusal:
            await reserve(process, admin.tenant_id, a_holder(), ready, idle)
        assert refusal.violations == {"ids[1]": "is DRAFT and must be ACTIVE"}
        await agents.DeleteAgent(agent_pb2.DeleteAgentRequest(id=idle), metadata=admin.metadata)
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND") as refusal:
            await reserve(process, admin.tenant_id, a_holder(), ready, idle)
        assert set(refusal.violations) == {"ids[1]"}
        assert not await is_held(agents, admin, ready)

    async def test_twice_for_one_holder_is_once(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        id, holder = await at_work(agents, admin), a_holder()
        await reserve(process, admin.tenant_id, holder, id)
        await reserve(process, admin.tenant_id, again(holder, 6), id)
        assert await is_held(agents, admin, id)
        await release(process, admin.tenant_id, again(holder, 6))
        assert not await is_held(agents, admin, id)

    async def test_holds_until_the_last_holder_has_released(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        id, holders = await at_work(agents, admin), [a_holder() for _ in range(3)]
        for holder in holders:
            await reserve(process, admin.tenant_id, holder, id)
        for holder in holders:
            assert await is_held(agents, admin, id)
            await release(process, admin.tenant_id, holder)
        assert not await is_held(agents, admin, id)

    async def test_by_a_worker_that_was_replaced_comes_to_nothing(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        id, other, holder = await at_work(agents, admin), await at_work(agents, admin), a_holder(7)
        await reserve(process, admin.tenant_id, holder, id)
        for late in (
            reserve(process, admin.tenant_id, again(holder, 6), other),
            release(process, admin.tenant_id, again(holder, 6)),
        ):
            with refused(S.ABORTED, "CONCURRENT_UPDATE"):
                await late
        assert await is_held(agents, admin, id)
        assert not await is_held(agents, admin, other)

    async def test_races_with_disabling_and_one_of_them_wins(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        for _ in range(10):
            id = await at_work(agents, admin)
            reserving, disabling = await asyncio.gather(
                reserve(process, admin.tenant_id, a_holder(), id),
                agents.DisableAgent(agent_pb2.DisableAgentRequest(id=id), metadata=admin.metadata),
                return_exceptions=True,
            )
            assert (reserving is None) == isinstance(disabling, BaseException)


class TestReleaseAgents:
    async def test_hides_other_tenants(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller, stranger: Caller
    ) -> None:
        """Another tenant's holder with the same id is another one."""
        id, holder = await at_work(agents, admin), a_holder()
        await reserve(process, admin.tenant_id, holder, id)
        await release(process, stranger.tenant_id, again(holder, 9))
        assert await is_held(agents, admin, id)

    async def test_before_it_was_reserved_keeps_it_from_being_reserved(
        self, process: Process, agents: AgentServiceAsyncStub, admin: Caller
    ) -> None:
        """A step that timed out and arrives after its compensation has no effect."""
        id, holder = await at_work(agents, admin), a_holder()
        for _ in range(2):
            await release(process, admin.tenant_id, holder)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await reserve(process, admin.tenant_id, again(holder, 8), id)
        assert not await is_held(agents, admin, id)
