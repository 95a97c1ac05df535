"""A background task that dies is noticed, counted and started again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from api_common.server import supervisor as supervisor_module
from api_common.server.supervisor import Supervisor
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

Run = Callable[[], Awaitable[None]]

PAUSE = 0.02


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def supervisor(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE_SECONDS", PAUSE)
    supervisor = Supervisor(registry)
    yield supervisor
    await supervisor.close()


def restarts(registry: CollectorRegistry, task: str) -> float | None:
    return registry.get_sample_value("background_task_restarts_total", {"task": task})


class Mortal:
    """A task that dies of each of some causes in turn, and then lives."""

    def __init__(self, *causes: BaseException | None) -> None:
        self._causes: Iterator[BaseException | None] = iter(causes)
        self.lives = asyncio.Event()
        self.ended = False

    async def __call__(self) -> None:
        for cause in self._causes:
            if cause is None:
                return
            raise cause
        self.lives.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


async def dying_group() -> None:
    """A task whose own task dies."""

    async def child() -> None:
        raise OSError("child")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child())
        await asyncio.Event().wait()


class TestSupervisor:
    @pytest.mark.parametrize(
        "cause",
        [
            ValueError("bug"),
            RecursionError("deep"),
            MemoryError(),
            None,
            asyncio.CancelledError("not by the supervisor"),
        ],
        ids=repr,
    )
    async def test_restarts_a_task_whatever_it_died_of(
        self, supervisor: Supervisor, registry: CollectorRegistry, cause: BaseException | None
    ) -> None:
        task = Mortal(cause)
        with capture_logs() as logs:
            supervisor.start("mortal", task)
            assert restarts(registry, "mortal") == 0
            await asyncio.wait_for(task.lives.wait(), 20)
        assert restarts(registry, "mortal") == 1
        told = [(entry["event"], entry["task"], entry["exc_info"]) for entry in logs]
        assert told == [("background task died", "mortal", cause)]

    async def test_notices_the_death_of_a_task_within_a_task(
        self, supervisor: Supervisor, registry: CollectorRegistry
    ) -> None:
        supervisor.start("group", dying_group)
        async with asyncio.timeout(20):
            while restarts(registry, "group") == 0:
                await asyncio.sleep(PAUSE)

    @pytest.mark.parametrize(
        ("longest", "expected"),
        [(4 * PAUSE, [PAUSE, 2 * PAUSE, 4 * PAUSE, 4 * PAUSE]), (-1.0, [PAUSE] * 4)],
        ids=["of a task that keeps dying", "of a task that has recovered in between"],
    )
    async def test_pauses_before_each_restart(
        self, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, longest: float, expected: list[float]
    ) -> None:
        monkeypatch.setattr(supervisor_module, "LONGEST_PAUSE_SECONDS", longest)
        task = Mortal(*[ValueError() for _ in expected])
        with capture_logs() as logs:
            supervisor.start("mortal", task)
            await asyncio.wait_for(task.lives.wait(), 20)
        assert [entry["restart_in_seconds"] for entry in logs] == expected

    async def test_leaves_other_tasks_alone(self, supervisor: Supervisor, registry: CollectorRegistry) -> None:
        healthy, mortal = Mortal(), Mortal(ValueError())
        supervisor.start("healthy", healthy)
        supervisor.start("mortal", mortal)
        await mortal.lives.wait()
        assert (restarts(registry, "healthy"), healthy.ended) == (0, False)

    async def test_says_that_a_task_died_before_it_starts_again(self, supervisor: Supervisor) -> None:
        task, order = Mortal(ValueError()), list[Any]()

        async def on_death() -> None:
            order.append(task.lives.is_set())

        supervisor.start("mortal", task, on_death=on_death)
        await task.lives.wait()
        assert order == [False]

    async def test_restarts_a_task_whose_death_cannot_be_handled(self, supervisor: Supervisor) -> None:
        task = Mortal(ValueError())

        async def on_death() -> None:
            raise OSError("on death")

        supervisor.start("mortal", task, on_death=on_death)
        await asyncio.wait_for(task.lives.wait(), 20)

    async def test_ends_its_tasks_before_it_is_closed(self, supervisor: Supervisor) -> None:
        task = Mortal()
        supervisor.start("mortal", task)
        await task.lives.wait()
        await supervisor.close()
        assert task.ended

    async def test_ends_a_task_that_swallows_its_cancellation(self, supervisor: Supervisor) -> None:
        swallowed = asyncio.Event()

        async def task() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed.set()
            await asyncio.Event().wait()

        supervisor.start("stubborn", task)
        await asyncio.sleep(0)
        await supervisor.close()
        assert swallowed.is_set()
