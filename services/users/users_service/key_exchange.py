"""Exchanges an API key for a token of the mesh; the edge asks for it."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from api_common.authn import InternalTokenSigner
from api_common.db import Database, Transaction, repeat_if_stale
from api_common.errors import DomainError
from cachetools import FIFOCache

from users_service.api_keys import NOWHERE, ApiKeys, find_place
from users_service.failed_attempts import FailedAttempts
from users_service.repository import ApiKeyRepository

CACHE_SECONDS: Final = 20
"""How long a key that worked is cached; well within the 30 s that are promised for a revoked key."""

_CACHE_SIZE: Final = 10_000
_NO_HASH: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class _Exchanged:
    token: str = field(repr=False)
    good_until: float


@dataclass(frozen=True, slots=True)
class KeyExchange:
    """The `ApiKeyAuthority` of the mesh. Caches keys that worked, by digest only, and no others."""

    keys: ApiKeys
    repository: ApiKeyRepository
    database: Database
    signer: InternalTokenSigner
    attempts: FailedAttempts
    now: Callable[[], float] = time.time
    _exchanged: FIFOCache[bytes, _Exchanged] = field(init=False, default_factory=lambda: FIFOCache(_CACHE_SIZE))

    async def exchange(self, key: str, *, address: str, timeout_seconds: float) -> str | None:
        digest = hashlib.sha256(key.encode()).digest()
        known = self._exchanged.get(digest)
        if known is not None and self.now() < known.good_until:
            return known.token
        self.attempts.take(address)
        try:
            found = await repeat_if_stale(self._look_up, key, timeout_seconds)
        except DomainError:
            self.attempts.give_back(address)
            raise
        if found is None:
            self._exchanged.pop(digest, None)
            return None
        self.attempts.give_back(address)
        self._exchanged[digest] = found
        return found.token

    async def _look_up(self, key: str, timeout_seconds: float) -> _Exchanged | None:
        """Does the same for every text: looks up a row by its primary key, compares hashes, signs."""
        place = find_place(key)
        work = Transaction(self.database, place.tenant_id, read_only=False, timeout_seconds=timeout_seconds)
        async with work as transaction:
            row = await self.repository.find_owner(transaction, place.id)
            proven = self.keys.verify(key, _NO_HASH if row is None else row["key_hash"])
            owner = row if row is not None and proven and row["works"] else None
            if owner is not None and owner["is_use_news"]:
                await self.repository.touch(transaction, place.id)
        if owner is None:
            # This signature is thrown away: a wrong key takes as long as a right one.
            self.signer.token(subject=NOWHERE.id, tenant_id=NOWHERE.tenant_id, roles=[])
            return None
        now = self.now()
        good_until = now + CACHE_SECONDS
        if owner["expire_time"] is not None:
            good_until = min(good_until, owner["expire_time"] / 1_000_000)
        subject, roles = owner["service_account_id"], list(owner["roles"])
        token = self.signer.token(subject=subject, tenant_id=place.tenant_id, roles=roles)
        return _Exchanged(token, good_until)
