"""The breaker opens, tries one call, closes; and does not confuse cancellation with failure."""

import asyncio

import pytest
from api_common.errors import DeadlineExceededError, ExternalServiceError, NotFoundError
from api_common.siblings.circuit_breaker import CircuitBreaker


class Dependency:
    """Answers what it is told to, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = ExternalServiceError("down")
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> str:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return "answer"


class Clock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def states() -> list[str]:
    return []


@pytest.fixture
def breaker(clock: Clock, states: list[str]) -> CircuitBreaker:
    return CircuitBreaker("agents", failures_to_open=3, reset_seconds=5, on_change=states.append, now=clock)


async def fail(breaker: CircuitBreaker, dependency: Dependency, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ExternalServiceError):
            await breaker.run(dependency)


async def test_opens_after_failures_in_a_row_and_then_calls_nobody(breaker: CircuitBreaker) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 10)
    assert (dependency.calls, breaker.state) == (3, "open")


async def test_counts_failures_in_a_row_only(breaker: CircuitBreaker) -> None:
    dependency = Dependency()
    for _ in range(3):
        dependency.error = ExternalServiceError("slow")
        await fail(breaker, dependency, 2)
        dependency.error = None
        assert await breaker.run(dependency) == "answer"
    assert breaker.state == "closed"


async def test_takes_an_ordinary_refusal_for_an_answer(breaker: CircuitBreaker) -> None:
    dependency = Dependency()
    dependency.error = NotFoundError("no such agent")
    for _ in range(10):
        with pytest.raises(NotFoundError):
            await breaker.run(dependency)
    assert (dependency.calls, breaker.state) == (10, "closed")


async def test_lets_one_call_of_many_try_and_closes_when_it_succeeds(
    breaker: CircuitBreaker, clock: Clock, states: list[str]
) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 3)
    clock.now += 5
    dependency.calls, dependency.error = 0, None
    dependency.gate.clear()
    calls = [asyncio.ensure_future(breaker.run(dependency)) for _ in range(5)]
    await asyncio.sleep(0)
    dependency.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert (dependency.calls, results.count("answer")) == (1, 1)
    assert states == ["open", "half-open", "closed"]
    assert await breaker.run(dependency) == "answer"


async def test_stays_open_when_the_try_fails(breaker: CircuitBreaker, clock: Clock, states: list[str]) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 3)
    clock.now += 5
    await fail(breaker, dependency, 2)
    assert (dependency.calls, states) == (4, ["open", "half-open", "open"])
    clock.now += 4
    await fail(breaker, dependency, 1)
    assert dependency.calls == 4


@pytest.mark.parametrize("failed_before", [0, 3])
async def test_takes_cancellation_neither_for_failure_nor_for_success(
    breaker: CircuitBreaker, clock: Clock, failed_before: int
) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, failed_before)
    clock.now += 5
    dependency.gate.clear()
    for _ in range(5):
        call = asyncio.ensure_future(breaker.run(dependency))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert breaker.state == ("half-open" if failed_before else "closed")
    dependency.gate.set()
    dependency.error = None
    assert await breaker.run(dependency) == "answer"
    assert breaker.state == "closed"


@pytest.mark.parametrize("failed_before", [0, 3])
async def test_takes_the_deadline_of_a_caller_neither_for_failure_nor_for_success(
    breaker: CircuitBreaker, clock: Clock, failed_before: int
) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, failed_before)
    clock.now += 5
    dependency.error = DeadlineExceededError("too short")
    for _ in range(5):
        with pytest.raises(DeadlineExceededError):
            await breaker.run(dependency)
    assert breaker.state == ("half-open" if failed_before else "closed")
    dependency.error = None
    assert await breaker.run(dependency) == "answer"
    assert breaker.state == "closed"


async def test_says_when_to_come_back(breaker: CircuitBreaker) -> None:
    await fail(breaker, Dependency(), 3)
    with pytest.raises(ExternalServiceError) as caught:
        await breaker.run(Dependency())
    assert caught.value.retry_after_seconds == 5
    assert "agents" in caught.value.message
