"""Whether, when and how often a failed call is made again. No I/O: the stacks of `calls` do the waiting."""

import random
import threading
import time
from dataclasses import dataclass
from typing import Final

import grpc

from ameide_client.api_error import ApiError

_TRANSIENT: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# Lost against another call; nothing was done.
_LOST: Final = ("CONCURRENT_UPDATE", "IDEMPOTENCY_KEY_IN_USE")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is within a call's timeout."""

    max_attempts: int = 4
    """How often a call is made at most; 1 turns retries off."""
    first_pause_seconds: float = 0.1
    """The longest pause before the second attempt; it doubles with each attempt, and a random part of it is waited."""
    longest_pause_seconds: float = 5.0
    """Where the doubling ends. A server's RetryInfo counts, however long."""


class RetryBudget:
    """Keeps the retries of all calls of a client at a tenth of what succeeds, so that an outage is not made worse.

    Source: gRPC's retry throttling (gRFC A6): a failure costs a token, a success earns a part of one, and below half of
    them nothing is made again.
    """

    _MOST: Final = 20.0
    _EARNED: Final = 0.1

    def __init__(self) -> None:
        self._tokens = self._MOST
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Notes that a call succeeded."""
        with self._lock:
            self._tokens = min(self._MOST, self._tokens + self._EARNED)

    def spend(self) -> bool:
        """Notes that an attempt failed, and tells whether another one is affordable."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            return self._tokens > self._MOST / 2


class Attempts:
    """The attempts of one call, which share its timeout."""

    def __init__(self, policy: RetryPolicy, budget: RetryBudget, *, timeout_seconds: float) -> None:
        self._policy = policy
        self._budget = budget
        self._deadline = time.monotonic() + timeout_seconds
        self._made = 0

    @property
    def remaining_seconds(self) -> float:
        """How long the next attempt may take."""
        return max(0.0, self._deadline - time.monotonic())

    def succeeded(self) -> None:
        """Notes that the last attempt was good."""
        self._budget.earn()

    def pause_seconds(self, error: ApiError) -> float:
        """Returns how long to wait before the next attempt, after one that failed with ``error``.

        Raises:
            ApiError: ``error``, if asking again is of no use, not affordable, or too late.
        """
        self._made += 1
        if not is_retryable(error) or not self._budget.spend() or self._made >= self._policy.max_attempts:
            raise error
        longest = min(self._policy.first_pause_seconds * 2 ** (self._made - 1), self._policy.longest_pause_seconds)
        # Jitter only adds to what the server asked for.
        pause = random.uniform(0, longest) + (error.retry_after_seconds or 0)  # noqa: S311 - nothing secret
        if pause >= self.remaining_seconds:
            raise error
        return pause


def is_retryable(error: ApiError) -> bool:
    """Tells whether the same call may succeed when it is made again.

    That it does no harm is the idempotency key's business, which every call that writes has.
    """
    return error.code in _TRANSIENT or error.retry_after_seconds is not None or error.reason in _LOST
