"""Operations of several steps: creating an API key, and replacing one."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from api_common.call import RequestContext
from api_common.db import Row, to_datetime

from users_service.api_keys import ApiKeys
from users_service.domain import check_room, check_rotatable, overlap_expiry, successor_expiry
from users_service.repository import ApiKeyRepository


@dataclass(frozen=True, slots=True)
class IssuedKey:
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
        """Creates a key of an account, which must be locked.

        Raises:
            ApiKeyLimitReachedError: the account has too many.
        """
        check_room(live_keys=await self._repository.count_live(ctx.transaction, account_id, but=replaced))
        key = self._keys.make(ctx.tenant_id)
        values = {
            "id": key.id,
            "service_account_id": account_id,
            "display_name": display_name,
            "prefix": key.prefix,
            "key_hash": key.key_hash,
            "expire_time": expire_time,
            "created_by": ctx.principal.subject,
        }
        return IssuedKey(await self._repository.insert(ctx.transaction, values), key.secret)

    async def replace(
        self, ctx: RequestContext, old: Row, *, expire_time: datetime | None, overlap: timedelta, now: datetime
    ) -> IssuedKey:
        """Creates the successor of ``old``, which must be locked and expires after ``overlap``.

        Raises:
            FailedPreconditionError: ``old`` is revoked, expired or replaced.
            ApiKeyLimitReachedError: the account has too many others.
        """
        created = to_datetime(old["create_time"])
        expires = None if old["expire_time"] is None else to_datetime(old["expire_time"])
        ended = old["revoke_time"] is not None or old["replace_time"] is not None
        check_rotatable(ended=ended, expire_time=expires, now=now)
        chosen = expire_time or successor_expiry(create_time=created, expire_time=expires, now=now)
        await self._repository.mark_replaced(
            ctx.transaction, old, overlap_expiry(expire_time=expires, now=now, overlap=overlap)
        )
        account_id, name = old["service_account_id"], old["display_name"]
        return await self.issue(ctx, account_id, name, expire_time=chosen, replaced=old["id"])
