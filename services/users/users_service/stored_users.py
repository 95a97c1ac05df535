"""Looks up callers in the service's own database, as it answers siblings, without a call to itself."""

import asyncio

from api_common.authz import LOOK_UP_SECONDS, StoredUser
from api_common.call import CallContext
from api_common.db import Database, Transaction, repeat_if_stale
from api_common.errors import DeadlineExceededError

from users_service.repository import UserRepository


class StoredUsers:
    """A `UserSource`; reads in a transaction of its own, because the call's transaction begins after authentication."""

    def __init__(self, users: UserRepository, database: Database) -> None:
        self._users = users
        self._database = database

    async def find(self, ctx: CallContext) -> StoredUser | None:
        try:
            async with asyncio.timeout_at(ctx.deadline):
                return await repeat_if_stale(self._read, ctx.principal.tenant_id, ctx.principal.subject)
        except TimeoutError as error:
            raise DeadlineExceededError("The deadline passed before the work was done.") from error

    async def _read(self, tenant_id: str, subject: str) -> StoredUser | None:
        reading = Transaction(self._database, tenant_id, read_only=True, timeout_seconds=LOOK_UP_SECONDS)
        async with reading as transaction:
            return await self._users.find_standing(transaction, subject)
