"""What the service knows of those who call: told to siblings, and counting for its own callers at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.authn import TRUST_DOMAIN, Principal, ServiceTokenSigner, channel_credentials
from api_common.authz import StoredUser, UsersService
from api_common.call import CallContext
from api_common.db import Database
from api_common.errors import DeadlineExceededError
from api_common.listing import PageTokens
from api_common.settings import DatabaseSettings
from api_common.siblings import Siblings
from api_common.telemetry import Metrics, Trace
from api_common.testing import NEVER, Caller, Identity, TestDatabase, TestService, refused, tls_of
from cryptography.fernet import Fernet
from google.protobuf.field_mask_pb2 import FieldMask
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from users_service.repository import UserRepository
from users_service.stored_users import StoredUsers

from services.users.tests.factories import create_account, create_user

UNTRACED = Trace("1" * 32, parent_id="", sampled=False)

if TYPE_CHECKING:
    from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode
RESOLVE = "/ameide.user.v1.DirectoryService/ResolvePrincipal"
LIST_USERS = "/ameide.user.v1.UserService/ListUsers"
LOCKED_OUT = StoredUser(is_active=False, roles=frozenset())


def active(*roles: str) -> StoredUser:
    return StoredUser(is_active=True, roles=frozenset(roles))


def acting(tenant_id: str, subject: str, *roles: str) -> Principal:
    return Principal(subject, tenant_id, frozenset(roles), expires_at=time.time() + 3600)


class Process:
    """A process of the mesh with a certificate of its own, that calls the users service."""

    def __init__(self, certificates: Path, name: str, address: str) -> None:
        self.tls = tls_of(certificates, name)
        self._address = address

    async def send(self, path: str, *metadata: tuple[str, str]) -> bytes:
        """Calls a method with an empty message."""
        async with grpc.aio.secure_channel(self._address, channel_credentials(self.tls)) as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            return await method(b"", metadata=metadata)

    def token(self, principal: Principal, path: str) -> tuple[str, str]:
        """Returns the metadata that holds an on-behalf-of token of this process."""
        signer = ServiceTokenSigner(self.tls.certificate_path.read_bytes(), self.tls.private_key_path.read_bytes())
        return ("authorization", f"Bearer {signer.token(principal, audience=f'{TRUST_DOMAIN}users', method=path)}")


@pytest.fixture
def process(certificates: Path, guarded_users: str) -> Callable[[str], Process]:
    return lambda name: Process(certificates, name, guarded_users)


@pytest.fixture
async def directory(certificates: Path, guarded_users: str) -> AsyncIterator[UsersService]:
    """The users service as `agents` asks it."""
    siblings = Siblings({"users": guarded_users}, tls_of(certificates, "agents"), Metrics(CollectorRegistry()))
    yield UsersService(siblings)
    await siblings.close()


async def ask(directory: UsersService, tenant_id: str, subject: str) -> StoredUser | None:
    """Asks what is stored of a user."""
    deadline = asyncio.get_running_loop().time() + 5
    return await directory.find(CallContext(acting(tenant_id, subject, "viewer"), NEVER, deadline, UNTRACED))


class TestResolvePrincipal:
    async def test_needs_a_token_beside_the_certificate(self, process: Callable[[str], Process]) -> None:
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await process("agents").send(RESOLVE)

    async def test_hides_other_tenants(
        self, users: UserServiceAsyncStub, admin: Caller, stranger: Caller, directory: UsersService
    ) -> None:
        theirs, _ = [await create_user(users, stranger, roles=["admin"]) for _ in range(2)]
        assert await ask(directory, stranger.tenant_id, theirs.id) == active("admin")
        assert await ask(directory, admin.tenant_id, theirs.id) is None
        await users.SuspendUser(pb.SuspendUserRequest(id=theirs.id), metadata=stranger.metadata)
        assert await ask(directory, admin.tenant_id, theirs.id) is None

    async def test_follows_roles_and_state(
        self, users: UserServiceAsyncStub, admin: Caller, directory: UsersService
    ) -> None:
        user = await create_user(users, admin, roles=["viewer"])

        async def standing() -> StoredUser | None:
            return await ask(directory, admin.tenant_id, user.id)

        assert await standing() == active("viewer")
        await give_roles(users, admin, user.id, "editor", "operator")
        assert await standing() == active("editor", "operator")
        await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
        assert await standing() == LOCKED_OUT
        await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        await give_roles(users, admin, user.id)
        assert await standing() == active()
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        assert await standing() == LOCKED_OUT
        await users.UndeleteUser(pb.UndeleteUserRequest(id=user.id), metadata=admin.metadata)
        assert await standing() == active()

    async def test_knows_nobody_else(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, directory: UsersService
    ) -> None:
        account = await create_account(accounts, admin)
        for subject in ("ada", "x" * 36, NEVER, account.id):
            assert await ask(directory, admin.tenant_id, subject) is None

    @pytest.mark.parametrize("role", ["admin", "service"])
    async def test_refuses_users_whatever_their_roles(
        self,
        process: Callable[[str], Process],
        users_service: TestService,
        identity: Identity,
        tenant_id: str,
        role: str,
    ) -> None:
        (own,) = identity.caller(tenant_id, role).metadata
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await process("edge").send(RESOLVE, own)
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await process("agents").send(RESOLVE, own)
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = users_service.channel.unary_unary(RESOLVE)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await method(b"", metadata=(own,))

    @pytest.mark.parametrize("name", ["edge", "users"])
    async def test_refuses_processes_that_need_not_know(
        self, process: Callable[[str], Process], tenant_id: str, name: str
    ) -> None:
        caller = process(name)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await caller.send(RESOLVE, caller.token(acting(tenant_id, NEVER, "service", "admin"), RESOLVE))

    @pytest.mark.parametrize("name", ["workflows", "agents", "ipas"])
    async def test_is_all_that_siblings_may_call(
        self, process: Callable[[str], Process], tenant_id: str, name: str
    ) -> None:
        sibling = process(name)
        await sibling.send(RESOLVE, sibling.token(acting(tenant_id, NEVER), RESOLVE))
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await sibling.send(LIST_USERS, sibling.token(acting(tenant_id, NEVER, "admin"), LIST_USERS))

    async def test_refuses_the_token_of_another_sibling_or_method(
        self, process: Callable[[str], Process], tenant_id: str
    ) -> None:
        agents, ipas = process("agents"), process("ipas")
        for token in (
            ipas.token(acting(tenant_id, NEVER), RESOLVE),
            agents.token(acting(tenant_id, NEVER), LIST_USERS),
        ):
            with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
                await agents.send(RESOLVE, token)


class TestOwnCallers:
    """In the process that made the change nobody waits for it."""

    async def test_have_the_roles_that_are_stored(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity
    ) -> None:
        await create_user(users, admin, roles=["admin"])
        user = await create_user(users, admin, roles=["viewer"])
        grace = identity.caller(admin.tenant_id, "admin", subject=user.id)
        assert (await users.GetMe(pb.GetMeRequest(), metadata=grace.metadata)).id == user.id
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await create_user(users, grace)
        await give_roles(users, admin, user.id, "admin")
        await create_user(users, grace)
        await give_roles(users, admin, user.id)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.GetMe(pb.GetMeRequest(), metadata=grace.metadata)

    async def test_are_locked_out_and_let_in_again(
        self, users: UserServiceAsyncStub, admin: Caller, identity: Identity
    ) -> None:
        user = await create_user(users, admin, roles=["viewer"])
        grace = identity.caller(admin.tenant_id, "admin", subject=user.id)

        async def is_let_in() -> None:
            assert (await users.GetMe(pb.GetMeRequest(), metadata=grace.metadata)).id == user.id

        await is_let_in()
        await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await is_let_in()
        await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        await is_let_in()
        await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await is_let_in()
        await users.UndeleteUser(pb.UndeleteUserRequest(id=user.id), metadata=admin.metadata)
        await is_let_in()

    async def test_are_found_in_batches(self, users: UserServiceAsyncStub, admin: Caller, identity: Identity) -> None:
        everybody = [await create_user(users, admin, roles=["viewer"]) for _ in range(2)]
        callers = [identity.caller(admin.tenant_id, "admin", subject=user.id) for user in everybody]
        for caller in callers:
            await users.GetMe(pb.GetMeRequest(), metadata=caller.metadata)
        requests = [pb.DeleteUserRequest(id=user.id) for user in everybody]
        await users.BatchDeleteUsers(pb.BatchDeleteUsersRequest(requests=requests), metadata=admin.metadata)
        for caller in callers:
            with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
                await users.GetMe(pb.GetMeRequest(), metadata=caller.metadata)

    async def test_of_another_tenant_with_the_same_id_are_others(
        self, users: UserServiceAsyncStub, admin: Caller, stranger: Caller, identity: Identity
    ) -> None:
        user = await create_user(users, stranger, roles=["viewer"])
        await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=stranger.metadata)
        namesake = identity.caller(admin.tenant_id, "admin", subject=user.id)
        await create_user(users, namesake)


async def test_a_database_that_keeps_silent_is_not_waited_for(users_database: TestDatabase, tenant_id: str) -> None:
    settings = DatabaseSettings(url=SecretStr(users_database.url), pool_size=1)
    database = await Database.connect(settings, application_name="test")
    stored = StoredUsers(UserRepository(PageTokens([Fernet.generate_key().decode()])), database)
    blocker = await asyncpg.connect(users_database.admin_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        ctx = CallContext(acting(tenant_id, NEVER), NEVER, asyncio.get_running_loop().time() + 0.2, UNTRACED)
        with pytest.raises(DeadlineExceededError):
            await asyncio.wait_for(stored.find(ctx), 10)
    await blocker.close()
    assert await stored.find(replace(ctx, deadline=ctx.deadline + 10)) is None
    await database.close()


async def test_a_changed_schema_is_noticed_and_no_more(
    users: UserServiceAsyncStub, admin: Caller, users_database: TestDatabase
) -> None:
    first, second = [(await create_user(users, admin, roles=["viewer"])).id for _ in range(2)]
    settings = DatabaseSettings(url=SecretStr(users_database.url), pool_size=1)
    database = await Database.connect(settings, application_name="test")
    stored = StoredUsers(UserRepository(PageTokens([Fernet.generate_key().decode()])), database)
    deadline = asyncio.get_running_loop().time() + 5

    async def find(subject: str) -> StoredUser | None:
        return await stored.find(CallContext(acting(admin.tenant_id, subject), NEVER, deadline, UNTRACED))

    assert await find(first) == active("viewer")
    owner = await asyncpg.connect(users_database.owner_url)
    # A trigger keeps the type of the column.
    trigger = await owner.fetchval("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'keep_last_admin'")
    await owner.execute('DROP TRIGGER keep_last_admin ON users; ALTER TABLE users ALTER roles TYPE text[] COLLATE "C"')
    try:
        assert await find(second) == active("viewer")
    finally:
        await owner.execute(f"ALTER TABLE users ALTER roles TYPE text[]; {trigger}")
        await owner.close()
        await database.close()


async def give_roles(users: UserServiceAsyncStub, admin: Caller, id: str, *roles: str) -> None:
    request = pb.UpdateUserRequest(user=pb.User(id=id, roles=roles), update_mask=FieldMask(paths=["roles"]))
    await users.UpdateUser(request, metadata=admin.metadata)
