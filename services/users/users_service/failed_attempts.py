"""Limits how many API keys that do not work are looked up for one address."""

import time
from collections.abc import Callable
from typing import Final

from api_common.errors import RateLimitError
from cachetools import FIFOCache

PER_SECOND: Final = 50
"""Failed look-ups of one address per second; a program that loops with an old key needs fewer."""
AT_ONCE: Final = 100
"""How many of them may come at once after a pause."""

_ADDRESSES: Final = 10_000


class FailedAttempts:
    """One token bucket per address, in this process; the address with the oldest attempt is evicted first.

    An attempt takes its token before its key is looked up, so a thousand simultaneous attempts cannot pass.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._shares: FIFOCache[str, tuple[float, float]] = FIFOCache(_ADDRESSES)

    def take(self, address: str) -> None:
        """Begins an attempt of ``address``.

        Raises:
            RateLimitError: too many of its attempts have failed.
        """
        now = self._now()
        left, since = self._shares.pop(address, (float(AT_ONCE), now))
        left = min(float(AT_ONCE), left + (now - since) * PER_SECOND)
        self._shares[address] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise RateLimitError("Too many API keys from this address did not work.", retry_after_seconds=1)

    def give_back(self, address: str) -> None:
        """Ends an attempt that succeeded."""
        if address in self._shares:
            left, since = self._shares[address]
            self._shares[address] = (left + 1, since)
