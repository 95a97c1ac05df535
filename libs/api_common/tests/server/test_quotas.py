"""A tenant stores no more than its quota; its writes do not wait for each other, and other tenants notice nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import grpc
import pytest
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db import Database
from api_common.errors import QuotaExceededError
from api_common.server.retention import measure_quotas
from api_common.settings import DatabaseSettings, QuotaSettings
from api_common.telemetry import Metrics
from api_common.testing import Caller, Identity, TestDatabase, refused, running_service, settings_for
from prometheus_client import CollectorRegistry
from pydantic import SecretStr, ValidationError

from libs.api_common.tests.example.service import SERVICE, a_user, create_user
from libs.api_common.tests.units import insert, unit

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

QUOTA: Final = QuotaSettings(limit=10, limits=("t-more/users=1000", "t-much/users=1000", "t-none/users=0"))
EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED
WALK: Final = 200


@pytest.fixture(scope="module")
async def users(users_database: TestDatabase, identity: Identity) -> AsyncIterator[UserServiceAsyncStub]:
    settings = settings_for(users_database, identity)
    # The tenant's share of connections must not be what holds it back.
    many = DatabaseSettings(url=settings.database.url, pool_size=20, tenant_connections=20, acquire_timeout_seconds=10)
    settings = replace(settings, database=many, quota=QUOTA)
    async with running_service(SERVICE, settings) as service:
        yield UserServiceStub(service.channel)


@pytest.fixture
async def database(users_database: TestDatabase) -> AsyncIterator[Database]:
    settings = DatabaseSettings(url=SecretStr(users_database.url), pool_size=40, tenant_connections=40)
    database = await Database.connect(settings, application_name="quotas", quota=QUOTA)
    yield database
    await database.close()


@pytest.fixture
async def superuser(users_database: TestDatabase) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(users_database.admin_url)
    yield connection
    await connection.close()


@pytest.fixture
def caller(identity: Identity) -> Caller:
    """An admin of a new tenant."""
    return identity.caller(f"t-{uuid_utils.uuid7()}", "admin")


async def create_many(users: UserServiceAsyncStub, caller: Caller, number: int) -> pb.BatchCreateUsersResponse:
    requests = [pb.CreateUserRequest(user=a_user()) for _ in range(number)]
    return await users.BatchCreateUsers(pb.BatchCreateUsersRequest(requests=requests), metadata=caller.metadata)


async def used(users: UserServiceAsyncStub, caller: Caller) -> int:
    answer = await users.GetUserQuotas(pb.GetUserQuotasRequest(), metadata=caller.metadata)
    (quota,) = answer.quotas
    assert quota.collection == "users"
    return quota.used


async def reason_of(call: Awaitable[object]) -> str:
    """Returns why a call was refused; empty if it was not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(dict(tuple(error.trailing_metadata() or ()))["error-type"])
    return ""


async def succeeds(call: Awaitable[object]) -> bool:
    """Tells whether a call succeeded; the quota is all that may refuse it."""
    reason = await reason_of(call)
    assert reason in ("", "QUOTA_EXCEEDED")
    return not reason


async def test_the_error_names_the_collection_and_the_limit(users: UserServiceAsyncStub, caller: Caller) -> None:
    await create_many(users, caller, 10)
    with refused(EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await create_user(users, caller)
    assert refusal.metadata == {"collection": "users", "limit": "10"}
    assert refusal.message == "The tenant may have 10 users at most."
    assert await used(users, caller) == 10


@pytest.mark.parametrize("stored", [0, 9, 10])
async def test_fifty_at_once_never_exceed_the_quota(users: UserServiceAsyncStub, caller: Caller, stored: int) -> None:
    if stored:
        await create_many(users, caller, stored)
    made = await asyncio.gather(*(succeeds(create_user(users, caller)) for _ in range(50)))
    assert sum(made) == 10 - stored
    assert await used(users, caller) == 10


async def test_a_batch_counts_its_items_and_is_stored_whole_or_not(users: UserServiceAsyncStub, caller: Caller) -> None:
    await create_many(users, caller, 7)
    assert not await succeeds(create_many(users, caller, 4))
    assert await used(users, caller) == 7
    assert await succeeds(create_many(users, caller, 3))


@pytest.mark.parametrize(("tenant", "stored", "size"), [("t-few", 0, 3), ("t-much", 900, 20)])
async def test_batches_at_once_never_exceed_the_quota(
    users: UserServiceAsyncStub, identity: Identity, tenant: str, stored: int, size: int
) -> None:
    caller, limit = identity.caller(tenant, "admin"), 1000 if stored else 10
    for _ in range(stored // 100):
        await create_many(users, caller, 100)
    reasons = await asyncio.gather(*(reason_of(create_many(users, caller, size)) for _ in range(12)))
    assert set(reasons) <= {"", "QUOTA_EXCEEDED", "CONCURRENT_UPDATE"}
    while "CONCURRENT_UPDATE" in reasons:
        reasons.remove("CONCURRENT_UPDATE")
        reasons.append(await reason_of(create_many(users, caller, size)))
    assert reasons.count("") == (limit - stored) // size
    assert await used(users, caller) == stored + (limit - stored) // size * size


async def test_what_is_deleted_does_not_count_until_it_is_restored(users: UserServiceAsyncStub, caller: Caller) -> None:
    stored = (await create_many(users, caller, 10)).users
    await users.DeleteUser(pb.DeleteUserRequest(id=stored[0].id), metadata=caller.metadata)
    deletions = [pb.DeleteUserRequest(id=user.id) for user in stored[1:3]]
    await users.BatchDeleteUsers(pb.BatchDeleteUsersRequest(requests=deletions), metadata=caller.metadata)
    assert await used(users, caller) == 7
    await create_many(users, caller, 2)
    back = pb.UndeleteUserRequest(id=stored[0].id)
    await users.UndeleteUser(back, metadata=caller.metadata)
    assert not await succeeds(users.UndeleteUser(pb.UndeleteUserRequest(id=stored[1].id), metadata=caller.metadata))
    assert await used(users, caller) == 10


async def test_what_fails_or_is_replayed_counts_once(users: UserServiceAsyncStub, caller: Caller) -> None:
    user = a_user()
    request, keyed = pb.CreateUserRequest(user=user), (*caller.metadata, ("idempotency-key", "one"))
    for _ in range(3):
        await users.CreateUser(request, metadata=keyed)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN"):
        await users.CreateUser(request, metadata=caller.metadata)
    assert await used(users, caller) == 1


async def test_limits_of_a_tenant_replace_the_default(users: UserServiceAsyncStub, identity: Identity) -> None:
    more, none = (identity.caller(name, "admin") for name in ("t-more", "t-none"))
    await create_many(users, more, 11)
    assert not await succeeds(create_user(users, none))
    answer = await users.GetUserQuotas(pb.GetUserQuotasRequest(), metadata=none.metadata)
    assert [(quota.limit, quota.used) for quota in answer.quotas] == [(0, 0)]


async def test_only_admins_see_quotas(users: UserServiceAsyncStub, identity: Identity) -> None:
    for role in ("viewer", "editor", "operator"):
        caller = identity.caller("t-roles", role)
        with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.GetUserQuotas(pb.GetUserQuotasRequest(), metadata=caller.metadata)


async def test_open_writes_of_a_tenant_do_not_wait_for_each_other(database: Database) -> None:
    """As many as the counter has shards, also where the quota has exactly that much room."""
    for tenant, number in ((f"t-{uuid_utils.uuid7()}", 10), ("t-more", 32)):
        async with asyncio.timeout(30), AsyncExitStack() as stack:
            for _ in range(number):
                transaction = await stack.enter_async_context(unit(database, tenant))
                await insert(transaction, f"{uuid_utils.uuid7()}@example.com")


async def test_a_lower_quota_refuses_what_a_higher_one_admitted(
    database: Database, users_database: TestDatabase
) -> None:
    tenant = f"t-{uuid_utils.uuid7()}"
    settings = DatabaseSettings(url=SecretStr(users_database.url))
    higher = await Database.connect(settings, application_name="quotas", quota=QuotaSettings(limit=1000))
    for _ in range(12):
        async with unit(higher, tenant) as transaction:
            await insert(transaction, f"{uuid_utils.uuid7()}@example.com")
    await higher.close()
    with pytest.raises(QuotaExceededError):
        async with unit(database, tenant) as transaction:
            await insert(transaction)


async def test_the_count_is_the_number_of_rows_whatever_happened(
    users: UserServiceAsyncStub, caller: Caller, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    chance, made = random.Random(7), list[str]()

    async def step() -> None:
        kind = chance.choice(("create", "create", "batch", "delete", "undelete", "undelete", "remove"))
        id = chance.choice(made) if made else str(uuid_utils.uuid7())
        if kind == "create":
            made.append((await create_user(users, caller)).id)
        elif kind == "batch":
            made.extend(user.id for user in (await create_many(users, caller, chance.randint(1, 4))).users)
        elif kind == "delete":
            await users.DeleteUser(pb.DeleteUserRequest(id=id), metadata=caller.metadata)
        elif kind == "undelete":
            await users.UndeleteUser(pb.UndeleteUserRequest(id=id), metadata=caller.metadata)
        else:
            await superuser.execute("DELETE FROM users WHERE id = $1", id)

    async def walk(steps: int) -> set[str]:
        return {await reason_of(step()) for _ in range(steps)}

    for _ in range(4):
        assert await walk(WALK // 4) <= {"", "QUOTA_EXCEEDED", "RESOURCE_NOT_FOUND", "NOT_DELETED"}
        live = "SELECT count(*) FROM users WHERE tenant_id = $1 AND delete_time IS NULL"
        assert await superuser.fetchval(live, caller.tenant_id) == await used(users, caller) <= 10


async def test_the_fullest_tenant_is_measured(database: Database, caller: Caller, users: UserServiceAsyncStub) -> None:
    await create_many(users, caller, 9)
    metrics = Metrics(CollectorRegistry())
    await measure_quotas(database, metrics, QuotaSettings(limit=1_000_000, limits=(f"{caller.tenant_id}/users=10",)))
    assert metrics.registry.get_sample_value("quota_fullest_ratio", {"collection": "users"}) == 0.9


@pytest.mark.parametrize("limit", ["users", "users=", "users=-1", "=5", "a/b/users=5", "users=1e3"])
def test_a_malformed_limit_is_refused(limit: str) -> None:
    arguments: dict[str, Any] = {"limits": (limit,)}
    with pytest.raises(ValidationError):
        QuotaSettings(**arguments)
