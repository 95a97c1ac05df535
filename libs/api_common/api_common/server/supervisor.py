"""Keeps the background tasks of a process running: one that dies is logged, counted and started again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

FIRST_PAUSE_SECONDS: Final = 0.5
"""The pause before the first restart; each further one is twice as long."""
LONGEST_PAUSE_SECONDS: Final = 30.0
"""No pause is longer. A task that has run for longer than this counts as recovered."""

_log: Final = structlog.get_logger()


class Supervisor:
    """Runs tasks that never end by themselves, until it is closed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._restarts = Counter(
            "background_task_restarts", "Restarts of background tasks that died.", ("task",), registry=registry
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    def start(
        self, name: str, run: Callable[[], Awaitable[None]], *, on_death: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Runs ``run`` in the background, again whenever it returns or raises.

        Args:
            name: the label of the metric.
            on_death: is awaited before the pause, for a task that the service cannot work without.
        """
        self._restarts.labels(name)
        self._tasks.append(asyncio.create_task(self._keep_running(name, run, on_death), name=name))

    async def close(self) -> None:
        """Cancels the tasks, again each second in case a library swallows it, and waits until they have ended."""
        self._closing = True
        while not all(task.done() for task in self._tasks):
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=1)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_running(
        self, name: str, run: Callable[[], Awaitable[None]], on_death: Callable[[], Awaitable[None]] | None
    ) -> None:
        now = asyncio.get_running_loop().time
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = now()
            error: BaseException | None = None
            try:
                await run()
            # A task may also end by a cancellation that is not ours, for example of something that it waited for.
            except (Exception, asyncio.CancelledError) as caught:
                if self._closing:
                    raise
                error = caught
            if now() - started > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            _log.error("background task died", task=name, restart_in_seconds=pause, exc_info=error)
            self._restarts.labels(name).inc()
            if on_death is not None:
                try:
                    await on_death()
                except Exception:  # noqa: BLE001 - the supervisor itself must not die
                    _log.exception("death of a background task was not handled", task=name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
