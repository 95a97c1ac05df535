"""How long one turn of the event loop is, on a machine that may be slower just now than the one of a bound."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

COUNT_SECONDS: Final = 0.032
"""In which the core of all bounds counts to a million."""
MAX_TRIES: Final = 8


async def least(measure: Callable[[], Awaitable[float]], bound: float) -> float:
    """Returns a measured CPU time, as the core of the bound would have taken it; the least of some if they are longer.

    A busy machine is slower now and then; what is too slow, is so each time.
    """
    found = float("inf")
    for _ in range(MAX_TRIES):
        seconds = await measure()
        # To count takes longer than most of what is measured.
        found = min(found, seconds if seconds < bound else seconds / slowness())
        if found < bound:
            break
    return found


def slowness() -> float:
    """Returns by how much this core is slower just now."""
    began = time.thread_time()
    for _ in range(1_000_000):
        pass
    return max(1.0, (time.thread_time() - began) / COUNT_SECONDS)
