"""What an API key opens, from the edge's question to a token that the services take."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import jwt
import pytest
from ameide.edge.v1 import ext_authz_pb2 as edge
from ameide.user.v1 import service_account_pb2 as pb
from ameide.user.v1 import user_pb2
from api_common.authn import INTERNAL_ISSUER, InternalTokenSigner
from api_common.db import Database, Transaction
from api_common.errors import RateLimitError
from api_common.listing import PageTokens
from api_common.settings import DatabaseSettings
from api_common.testing import AUDIENCE, PEPPER, Caller, Identity, TestDatabase, TestService, refused
from cryptography.fernet import Fernet
from pydantic import SecretStr
from users_service import failed_attempts
from users_service.api_keys import NOWHERE, ApiKeys, find_place
from users_service.failed_attempts import AT_ONCE, PER_SECOND, FailedAttempts
from users_service.key_exchange import CACHE_SECONDS, KeyExchange
from users_service.repository import ApiKeyRepository

from services.users.tests.factories import create_account, create_key
from services.users.tests.test_api_key_servicer import after

if TYPE_CHECKING:
    from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode
KEYS = ApiKeys([PEPPER.encode()])

Check = Callable[..., Any]


@pytest.fixture
def check(users_service: TestService) -> Check:
    """Asks what the edge asks: `check(x_api_key="…")` with the headers of a request."""
    ask = users_service.channel.unary_unary(
        "/envoy.service.auth.v3.Authorization/Check",
        request_serializer=edge.CheckRequest.SerializeToString,
        response_deserializer=edge.CheckResponse.FromString,
    )

    async def send(address: str = "192.0.2.1", **headers: str) -> edge.CheckResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        http = edge.AttributeContext.HttpRequest(method="GET", path="/v1/users", headers=named)
        place = edge.AttributeContext.Address(socket_address=edge.AttributeContext.SocketAddress(address=address))
        attributes = edge.AttributeContext(
            source=edge.AttributeContext.Peer(address=place), request=edge.AttributeContext.Request(http=http)
        )
        request = edge.CheckRequest(attributes=attributes)
        answer: edge.CheckResponse = await ask(request)
        return answer

    return send


@dataclass
class Clock:
    seconds: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Exchange:
    """An exchange of its own, over the same database, with a clock that the test moves."""

    exchange: KeyExchange
    clock: Clock

    async def works(self, secret: str, address: str = "192.0.2.1") -> bool:
        return await self.exchange.exchange(secret, address=address, timeout_seconds=5) is not None


@pytest.fixture
async def database(users_database: TestDatabase, users_service: TestService) -> Any:
    settings = DatabaseSettings(url=SecretStr(users_database.url), pool_size=2, acquire_timeout_seconds=10)
    opened = await Database.connect(settings, application_name="exchange")
    yield opened
    await opened.close()


@pytest.fixture
def exchange(database: Database, identity: Identity) -> Exchange:
    signer = InternalTokenSigner(identity.signing_key_path.read_bytes(), audience=AUDIENCE)
    repository = ApiKeyRepository(PageTokens([Fernet.generate_key().decode()]))
    clock = Clock()
    attempts = FailedAttempts(now=clock)
    return Exchange(KeyExchange(KEYS, repository, database, signer, attempts=attempts, now=clock), clock)


def bearer(answer: edge.CheckResponse) -> str:
    """Returns the token that the edge passes on."""
    (option,) = answer.ok_response.headers
    assert (option.header.key, option.append_action) == ("authorization", 2)
    assert list(answer.ok_response.headers_to_remove) == ["x-api-key"]
    return option.header.value.removeprefix("Bearer ")


class TestKey:
    def test_says_where_it_is_kept(self) -> None:
        key = KEYS.make("acme")
        place = find_place(key.secret)
        assert (place.tenant_id, place.id) == ("acme", key.id)
        assert KEYS.verify(key.secret, key.key_hash)

    @pytest.mark.parametrize("position", [0, 7, 60, 104, -9, -1])
    def test_with_a_wrong_character_is_nowhere(self, position: int) -> None:
        secret = list(KEYS.make("acme").secret)
        secret[position] = "0" if secret[position] != "0" else "1"
        assert find_place("".join(secret)) == NOWHERE

    @pytest.mark.parametrize("tenant", ["a'b", "a b", "é", "a;b"])
    def test_of_what_is_no_tenant_is_nowhere(self, tenant: str) -> None:
        body = f"ameide_{'0' * 96}{tenant.encode().hex()}"
        assert find_place(f"{body}_{zlib.crc32(body.encode()):08x}") == NOWHERE

    def test_is_recognised_by_an_older_pepper_too(self) -> None:
        key = KEYS.make("acme")
        assert ApiKeys([b"a newer pepper than the other one", PEPPER.encode()]).verify(key.secret, key.key_hash)
        assert not ApiKeys([b"a newer pepper than the other one"]).verify(key.secret, key.key_hash)

    def test_does_not_print_its_secret(self) -> None:
        key = KEYS.make("acme")
        assert key.secret not in repr(key)


class TestExchange:
    async def test_gives_a_minute_as_the_service_account(
        self, accounts: ServiceAccountServiceAsyncStub, users: UserServiceAsyncStub, admin: Caller, check: Check
    ) -> None:
        account = await create_account(accounts, admin, roles=["viewer"])
        created = await create_key(accounts, admin, account.id)
        token = bearer(await check(x_api_key=created.secret))
        claims = jwt.decode(token, options={"verify_signature": False})
        assert (claims["iss"], claims["sub"], claims["tenant_id"]) == (INTERNAL_ISSUER, account.id, admin.tenant_id)
        assert (claims["roles"], claims["exp"] - claims["iat"]) == (["viewer"], 60)
        metadata = (("authorization", f"Bearer {token}"),)
        await users.ListUsers(user_pb2.ListUsersRequest(), metadata=metadata)
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.CreateUser(user_pb2.CreateUserRequest(), metadata=metadata)

    async def test_opens_nothing_that_is_for_users_only(
        self, accounts: ServiceAccountServiceAsyncStub, users: UserServiceAsyncStub, admin: Caller, check: Check
    ) -> None:
        account = await create_account(accounts, admin, roles=["admin"])
        token = bearer(await check(x_api_key=(await create_key(accounts, admin, account.id)).secret))
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.GetMe(user_pb2.GetMeRequest(), metadata=(("authorization", f"Bearer {token}"),))

    async def test_refuses_everything_else_with_the_same_bytes(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, check: Check
    ) -> None:
        account = await create_account(accounts, admin)
        good = (await create_key(accounts, admin, account.id)).secret
        revoked = await create_key(accounts, admin, account.id)
        await accounts.RevokeApiKey(
            pb.RevokeApiKeyRequest(service_account_id=account.id, id=revoked.api_key.id), metadata=admin.metadata
        )
        forged = KEYS.make(admin.tenant_id).secret
        other = await create_account(accounts, admin)
        disabled = (await create_key(accounts, admin, other.id)).secret
        await accounts.DisableServiceAccount(pb.DisableServiceAccountRequest(id=other.id), metadata=admin.metadata)
        answers = [
            (await check(x_api_key=key)).SerializeToString()
            for key in ("", "x", good[:-1], f"{good},{good}", forged, revoked.secret, disabled, "ключ", "x" * 9000)
        ]
        answers.append((await check(x_api_key=good, authorization="Bearer x")).SerializeToString())
        answers.append((await check()).SerializeToString())
        assert len(set(answers)) == 1
        refusal = edge.CheckResponse.FromString(answers[0])
        assert (refusal.status.code, refusal.denied_response.status.code) == (16, 401)
        assert (await check(x_api_key=good)).HasField("ok_response")

    async def test_refuses_the_secret_of_one_key_under_the_id_of_another(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, stranger: Caller, check: Check
    ) -> None:
        mine = (await create_key(accounts, admin, (await create_account(accounts, admin)).id)).secret
        theirs = (await create_key(accounts, stranger, (await create_account(accounts, stranger)).id)).secret
        # Their id and tenant, my secret; and my key said to be of their tenant.
        for body in (theirs[:39] + mine[39:103] + theirs[103:-9], mine[:103] + theirs[103:-9]):
            forged = f"{body}_{zlib.crc32(body.encode()):08x}"
            assert (await check(x_api_key=forged)).HasField("denied_response")

    async def test_does_the_same_work_for_every_key(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, database: Database, identity: Identity
    ) -> None:
        """What is told from a right key by its answer alone is not to be told by its time either."""
        work: list[str] = []

        class Repository(ApiKeyRepository):
            async def find_owner(self, transaction: Transaction, id: str) -> Any:
                work.append("look-up")
                return await super().find_owner(transaction, id)

        class Keys(ApiKeys):
            def verify(self, secret: str, key_hash: bytes) -> bool:
                work.append("comparison")
                return super().verify(secret, key_hash)

        class Signer(InternalTokenSigner):
            def token(self, *, subject: str, tenant_id: str, roles: list[str]) -> str:
                work.append("signature")
                return super().token(subject=subject, tenant_id=tenant_id, roles=roles)

        account = await create_account(accounts, admin)
        good, revoked = [await create_key(accounts, admin, account.id) for _ in range(2)]
        request = pb.RevokeApiKeyRequest(service_account_id=account.id, id=revoked.api_key.id)
        await accounts.RevokeApiKey(request, metadata=admin.metadata)
        exchange = KeyExchange(
            Keys([PEPPER.encode()]),
            Repository(PageTokens([Fernet.generate_key().decode()])),
            database,
            Signer(identity.signing_key_path.read_bytes(), audience=AUDIENCE),
            attempts=FailedAttempts(),
        )
        other = f"{good.secret[:39]}{'0' * 64}{good.secret[103:-9]}"
        wrong = f"{other}_{zlib.crc32(other.encode()):08x}"
        for secret in ("", "garbled", KEYS.make(admin.tenant_id).secret, wrong, revoked.secret, good.secret):
            work.clear()
            token = await exchange.exchange(secret, address="192.0.2.1", timeout_seconds=5)
            assert (token is not None) == (secret == good.secret)
            assert work == ["look-up", "comparison", "signature"]

    async def test_notes_the_use_once_a_minute(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, exchange: Exchange
    ) -> None:
        account = await create_account(accounts, admin)
        secret = (await create_key(accounts, admin, account.id)).secret

        async def last_used() -> Any:
            request = pb.ListApiKeysRequest(service_account_id=account.id)
            (key,) = (await accounts.ListApiKeys(request, metadata=admin.metadata)).api_keys
            return key.last_used_time

        assert await exchange.works(secret)
        first = await last_used()
        assert first.ToSeconds() == pytest.approx(after().ToSeconds(), abs=5)
        exchange.clock.seconds += CACHE_SECONDS
        assert await exchange.works(secret)
        assert await last_used() == first

    async def test_opens_the_mesh_whatever_becomes_of_the_schema(
        self,
        accounts: ServiceAccountServiceAsyncStub,
        admin: Caller,
        exchange: Exchange,
        users_database: TestDatabase,
    ) -> None:
        account = await create_account(accounts, admin)
        first, second = [(await create_key(accounts, admin, account.id)).secret for _ in range(2)]
        assert await exchange.works(first)
        another_type = "ALTER expire_time TYPE timestamptz(3)", "ALTER expire_time TYPE timestamptz"
        async with users_database.altered("api_keys", *another_type):
            assert await exchange.works(second)

    async def test_dies_within_the_promised_time(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, exchange: Exchange
    ) -> None:
        account = await create_account(accounts, admin)
        revoked, disabled, lasting = [await create_key(accounts, admin, account.id) for _ in range(3)]
        assert all([await exchange.works(key.secret) for key in (revoked, disabled, lasting)])
        request = pb.RevokeApiKeyRequest(service_account_id=account.id, id=revoked.api_key.id)
        await accounts.RevokeApiKey(request, metadata=admin.metadata)
        assert CACHE_SECONDS <= 30
        exchange.clock.seconds += CACHE_SECONDS
        assert not await exchange.works(revoked.secret)
        assert await exchange.works(lasting.secret)
        await accounts.DisableServiceAccount(pb.DisableServiceAccountRequest(id=account.id), metadata=admin.metadata)
        exchange.clock.seconds += CACHE_SECONDS
        assert not await exchange.works(lasting.secret)
        await accounts.EnableServiceAccount(pb.EnableServiceAccountRequest(id=account.id), metadata=admin.metadata)
        assert await exchange.works(lasting.secret)
        await accounts.DeleteServiceAccount(pb.DeleteServiceAccountRequest(id=account.id), metadata=admin.metadata)
        exchange.clock.seconds += CACHE_SECONDS
        assert not await exchange.works(lasting.secret)

    async def test_of_an_expiring_key_ends_on_time_cached_or_not(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, exchange: Exchange
    ) -> None:
        account = await create_account(accounts, admin)
        created = await create_key(accounts, admin, account.id, expire_time=after(seconds=1.5))
        expires = created.api_key.expire_time.ToMicroseconds() / 1e6
        exchange.clock.seconds = expires - 0.5
        assert await exchange.works(created.secret)
        while after().ToMicroseconds() / 1e6 <= expires:
            await asyncio.sleep(0.05)
        exchange.clock.seconds = expires
        assert not await exchange.works(created.secret)


class TestFailedAttempts:
    async def test_of_an_address_end_its_look_ups_and_nobody_elses(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, exchange: Exchange
    ) -> None:
        account = await create_account(accounts, admin)
        known, new = [(await create_key(accounts, admin, account.id)).secret for _ in range(2)]
        assert await exchange.works(known)
        attempts = (exchange.works(f"wrong {number}") for number in range(AT_ONCE + 10))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert [type(one) for one in results] == [bool] * AT_ONCE + [RateLimitError] * 10
        assert True not in results
        # It does not learn whether the next one is right. What worked a moment ago goes on, and so do others.
        with pytest.raises(RateLimitError):
            await exchange.works(new)
        assert await exchange.works(known)
        assert await exchange.works(new, "192.0.2.2")
        exchange.clock.seconds += 1
        again = [await exchange.works("wrong") for _ in range(PER_SECOND)]
        assert again == [False] * PER_SECOND
        with pytest.raises(RateLimitError):
            await exchange.works("wrong")

    async def test_are_none_of_those_that_succeed(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, exchange: Exchange
    ) -> None:
        account = await create_account(accounts, admin)
        secret = (await create_key(accounts, admin, account.id)).secret
        for _ in range(AT_ONCE + 10):
            # Forgotten at once, so that each is looked up; no time passes for the bucket.
            exchange.exchange._exchanged.clear()
            assert await exchange.works(secret)

    async def test_are_told_to_wait_by_the_edge(self, check: Check) -> None:
        asked = (check("192.0.2.9", x_api_key="wrong") for _ in range(4 * AT_ONCE))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        statuses = {one.denied_response.status.code for one in answers if isinstance(one, edge.CheckResponse)}
        assert statuses == {401, 429}
        assert (await check("192.0.2.8", x_api_key="wrong")).denied_response.status.code == 401

    def test_succeed_after_the_time_that_their_refusal_names(self) -> None:
        clock = Clock()
        attempts = FailedAttempts(now=clock)
        for _ in range(AT_ONCE):
            attempts.take("first")
        with pytest.raises(RateLimitError) as refusal:
            attempts.take("first")
        assert refusal.value.retry_after_seconds is not None
        clock.seconds += refusal.value.retry_after_seconds
        attempts.take("first")

    def test_are_remembered_for_so_many_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(failed_attempts, "_ADDRESSES", 2)
        attempts = FailedAttempts(now=lambda: 0.0)
        for _ in range(AT_ONCE):
            attempts.take("first")
        with pytest.raises(RateLimitError):
            attempts.take("first")
        attempts.take("second")
        with pytest.raises(RateLimitError):
            attempts.take("first")
        attempts.take("third")
        attempts.take("second")


class TestStored:
    async def test_rows_hold_no_key(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller, users_database: TestDatabase
    ) -> None:
        account = await create_account(accounts, admin)
        request = pb.CreateApiKeyRequest(service_account_id=account.id, api_key=pb.ApiKey(display_name="Key"))
        metadata = (*admin.metadata, ("idempotency-key", "kept"))
        secret = (await accounts.CreateApiKey(request, metadata=metadata)).secret
        connection = await asyncpg.connect(users_database.admin_url)
        rows = [
            str(row["line"])
            for table in ("api_keys", "idempotency_keys")
            for row in await connection.fetch(f"SELECT {table}::text AS line FROM {table}")
        ]
        await connection.close()
        assert any(account.id in row for row in rows)
        for form in (secret, secret[39:103], secret.encode().hex(), secret[39:103].encode().hex()):
            assert not [row for row in rows if form in row]
