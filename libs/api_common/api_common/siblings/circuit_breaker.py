"""Stops calling a dependency that fails, and lets one call at a time try whether it is back.

pybreaker keeps the state; we drive it outside the await, because its own asyncio use lets every waiting call through
when half open, takes cancellation for failure, and replaces the CancelledError (measured; ADR 9).
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import pybreaker

from api_common.errors import DeadlineExceededError, ExternalServiceError

T = TypeVar("T")

FAILURES_TO_OPEN: Final = 5
"""Failures in a row after which calls are refused."""

RESET_SECONDS: Final = 5.0
"""How long calls are refused before one may try."""


class CircuitBreaker:
    """Guards the calls to one dependency.

    Args:
        target: the dependency's name in messages and metrics.
        on_change: told the new state, `closed`, `open` or `half-open`.
    """

    def __init__(
        self,
        target: str,
        *,
        failures_to_open: int = FAILURES_TO_OPEN,
        reset_seconds: float = RESET_SECONDS,
        on_change: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._reset_seconds = reset_seconds
        self._now = now
        self._opened_at = 0.0
        self._probing = False
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures_to_open, reset_timeout=reset_seconds, throw_new_error_on_trip=False
        )
        self._on_change = on_change

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        state: str = self._breaker.current_state
        return state

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Runs ``call`` unless its dependency is known to be down.

        Only an ExternalServiceError counts as a failure: every other answer, an error too, shows that somebody is
        there. Cancellation and a caller's deadline count as nothing: a caller that waits for 1 ms learns nothing.

        Raises:
            ExternalServiceError: the breaker is open.
        """
        probe = self._admit()
        try:
            result = await call()
        except (asyncio.CancelledError, DeadlineExceededError):
            raise
        except ExternalServiceError:
            self._failed(probe=probe)
            raise
        except Exception:
            self._succeeded(probe=probe)
            raise
        else:
            self._succeeded(probe=probe)
            return result
        finally:
            if probe:
                self._probing = False

    def _admit(self) -> bool:
        """Tells whether the call is the one that tries.

        Raises:
            ExternalServiceError: it may not run.
        """
        if self.state == pybreaker.STATE_CLOSED:
            return False
        wait = self._opened_at + self._reset_seconds - self._now()
        if self._probing or wait > 0:
            raise ExternalServiceError(
                f"The {self._target} service does not answer now.", retry_after_seconds=max(1.0, wait)
            )
        self._move(self._breaker.half_open)
        self._probing = True
        return True

    def _failed(self, *, probe: bool) -> None:
        if probe:
            self._move(self._breaker.open)
        elif self.state == pybreaker.STATE_CLOSED:
            self._move(self._count_failure)

    def _succeeded(self, *, probe: bool) -> None:
        if probe:
            self._move(self._breaker.close)
        elif self.state == pybreaker.STATE_CLOSED:
            self._breaker.call(lambda: None)

    def _count_failure(self) -> None:
        with contextlib.suppress(_CountedError), self._breaker.calling():
            raise _CountedError

    def _move(self, change: Callable[[], object]) -> None:
        before = self.state
        change()
        if self.state == before:
            return
        if self.state == pybreaker.STATE_OPEN:
            self._opened_at = self._now()
        self._on_change(self.state)


class _CountedError(Exception):
    """What pybreaker sees of a failure."""
