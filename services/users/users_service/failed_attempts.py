"""How many API keys that do not work an address may send before the next one is not even looked for."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from api_common.errors import RateLimitError

PER_SECOND: Final = 50
"""Look-ups in vain of one address; a program with an old key in a loop needs fewer."""
AT_ONCE: Final = 100
"""How many of them may come together after a pause."""

_ADDRESSES: Final = 10_000


class FailedAttempts:
    """A token bucket for each address, in this process; the address that tried longest ago is forgotten first.

    An attempt takes its share before anybody knows whether its key works, so that a thousand at once are no way round.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._shares: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Begins an attempt of ``address``.

        Raises:
            RateLimitError: too many of its attempts have failed.
        """
        now = self._now()
        left, since = self._shares.pop(address, (float(AT_ONCE), now))
        left = min(float(AT_ONCE), left + (now - since) * PER_SECOND)
        self._shares[address] = (left - 1 if left >= 1 else left, now)
        if len(self._shares) > _ADDRESSES:
            self._shares.popitem(last=False)
        if left < 1:
            raise RateLimitError("Too many API keys from this address did not work.", retry_after_seconds=1)

    def give_back(self, address: str) -> None:
        """Ends an attempt that did not fail."""
        if address in self._shares:
            left, since = self._shares[address]
            self._shares[address] = (left + 1, since)
