"""How a check waits for what it looks at."""

import time
from collections.abc import Callable
from typing import Final

LIMIT_SECONDS: Final = 600
"""How long anything may take before a check gives up on it."""


def wait_until(true: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> float:
    """Waits until ``true`` says so, and returns how long that took.

    Raises:
        TimeoutError: it did not.
    """
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not after {seconds:.0f} s")
        time.sleep(0.25)
    return time.monotonic() - started
