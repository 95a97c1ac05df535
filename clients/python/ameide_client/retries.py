"""Decides whether, when and how often a failed call is repeated. No I/O: the stacks of `calls` wait."""

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import Final

import grpc

from ameide_client.api_error import ApiError

LOG: Final = logging.getLogger("ameide_client")
_TRANSIENT: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# Another call won; this one changed nothing.
_LOST: Final = ("CONCURRENT_UPDATE", "IDEMPOTENCY_KEY_IN_USE")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a call is repeated within its timeout."""

    max_attempts: int = 4
    """The most attempts of a call; 1 switches retries off."""
    first_pause_seconds: float = 0.1
    """The longest pause before the second attempt. It doubles with each attempt; the pause is a random part of it."""
    longest_pause_seconds: float = 5.0
    """The limit of the doubling. A server's RetryInfo counts, however long it is."""


class RetryBudget:
    """Limits the retries of a client to a tenth of its successful calls, so that they do not worsen an outage.

    Source: gRPC's retry throttling (gRFC A6): a failure costs a token, a success earns a part of one, and below half of
    the tokens no call is repeated.
    """

    _MOST: Final = 20.0
    _EARNED: Final = 0.1

    def __init__(self) -> None:
        self._tokens = self._MOST
        self._lock = threading.Lock()

    def earn(self) -> None:
        with self._lock:
            self._tokens = min(self._MOST, self._tokens + self._EARNED)

    def spend(self) -> bool:
        """Counts a failed attempt, and returns whether the budget permits another one."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            return self._tokens > self._MOST / 2


class Attempts:
    """The attempts of one call, which share its timeout."""

    def __init__(self, policy: RetryPolicy, budget: RetryBudget, *, timeout_seconds: float, method: str = "") -> None:
        self._method = method
        self._policy = policy
        self._budget = budget
        self._deadline = time.monotonic() + timeout_seconds
        self._made = 0

    @property
    def remaining_seconds(self) -> float:
        """The time that is left for the next attempt."""
        return max(0.0, self._deadline - time.monotonic())

    def succeeded(self) -> None:
        self._budget.earn()
        LOG.debug("%s: attempt %d succeeded", self._method, self._made + 1)

    def pause_seconds(self, error: ApiError) -> float:
        """Returns how long to wait before the next attempt, after one that failed with ``error``.

        Raises:
            ApiError: ``error``, if a retry is useless, over the budget, or too late.
        """
        self._made += 1
        LOG.info("%s: attempt %d failed: %s", self._method, self._made, error)
        if not is_retryable(error) or not self._budget.spend() or self._made >= self._policy.max_attempts:
            raise error
        longest = min(self._policy.first_pause_seconds * 2 ** (self._made - 1), self._policy.longest_pause_seconds)
        # Jitter only adds to the delay that the server asked for.
        pause = random.uniform(0, longest) + (error.retry_after_seconds or 0)  # noqa: S311 - nothing secret
        if pause >= self.remaining_seconds:
            raise error
        return pause


def is_retryable(error: ApiError) -> bool:
    """Returns whether the same call may succeed when it is repeated.

    A retry is safe, because every call that writes has an idempotency key.
    """
    return error.code in _TRANSIENT or error.retry_after_seconds is not None or error.reason in _LOST
