"""A change of a stored user ends what existing tokens open in the other services, within half a minute."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from agents_service.service import SERVICE as AGENTS
from ameide.agent.v1 import agent_pb2
from ameide.agent.v1.agent_pb2_grpc import AgentServiceStub
from ameide.user.v1 import user_pb2
from api_common.authn import TRUST_DOMAIN, Principal, ServiceTokenSigner, channel_credentials
from api_common.authz import MAX_AGE_SECONDS, MAX_STALE_SECONDS, Directory, UsersService
from api_common.server import StartError
from api_common.siblings import Siblings
from api_common.telemetry import Metrics
from api_common.testing import Caller, Identity, TestDatabase, guarded_service, refused, settings_for, tls_of
from google.protobuf.field_mask_pb2 import FieldMask
from prometheus_client import CollectorRegistry
from users_service.service import SERVICE as USERS

from services.agents.tests.factories import create_agent
from services.users.tests.factories import create_user
from tools.topology import NAMED

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S: Final = grpc.StatusCode
LIST: Final = agent_pb2.ListAgentsRequest()


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class Guarded:
    """The agents service behind mutual TLS, that asks a users service by a clock which a test moves."""

    address: str
    clock: Clock
    certificates: Path

    @asynccontextmanager
    async def called_by(self, name: str) -> AsyncIterator[Any]:
        """Yields a stub of agents in the hands of the process ``name``."""
        credentials = channel_credentials(tls_of(self.certificates, name))
        async with grpc.aio.secure_channel(self.address, credentials) as channel:
            yield AgentServiceStub(channel)


Guarding = Callable[[str], Any]


@pytest.fixture
def guarding(agents_database: TestDatabase, identity: Identity, certificates: Path) -> Guarding:
    """Starts agents, which asks the users service at an address."""

    @asynccontextmanager
    async def start(users: str) -> AsyncIterator[Guarded]:
        tls, clock = tls_of(certificates, "agents"), Clock()
        siblings = Siblings({"users": users}, tls, Metrics(CollectorRegistry()))
        directory = Directory(UsersService(siblings), now=clock)
        async with guarded_service(
            AGENTS, settings_for(agents_database, identity, tls=tls), directory=directory
        ) as address:
            yield Guarded(address, clock, certificates)
        await siblings.close()

    return start


@pytest.fixture
async def guarded(guarding: Guarding, guarded_users: str) -> AsyncIterator[Guarded]:
    async with guarding(guarded_users) as result:
        yield result


@pytest.fixture
async def agents(guarded: Guarded) -> AsyncIterator[Any]:
    """What the edge calls."""
    async with guarded.called_by("edge") as stub:
        yield stub


async def a_bearer(
    users: UserServiceAsyncStub, admin: Caller, identity: Identity, *roles: str
) -> tuple[user_pb2.User, Caller]:
    """Returns a stored user with ``roles``, and its token, which says `admin`."""
    user = await create_user(users, admin, roles=roles)
    return user, identity.caller(admin.tenant_id, "admin", subject=user.id)


class TestExistingToken:
    async def test_loses_a_role_that_is_taken_away(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity, guarded: Guarded, agents: Any
    ) -> None:
        user, grace = await a_bearer(users, admin, identity, "editor")
        await create_agent(agents, grace)
        viewer = user_pb2.User(id=user.id, roles=["viewer"])
        await users.UpdateUser(
            user_pb2.UpdateUserRequest(user=viewer, update_mask=FieldMask(paths=["roles"])), metadata=admin.metadata
        )
        guarded.clock.seconds += MAX_AGE_SECONDS
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await create_agent(agents, grace)
        await agents.ListAgents(LIST, metadata=grace.metadata)

    async def test_never_had_a_role_that_only_the_token_names(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity, agents: Any
    ) -> None:
        _, grace = await a_bearer(users, admin, identity, "viewer")
        await agents.ListAgents(LIST, metadata=grace.metadata)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await create_agent(agents, grace)

    @pytest.mark.parametrize("verb", ["Suspend", "Delete"])
    async def test_dies_with_its_user_and_comes_back_with_it(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity, guarded: Guarded, agents: Any, verb: str
    ) -> None:
        user, grace = await a_bearer(users, admin, identity, "viewer")
        await agents.ListAgents(LIST, metadata=grace.metadata)

        async def do(verb: str) -> None:
            request = getattr(user_pb2, f"{verb}UserRequest")(id=user.id)
            await getattr(users, f"{verb}User")(request, metadata=admin.metadata)

        await do(verb)
        guarded.clock.seconds += MAX_AGE_SECONDS
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED") as dead:
            await agents.ListAgents(LIST, metadata=grace.metadata)
        signed = dict(grace.metadata)["authorization"].rpartition(".")[0]
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED") as forged:
            await agents.ListAgents(LIST, metadata=(("authorization", f"{signed}.{'A' * 342}"),))
        assert dead.payload == forged.payload
        await do({"Suspend": "Activate", "Delete": "Undelete"}[verb])
        guarded.clock.seconds += MAX_AGE_SECONDS
        await agents.ListAgents(LIST, metadata=grace.metadata)

    async def test_of_another_tenant_with_the_same_subject_is_anothers(
        self, users: UserServiceAsyncStub, admin: Caller, stranger: Caller, identity: Identity, agents: Any
    ) -> None:
        user, grace = await a_bearer(users, stranger, identity, "viewer")
        await users.SuspendUser(user_pb2.SuspendUserRequest(id=user.id), metadata=stranger.metadata)
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await agents.ListAgents(LIST, metadata=grace.metadata)
        await create_agent(agents, identity.caller(admin.tenant_id, "editor", subject=user.id))

    async def test_counts_no_more_when_a_sibling_acts_for_its_user(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity, guarded: Guarded
    ) -> None:
        """The sibling may have been told the roles half a minute before, or make them up."""
        user, _ = await a_bearer(users, admin, identity, "viewer")
        claimed = Principal(user.id, admin.tenant_id, frozenset({"admin"}), expires_at=time.time() + 3600)
        own = tls_of(guarded.certificates, "ipas")
        signer = ServiceTokenSigner(own.certificate_path.read_bytes(), own.private_key_path.read_bytes())

        def metadata(method: str) -> tuple[tuple[str, str], ...]:
            path = f"/ameide.agent.v1.AgentService/{method}"
            token = signer.token(claimed, audience=f"{TRUST_DOMAIN}agents", method=path)
            return (("authorization", f"Bearer {token}"),)

        async with guarded.called_by("ipas") as agents:
            await agents.ListAgents(LIST, metadata=metadata("ListAgents"))
            with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
                await agents.CreateAgent(agent_pb2.CreateAgentRequest(), metadata=metadata("CreateAgent"))


class TestOutage:
    async def test_leaves_who_is_known_for_five_minutes_and_lets_nobody_else_in(
        self,
        users: UserServiceAsyncStub,
        users_database: TestDatabase,
        admin: Caller,
        identity: Identity,
        guarding: Guarding,
        certificates: Path,
    ) -> None:
        _, grace = await a_bearer(users, admin, identity, "viewer")
        _, unknown = await a_bearer(users, admin, identity, "viewer")
        settings = settings_for(
            users_database, identity, tls=tls_of(certificates, "users"), internal_callers=NAMED["users"].callers
        )
        async with AsyncExitStack() as mortal:
            address = await mortal.enter_async_context(guarded_service(USERS, settings))
            async with guarding(address) as guarded, guarded.called_by("edge") as agents:
                await agents.ListAgents(LIST, metadata=grace.metadata)
                await mortal.aclose()
                guarded.clock.seconds += MAX_STALE_SECONDS - 1
                await agents.ListAgents(LIST, metadata=grace.metadata)
                with refused(S.UNAVAILABLE, "UNAVAILABLE"):
                    await agents.ListAgents(LIST, metadata=unknown.metadata)
                guarded.clock.seconds += 1
                with refused(S.UNAVAILABLE, "UNAVAILABLE"):
                    await agents.ListAgents(LIST, metadata=grace.metadata)
                # Whom the users service does not store needs it for nothing.
                await agents.ListAgents(LIST, metadata=admin.metadata)


async def test_a_service_that_can_ask_nobody_does_not_start(
    agents_database: TestDatabase, identity: Identity, certificates: Path
) -> None:
    settings = settings_for(
        agents_database, identity, tls=tls_of(certificates, "agents"), internal_callers=NAMED["agents"].callers
    )
    with pytest.raises(StartError, match="name it among the siblings"):
        async with guarded_service(AGENTS, settings):
            pytest.fail("it serves")
