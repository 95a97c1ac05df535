"""An event loop whose clock a test moves, for state machines: nothing waits, and every run is the same."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_ROUNDS: Final = 25
"""More than any chain of callbacks in these tests is long."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs what is ready; time passes by `advance` only."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1_000.0

    def __del__(self) -> None:
        """Closes the loop: hypothesis may drop a machine without its teardown."""
        if not self.is_closed():
            self.close()

    def time(self) -> float:
        """Returns the virtual time, in seconds."""
        return self._now

    def settle(self) -> None:
        """Runs everything that does not wait for time or for the test."""
        self.run_until_complete(_turns())

    def advance(self, seconds: float) -> None:
        """Moves the clock, then settles."""
        self._now += seconds
        self.settle()

    def within(self, function: Callable[[], T]) -> T:
        """Calls ``function`` as code on the loop does, then settles."""

        async def call() -> T:
            return function()

        result = self.run_until_complete(call())
        self.settle()
        return result


async def _turns() -> None:
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
