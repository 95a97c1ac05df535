"""The keys of service accounts through a real stub; what they open is tested in test_api_keys."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.user.v1 import service_account_pb2 as pb
from api_common.testing import NEVER, Caller, Identity, refused
from google.protobuf.timestamp_pb2 import Timestamp
from users_service.domain import MAX_LIVE_KEYS

from services.users.tests.factories import create_account, create_key
from tests.paging import all_pages

if TYPE_CHECKING:
    from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceAsyncStub

S = grpc.StatusCode


def after(**delta: float) -> Timestamp:
    """Returns a time from now."""
    result = Timestamp()
    result.FromDatetime(datetime.now(UTC) + timedelta(**delta))
    return result


class TestCreateApiKey:
    async def test_needs_the_permission(
        self, accounts: ServiceAccountServiceAsyncStub, identity: Identity, tenant_id: str
    ) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await create_key(accounts, identity.caller(tenant_id, "viewer", "editor", "operator"), NEVER)

    async def test_shows_the_secret_and_how_it_begins(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        expires = after(days=1)
        created = await create_key(accounts, admin, account.id, display_name="CI", expire_time=expires)
        key = created.api_key
        assert re.fullmatch(r"ameide_[0-9a-f]{98,222}_[0-9a-f]{8}", created.secret)
        assert created.secret.startswith(key.prefix)
        assert key.prefix == f"ameide_{key.id.replace('-', '')[:12]}"
        assert (key.service_account_id, key.tenant_id, key.display_name) == (account.id, admin.tenant_id, "CI")
        assert key.expire_time.ToMicroseconds() == expires.ToMicroseconds()
        assert not key.HasField("last_used_time")
        assert not key.HasField("revoke_time")

    async def test_makes_another_secret_each_time(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        first, second = [await create_key(accounts, admin, account.id) for _ in range(2)]
        # Behind `ameide_` and the 32 digits of the id.
        assert first.secret[39:103] != second.secret[39:103]

    async def test_refuses_an_end_in_the_past_or_beyond_time(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        for expires in (after(seconds=-1), Timestamp(seconds=10**15)):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST"):
                await create_key(accounts, admin, account.id, expire_time=expires)

    async def test_gives_an_account_ten_keys_that_live(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account, other = [await create_account(accounts, admin) for _ in range(2)]
        first, *_ = [(await create_key(accounts, admin, account.id)).api_key for _ in range(MAX_LIVE_KEYS)]
        with refused(S.FAILED_PRECONDITION, "API_KEY_LIMIT_REACHED") as refusal:
            await create_key(accounts, admin, account.id)
        assert refusal.metadata == {"limit": "10"}
        await create_key(accounts, admin, other.id)
        # One that has ended makes room.
        request = pb.RevokeApiKeyRequest(service_account_id=account.id, id=first.id)
        await accounts.RevokeApiKey(request, metadata=admin.metadata)
        await create_key(accounts, admin, account.id)

    async def test_gives_the_last_place_to_one_of_fifty(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        for _ in range(MAX_LIVE_KEYS - 1):
            await create_key(accounts, admin, account.id)
        # So that each of the service's connections is open and the attempts meet.
        listing = pb.ListApiKeysRequest(service_account_id=account.id)
        await asyncio.gather(*(accounts.ListApiKeys(listing, metadata=admin.metadata) for _ in range(50)))
        attempts = (create_key(accounts, admin, account.id) for _ in range(50))
        answers = await asyncio.gather(*attempts, return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(refusals) == 49
        # On a busy machine some wait too long for a connection.
        assert (
            S.FAILED_PRECONDITION in {refusal.code() for refusal in refusals} <= {S.FAILED_PRECONDITION, S.UNAVAILABLE}
        )
        kept = (await accounts.ListApiKeys(listing, metadata=admin.metadata)).api_keys
        assert len(kept) == MAX_LIVE_KEYS

    async def test_refuses_a_replay_and_keeps_no_secret_for_it(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        request = pb.CreateApiKeyRequest(service_account_id=account.id, api_key=pb.ApiKey(display_name="Key"))
        metadata = (*admin.metadata, ("idempotency-key", "once"))
        await accounts.CreateApiKey(request, metadata=metadata)
        with refused(S.ALREADY_EXISTS, "SECRET_SHOWN_ONCE"):
            await accounts.CreateApiKey(request, metadata=metadata)
        listing = pb.ListApiKeysRequest(service_account_id=account.id)
        assert len((await accounts.ListApiKeys(listing, metadata=admin.metadata)).api_keys) == 1


class TestListApiKeys:
    async def test_walks_the_keys_of_the_account_newest_first(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account, other = [await create_account(accounts, admin) for _ in range(2)]
        await create_key(accounts, admin, other.id)
        created = [(await create_key(accounts, admin, account.id)).api_key.id for _ in range(3)]
        pages = await all_pages(
            lambda token: accounts.ListApiKeys(
                pb.ListApiKeysRequest(service_account_id=account.id, page_size=2, page_token=token),
                metadata=admin.metadata,
            )
        )
        assert [key.id for page in pages for key in page.api_keys] == created[::-1]


class TestRevokeApiKey:
    async def test_finds_a_key_under_its_own_account_only(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account, other = [await create_account(accounts, admin) for _ in range(2)]
        key = (await create_key(accounts, admin, account.id)).api_key
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await accounts.RevokeApiKey(
                pb.RevokeApiKeyRequest(service_account_id=other.id, id=key.id), metadata=admin.metadata
            )

    async def test_changes_nothing_the_second_time(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        key = (await create_key(accounts, admin, account.id)).api_key
        request = pb.RevokeApiKeyRequest(service_account_id=account.id, id=key.id)
        revoked = await accounts.RevokeApiKey(request, metadata=admin.metadata)
        assert revoked.HasField("revoke_time")
        assert await accounts.RevokeApiKey(request, metadata=admin.metadata) == revoked


class TestRotateApiKey:
    async def test_gives_the_new_key_the_life_of_the_old_one_and_that_the_overlap(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        old = (await create_key(accounts, admin, account.id, display_name="CI", expire_time=after(days=7))).api_key
        rotated = await accounts.RotateApiKey(
            pb.RotateApiKeyRequest(
                service_account_id=account.id, id=old.id, rotation=pb.ApiKeyRotation(overlap_seconds=3600)
            ),
            metadata=admin.metadata,
        )
        new = rotated.api_key
        assert (new.display_name, rotated.secret.startswith(new.prefix)) == ("CI", True)
        assert new.expire_time.ToSeconds() == pytest.approx(after(days=7).ToSeconds(), abs=5)
        listing = pb.ListApiKeysRequest(service_account_id=account.id)
        kept = (await accounts.ListApiKeys(listing, metadata=admin.metadata)).api_keys
        assert [key.id for key in kept] == [new.id, old.id]
        assert kept[1].expire_time.ToSeconds() == pytest.approx(after(hours=1).ToSeconds(), abs=5)

    async def test_refuses_a_key_that_has_ended(self, accounts: ServiceAccountServiceAsyncStub, admin: Caller) -> None:
        account = await create_account(accounts, admin)
        key = (await create_key(accounts, admin, account.id)).api_key
        await accounts.RevokeApiKey(
            pb.RevokeApiKeyRequest(service_account_id=account.id, id=key.id), metadata=admin.metadata
        )
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await accounts.RotateApiKey(
                pb.RotateApiKeyRequest(service_account_id=account.id, id=key.id), metadata=admin.metadata
            )

    async def test_gives_a_key_one_successor_however_many_ask_at_once(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        key = (await create_key(accounts, admin, account.id)).api_key
        request = pb.RotateApiKeyRequest(
            service_account_id=account.id, id=key.id, rotation=pb.ApiKeyRotation(overlap_seconds=3600)
        )
        calls = (accounts.RotateApiKey(request, metadata=admin.metadata) for _ in range(8))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(answer, pb.RotateApiKeyResponse) for answer in answers) == 1
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await accounts.RotateApiKey(request, metadata=admin.metadata)
        listing = pb.ListApiKeysRequest(service_account_id=account.id)
        assert len((await accounts.ListApiKeys(listing, metadata=admin.metadata)).api_keys) == 2

    async def test_works_at_the_limit_but_does_not_go_round_it(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        account = await create_account(accounts, admin)
        first, second, *_ = [(await create_key(accounts, admin, account.id)).api_key for _ in range(MAX_LIVE_KEYS)]

        def rotate(key: pb.ApiKey, *, overlap: int) -> Awaitable[pb.RotateApiKeyResponse]:
            request = pb.RotateApiKeyRequest(
                service_account_id=account.id, id=key.id, rotation=pb.ApiKeyRotation(overlap_seconds=overlap)
            )
            return accounts.RotateApiKey(request, metadata=admin.metadata)

        successor = (await rotate(first, overlap=0)).api_key
        await rotate(successor, overlap=600)
        with refused(S.FAILED_PRECONDITION, "API_KEY_LIMIT_REACHED"):
            await rotate(second, overlap=600)

    async def test_refuses_more_than_a_week_of_overlap(
        self, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        for seconds in (-1, 604_801):
            rotation = pb.ApiKeyRotation(overlap_seconds=seconds)
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await accounts.RotateApiKey(
                    pb.RotateApiKeyRequest(service_account_id=NEVER, id=NEVER, rotation=rotation),
                    metadata=admin.metadata,
                )
            assert set(refusal.violations) == {"rotation.overlap_seconds"}
