"""Queries of users, service accounts and API keys beyond the standard ones."""

from datetime import datetime, timedelta
from typing import Any

from api_common.authn import Principal
from api_common.authz import StoredUser, is_user_id
from api_common.db import Row, Transaction, compile_statement
from api_common.errors import NotFoundError, ResourceInfo
from api_common.events import RoleChange
from api_common.listing import PageTokens, TextField, TextListField
from api_common.resources import BatchRepository, PartRepository, Repository, resource_fields
from sqlalchemy import DateTime, and_, bindparam, func, or_, select, update

from users_service.domain import ACCOUNT_LIFECYCLE, LIFECYCLE, AccountState, State
from users_service.tables import api_keys, service_accounts, users

FIELDS = resource_fields(
    users,
    State,
    email=TextField(users.c.email, folded=users.c.email_folded, sortable=True),
    roles=TextListField(users.c.roles),
)

ACCOUNT_FIELDS = resource_fields(service_accounts, AccountState, roles=TextListField(service_accounts.c.roles))

_FIND_PRINCIPAL = compile_statement(
    select(users)
    .where(
        users.c.tenant_id == bindparam("tenant_id"),
        users.c.delete_time.is_(None),
        or_(users.c.id == bindparam("id"), users.c.email_folded == func.lower(bindparam("email"))),
    )
    # An id identifies a user better than an address.
    .order_by((users.c.id == bindparam("id")).desc())
    .limit(1)
)


_FIND_STANDING = compile_statement(
    select(users.c.roles, and_(users.c.state == State.ACTIVE, users.c.delete_time.is_(None)).label("is_active")).where(
        users.c.tenant_id == bindparam("tenant_id"), users.c.id == bindparam("id")
    )
)


class _HoldsRoles(Repository):
    """Reports changes of roles to the audit: here, where roles are written, no servicer can forget it."""

    tracked = frozenset({"roles"})

    def on_change(self, transaction: Transaction, before: Row | None, after: Row) -> None:
        earlier, later = (tuple(sorted(row["roles"] if row else ())) for row in (before, after))
        if earlier != later:
            transaction.effects.append(RoleChange(self._resource, after["id"], earlier, later))


class UserRepository(_HoldsRoles, BatchRepository):
    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(users, resource="user", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)

    async def find_principal(self, transaction: Transaction, principal: Principal) -> Row:
        """Returns the live user who is calling: by id if the subject is one, otherwise by verified e-mail address.

        Raises:
            NotFoundError: the caller is not a user of the tenant, e.g. a service account.
        """
        id = principal.subject if is_user_id(principal.subject) else None
        values = {"tenant_id": principal.tenant_id, "id": id, "email": principal.email}
        row = await transaction.fetch_one(_FIND_PRINCIPAL, values)
        if row is None:
            raise NotFoundError("The caller is not a user of this tenant.")
        return row

    async def find_standing(self, transaction: Transaction, subject: str) -> StoredUser | None:
        """Returns the stored state of the user with this id; None if the tenant stores no such user."""
        if not is_user_id(subject):
            return None
        row = await transaction.fetch_one(_FIND_STANDING, {"tenant_id": transaction.tenant_id, "id": subject})
        return None if row is None else StoredUser(is_active=row["is_active"], roles=frozenset(row["roles"]))


class ServiceAccountRepository(_HoldsRoles):
    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(
            service_accounts,
            resource="service_account",
            fields=ACCOUNT_FIELDS,
            lifecycle=ACCOUNT_LIFECYCLE,
            page_tokens=page_tokens,
        )


_IS_KEY = and_(*(api_keys.c[name] == bindparam(name) for name in ("tenant_id", "service_account_id", "id")))
_LOCK = compile_statement(select(api_keys).where(_IS_KEY).with_for_update())
# A second revocation changes nothing.
_REVOKE = compile_statement(
    update(api_keys)
    .where(_IS_KEY)
    .values(revoke_time=func.coalesce(api_keys.c.revoke_time, func.now()))
    .returning(*api_keys.c)
)
_REPLACE = compile_statement(
    update(api_keys)
    .where(_IS_KEY)
    .values(expire_time=bindparam("new_expire_time", type_=DateTime(timezone=True)), replace_time=func.now())
    .returning(api_keys.c.id)
)
_IS_LIVE = and_(
    api_keys.c.revoke_time.is_(None), or_(api_keys.c.expire_time.is_(None), api_keys.c.expire_time > func.now())
)
_COUNT_LIVE = compile_statement(
    select(func.count().label("live")).where(
        api_keys.c.tenant_id == bindparam("tenant_id"),
        api_keys.c.service_account_id == bindparam("service_account_id"),
        api_keys.c.id.is_distinct_from(bindparam("but")),
        _IS_LIVE,
    )
)
_WORKS = and_(_IS_LIVE, service_accounts.c.delete_time.is_(None), service_accounts.c.state == AccountState.ACTIVE)
# A key that is used a thousand times a second is not written as often.
_IS_USE_NEWS = or_(api_keys.c.last_used_time.is_(None), api_keys.c.last_used_time < func.now() - timedelta(minutes=1))
_IN_TENANT = and_(api_keys.c.tenant_id == bindparam("tenant_id"), api_keys.c.id == bindparam("id"))
_FIND_OWNER = compile_statement(
    select(
        api_keys.c.service_account_id,
        api_keys.c.key_hash,
        api_keys.c.expire_time,
        service_accounts.c.roles,
        _WORKS.label("works"),
        _IS_USE_NEWS.label("is_use_news"),
    )
    .join(
        service_accounts,
        and_(
            service_accounts.c.tenant_id == api_keys.c.tenant_id, service_accounts.c.id == api_keys.c.service_account_id
        ),
    )
    .where(_IN_TENANT)
)
_TOUCH = compile_statement(
    update(api_keys).where(_IN_TENANT).values(last_used_time=func.now()).returning(api_keys.c.id)
)


class ApiKeyRepository(PartRepository):
    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(api_keys, parent="service_account_id", order=("id",), page_tokens=page_tokens)

    async def lock(self, transaction: Transaction, account_id: str, id: str) -> Row:
        """Returns a key and locks it until the transaction ends.

        Raises:
            NotFoundError: the account has no such key.
        """
        return _found(await transaction.fetch_one(_LOCK, _identity(transaction, account_id, id)), id)

    async def revoke(self, transaction: Transaction, account_id: str, id: str) -> Row:
        """Revokes a key for good and returns it.

        Raises:
            NotFoundError: the account has no such key.
        """
        return _found(await transaction.fetch_one(_REVOKE, _identity(transaction, account_id, id)), id)

    async def count_live(self, transaction: Transaction, account_id: str, *, but: str | None) -> int:
        """Returns the number of live keys of an account, not counting the one with the id ``but``."""
        scope = {"tenant_id": transaction.tenant_id, "service_account_id": account_id, "but": but}
        row = await transaction.fetch_one(_COUNT_LIVE, scope)
        assert row is not None  # an aggregate
        return int(row["live"])

    async def mark_replaced(self, transaction: Transaction, key: Row, expire_time: datetime) -> None:
        """Notes that a key, which must be locked, has a successor, and when it expires."""
        identity = _identity(transaction, key["service_account_id"], key["id"])
        await transaction.fetch_one(_REPLACE, {**identity, "new_expire_time": expire_time})

    async def find_owner(self, transaction: Transaction, id: str) -> Row | None:
        """Returns the owner of a key, whether it `works`, and whether to note its use; None if no such key exists."""
        return await transaction.fetch_one(_FIND_OWNER, {"tenant_id": transaction.tenant_id, "id": id})

    async def touch(self, transaction: Transaction, id: str) -> None:
        await transaction.fetch_one(_TOUCH, {"tenant_id": transaction.tenant_id, "id": id})


def _identity(transaction: Transaction, account_id: str, id: str) -> dict[str, Any]:
    return {"tenant_id": transaction.tenant_id, "service_account_id": account_id, "id": id}


def _found(row: Row | None, id: str) -> Row:
    if row is None:
        raise NotFoundError("The service account has no API key with this id.", resource=ResourceInfo("api_key", id))
    return row
