"""For users in the directory, stored roles override token claims (ADR 0011).

A token's roles are as old as the token. The directory reads the stored roles and state of a user from the users service
and caches them for half a minute.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog
from ameide.user.v1 import directory_pb2 as pb
from cachetools import FIFOCache

from api_common.authn import Principal
from api_common.call import CallContext
from api_common.contract import UUID_PATTERN
from api_common.errors import AuthorizationError, DomainError, ExternalServiceError, InternalError, UnauthenticatedError
from api_common.siblings import Siblings

MAX_AGE_SECONDS: Final = 30
"""The life of a cached answer: a change of a stored user takes effect within this time."""
MAX_STALE_SECONDS: Final = 300
"""How long a stale answer is used while the source does not answer; then the user's calls are refused."""
LOOK_UP_SECONDS: Final = 2.0
"""The longest time of one look-up."""

_CACHE_SIZE: Final = 10_000
_ID_LENGTH: Final = 36

_Key = tuple[str, str]

_log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredUser:
    """The stored facts that decide what a user may do."""

    is_active: bool
    """Neither suspended nor deleted."""
    roles: frozenset[str]
    """Role names, as in `Principal`."""


class UserSource(Protocol):
    """The source of stored users: the service's own database, or the users service."""

    async def find(self, ctx: CallContext) -> StoredUser | None:
        """Returns the stored user with the caller's subject as id; None if the tenant has no such user.

        Raises:
            DomainError: the source does not answer before the deadline of ``ctx``.
        """


class UsersService:
    """The users service as a source, asked over mTLS."""

    def __init__(self, siblings: Siblings) -> None:
        self._users = siblings.open("users", pb.DESCRIPTOR.services_by_name["DirectoryService"])

    async def find(self, ctx: CallContext) -> StoredUser | None:
        """Does what `UserSource.find` says."""
        answer = await self._users.call(pb.ResolvePrincipalRequest(), pb.ResolvePrincipalResponse, ctx)
        match answer.standing:
            case pb.ResolvePrincipalResponse.UNKNOWN:
                return None
            case pb.ResolvePrincipalResponse.ACTIVE:
                return StoredUser(is_active=True, roles=frozenset(answer.roles))
            case pb.ResolvePrincipalResponse.LOCKED_OUT:
                return StoredUser(is_active=False, roles=frozenset())
        raise ExternalServiceError(retry_after_seconds=1)


@dataclass(frozen=True, slots=True)
class _Answer:
    user: StoredUser | None
    asked_at: float


class Directory:
    """Caches the stored users who call.

    Args:
        now: a clock that never goes back, in seconds.
    """

    def __init__(self, source: UserSource, *, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._answers: FIFOCache[_Key, _Answer] = FIFOCache(_CACHE_SIZE)
        self._look_ups: dict[_Key, asyncio.Task[_Answer | DomainError]] = {}

    def recall(self, principal: Principal) -> Principal | None:
        """Returns ``principal`` with its effective roles; None if they are not cached.

        Raises:
            UnauthenticatedError: the user is suspended or deleted.
        """
        if len(principal.subject) != _ID_LENGTH or principal.kind != "user" or not is_user_id(principal.subject):
            return principal
        answer = self._answers.get(_key(principal))
        if answer is None or self._now() - answer.asked_at >= MAX_AGE_SECONDS:
            return None
        return _with_stored_roles(principal, answer.user)

    async def ask(self, ctx: CallContext) -> Principal:
        """Looks the caller of ``ctx``, a user, up and returns it with its effective roles.

        Concurrent look-ups of one user share one answer.

        Raises:
            UnauthenticatedError: the user is suspended or deleted.
            ExternalServiceError: the source does not answer, and the cached answer is too old.
            InternalError: the users service does not serve this process.
        """
        key = _key(ctx.principal)
        look_up = self._look_ups.get(key)
        if look_up is None:
            look_up = self._look_ups[key] = asyncio.create_task(self._look_up(key, ctx))
        # A cancelled caller does not cancel the look-up of the others.
        answer = await asyncio.shield(look_up)
        if isinstance(answer, DomainError):
            raise answer
        return _with_stored_roles(ctx.principal, answer.user)

    def forget(self, tenant_id: str, user_id: str) -> None:
        """Drops the cached answer of a user, whom this process changed."""
        key = (tenant_id, user_id)
        self._answers.pop(key, None)
        # A look-up in progress may have read the state before the change.
        self._look_ups.pop(key, None)

    async def _look_up(self, key: _Key, ctx: CallContext) -> _Answer | DomainError:
        # The age counts from before the look-up, so that a change during it is not hidden for longer.
        asked_at = self._now()
        deadline = asyncio.get_running_loop().time() + LOOK_UP_SECONDS
        ctx = replace(ctx, deadline=deadline, is_own_deadline=True)
        try:
            answer = _Answer(await self._source.find(ctx), asked_at)
        except DomainError as error:
            known = self._answers.get(key)
            if known is not None and asked_at - known.asked_at < MAX_STALE_SECONDS:
                return known
            if isinstance(error, AuthorizationError):
                # No retry helps: the environment of the users service does not name this service as a caller.
                _log.error("users refuses this service", setting="USERS_SERVER_INTERNAL_CALLERS")
                return InternalError()
            return ExternalServiceError(retry_after_seconds=1)
        else:
            if self._is_current(key):
                self._answers[key] = answer
            return answer
        finally:
            if self._is_current(key):
                del self._look_ups[key]

    def _is_current(self, key: _Key) -> bool:
        return self._look_ups.get(key) is asyncio.current_task()


def is_user_id(subject: str) -> bool:
    """Tells whether ``subject`` may be the id of a stored user."""
    return UUID_PATTERN.fullmatch(subject) is not None


def _key(principal: Principal) -> _Key:
    return principal.tenant_id, principal.subject.lower()


def _with_stored_roles(principal: Principal, user: StoredUser | None) -> Principal:
    if user is None:
        return principal
    if not user.is_active:
        raise UnauthenticatedError
    # Comparing costs a twentieth of replacing (4 µs), and the roles are often the same.
    return principal if principal.roles == user.roles else replace(principal, roles=user.roles)
