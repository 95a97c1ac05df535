"""What is stored of a user counts for more than what the user's token says (ADR 0011).

A token's roles are as old as the token. Those of a user that the users service stores are read there, and so is whether
the user may use the platform at all; what was read is believed for half a minute.
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
"""How long an answer is believed: the bound within which a change of a stored user takes effect."""
MAX_STALE_SECONDS: Final = 300
"""How long the last answer is believed while nobody can be asked; then the user's calls are refused."""
LOOK_UP_SECONDS: Final = 2.0
"""How long one look-up may take, whoever waits for it."""

_CACHE_SIZE: Final = 10_000
_ID_LENGTH: Final = 36

_Key = tuple[str, str]

_log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredUser:
    """What is stored of a user, as far as it decides what the user may do."""

    is_active: bool
    """Neither suspended nor deleted."""
    roles: frozenset[str]
    """Role names, as in `Principal`."""


class UserSource(Protocol):
    """Where stored users are looked up: in the service's own database, or in the users service."""

    async def find(self, ctx: CallContext) -> StoredUser | None:
        """Returns what is stored of the caller, whose subject is an id of a user; None if the tenant has no such user.

        Raises:
            DomainError: nobody can tell now, or not before the deadline of ``ctx``.
        """


class UsersService:
    """The users service as a source, asked over mTLS."""

    def __init__(self, siblings: Siblings) -> None:
        self._users = siblings.open("users", pb.DESCRIPTOR.services_by_name["DirectoryService"])

    async def find(self, ctx: CallContext) -> StoredUser | None:
        """Returns what is stored of the caller; None if the tenant has no such user.

        Raises:
            DomainError: nobody can tell now.
        """
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
    """Remembers what is stored of the users who call.

    Args:
        now: a clock that never goes back, in seconds.
    """

    def __init__(self, source: UserSource, *, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._answers: FIFOCache[_Key, _Answer] = FIFOCache(_CACHE_SIZE)
        self._look_ups: dict[_Key, asyncio.Task[_Answer | DomainError]] = {}

    def recall(self, principal: Principal) -> Principal | None:
        """Returns ``principal`` with the roles that count; None if they must be asked for.

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
        """Returns the caller of ``ctx``, a user, with the roles that count; asks for them first.

        Whoever asks about the same user meanwhile waits for the same answer.

        Raises:
            UnauthenticatedError: the user is suspended or deleted.
            ExternalServiceError: nobody can tell now, and what was known is too old.
            InternalError: the users service does not serve this process.
        """
        key = _key(ctx.principal)
        look_up = self._look_ups.get(key)
        if look_up is None:
            look_up = self._look_ups[key] = asyncio.create_task(self._look_up(key, ctx))
        # Who leaves takes nothing from the others.
        answer = await asyncio.shield(look_up)
        if isinstance(answer, DomainError):
            raise answer
        return _with_stored_roles(ctx.principal, answer.user)

    def forget(self, tenant_id: str, user_id: str) -> None:
        """Makes the next call of a user ask: the user was changed by this process."""
        key = (tenant_id, user_id)
        self._answers.pop(key, None)
        # One that is under way may have read what was before.
        self._look_ups.pop(key, None)

    async def _look_up(self, key: _Key, ctx: CallContext) -> _Answer | DomainError:
        # The age counts from before the question: what is changed while it is answered is as new as any change.
        asked_at = self._now()
        deadline = asyncio.get_running_loop().time() + LOOK_UP_SECONDS
        ctx = replace(ctx, deadline=deadline, is_own_deadline=True)
        try:
            answer = _Answer(await self._source.find(ctx), asked_at)
        except DomainError as error:
            known = self._answers.get(key)
            if known is not None and asked_at - known.asked_at < MAX_STALE_SECONDS:
                return known
            return self._failure(error)
        else:
            if self._is_current(key):
                self._answers[key] = answer
            return answer
        finally:
            if self._is_current(key):
                del self._look_ups[key]

    @staticmethod
    def _failure(error: DomainError) -> DomainError:
        if isinstance(error, AuthorizationError):
            # No retry helps: the environment of the users service does not name this service as a caller.
            _log.error("users refuses this service", setting="USERS_SERVER_INTERNAL_CALLERS")
            return InternalError()
        return ExternalServiceError(retry_after_seconds=1)

    def _is_current(self, key: _Key) -> bool:
        return self._look_ups.get(key) is asyncio.current_task()


def is_user_id(subject: str) -> bool:
    """Tells whether ``subject`` may be the id of a stored user; every other one is the issuer's alone."""
    return UUID_PATTERN.fullmatch(subject) is not None


def _key(principal: Principal) -> _Key:
    return principal.tenant_id, principal.subject.lower()


def _with_stored_roles(principal: Principal, user: StoredUser | None) -> Principal:
    if user is None:
        return principal
    if not user.is_active:
        raise UnauthenticatedError
    # Comparing costs a twentieth of replacing (4 µs), and an issuer may well be in step.
    return principal if principal.roles == user.roles else replace(principal, roles=user.roles)
