"""The rules of users, of service accounts and of their API keys."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from api_common.errors import FailedPreconditionError
from api_common.resources import Lifecycle

from users_service.errors import ApiKeyLimitReachedError

MAX_LIVE_KEYS: Final = 10
"""The most live keys of one service account. Two are enough to rotate, and few keys are easier to oversee."""


class State(StrEnum):
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


LIFECYCLE = Lifecycle(
    resource="user",
    transitions={"suspend": ({State.ACTIVE}, State.SUSPENDED), "activate": ({State.SUSPENDED}, State.ACTIVE)},
)


class AccountState(StrEnum):
    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


ACCOUNT_LIFECYCLE = Lifecycle(
    resource="service account",
    transitions={
        "disable": ({AccountState.ACTIVE}, AccountState.DISABLED),
        "enable": ({AccountState.DISABLED}, AccountState.ACTIVE),
    },
)


def check_room(*, live_keys: int) -> None:
    """Checks that the account may have another key; a key that is about to be replaced is not counted.

    Raises:
        ApiKeyLimitReachedError: it may not.
    """
    if live_keys >= MAX_LIVE_KEYS:
        raise ApiKeyLimitReachedError(
            f"The service account has {MAX_LIVE_KEYS} live API keys; revoke one first.",
            metadata={"limit": str(MAX_LIVE_KEYS)},
        )


def check_rotatable(*, ended: bool, expire_time: datetime | None, now: datetime) -> None:
    """Checks that a key may yield a new one: once, while it is live.

    Args:
        ended: whether it is revoked or has a successor.

    Raises:
        FailedPreconditionError: it may not.
    """
    if ended or (expire_time is not None and expire_time <= now):
        raise FailedPreconditionError("The API key has ended or has a successor; create another one.")


def successor_expiry(*, create_time: datetime, expire_time: datetime | None, now: datetime) -> datetime | None:
    """Returns when the successor of a key expires by default: it gets the lifetime of its predecessor."""
    return None if expire_time is None else now + (expire_time - create_time)


def overlap_expiry(*, expire_time: datetime | None, now: datetime, overlap: timedelta) -> datetime:
    """Returns when a replaced key expires: after the overlap, and never later than before."""
    return now + overlap if expire_time is None else min(expire_time, now + overlap)
