"""What takes more than one step: making an API key, and putting one in another's place."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from api_common.call import RequestContext
from api_common.db import Row, to_datetime

from users_service.api_keys import ApiKeys
from users_service.domain import check_room, check_rotatable, overlap_expiry, successor_expiry
from users_service.repository import ApiKeyRepository


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key and what is kept of it."""

    row: Row
    secret: str = field(repr=False)


class KeyIssuer:
    """Makes the keys of service accounts."""

    def __init__(self, keys: ApiKeys, repository: ApiKeyRepository) -> None:
        self._keys = keys
        self._repository = repository

    async def issue(
        self,
        ctx: RequestContext,
        account_id: str,
        display_name: str,
        *,
        expire_time: datetime | None,
        replaced: str | None = None,
    ) -> IssuedKey:
        """Makes a key of an account, which is locked.

        Raises:
            ApiKeyLimitReachedError: it has enough.
        """
        check_room(live_keys=await self._repository.count_live(ctx.transaction, account_id, but=replaced))
        key = self._keys.make(ctx.tenant_id)
        values = {
            "id": key.id,
            "display_name": display_name,
            "prefix": key.prefix,
            "key_hash": key.key_hash,
            "expire_time": expire_time,
            "created_by": ctx.principal.subject,
        }
        return IssuedKey(await self._repository.insert(ctx.transaction, account_id, values), key.secret)

    async def replace(
        self, ctx: RequestContext, old: Row, *, expire_time: datetime | None, overlap: timedelta, now: datetime
    ) -> IssuedKey:
        """Makes the successor of ``old``, which is locked and ends after ``overlap``.

        Raises:
            FailedPreconditionError: it has ended already.
            ApiKeyLimitReachedError: the account has enough others.
        """
        created = to_datetime(old["create_time"])
        expires = None if old["expire_time"] is None else to_datetime(old["expire_time"])
        check_rotatable(revoked=old["revoke_time"] is not None, expire_time=expires, now=now)
        chosen = expire_time or successor_expiry(create_time=created, expire_time=expires, now=now)
        await self._repository.expire(
            ctx.transaction, old, overlap_expiry(expire_time=expires, now=now, overlap=overlap)
        )
        account_id, name = old["service_account_id"], old["display_name"]
        return await self.issue(ctx, account_id, name, expire_time=chosen, replaced=old["id"])
