"""The breaker under every order of calls, answers and waiting that hypothesis finds, beside what is promised of it."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import hypothesis.strategies as st
from api_common.errors import DeadlineExceededError, ExternalServiceError, NotFoundError
from api_common.siblings.circuit_breaker import CircuitBreaker
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from libs.api_common.tests.virtual_time import VirtualTimeLoop

FAILURES: Final = 3
RESET_SECONDS: Final = 5.0


@dataclass(eq=False)
class Call:
    """A call that the dependency has not answered."""

    task: "asyncio.Task[str]"
    gate: "asyncio.Future[str]"
    is_probe: bool


class BreakerStates(RuleBasedStateMachine):
    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.told: list[str] = []
        self.breaker = CircuitBreaker(
            "agents",
            failures_to_open=FAILURES,
            reset_seconds=RESET_SECONDS,
            on_change=self.told.append,
            now=self.loop.time,
        )
        self.state = "closed"
        self.states: list[str] = []
        self.failures_in_a_row = 0
        self.opened_at = 0.0
        self.probe: Call | None = None

    @rule(target=calls)
    def call(self) -> Any:
        gate: asyncio.Future[str] = self.loop.create_future()

        async def dependency() -> str:
            return await gate

        may_try = self.state != "closed" and self.probe is None and self.loop.time() >= self.opened_at + RESET_SECONDS
        task = self.loop.create_task(self.breaker.run(dependency))
        self.loop.settle()
        if self.state != "closed" and not may_try:
            error = task.exception()
            assert isinstance(error, ExternalServiceError), "the call was let through"
            assert error.retry_after_seconds is not None
            assert error.retry_after_seconds >= 1
            return multiple()
        assert not task.done(), "the call was refused"
        made = Call(task, gate, is_probe=may_try)
        if may_try:
            self.probe = made
            self._move("half-open")
        return made

    @rule(call=consumes(calls))
    def fail(self, call: Call) -> None:
        self._end(call, ExternalServiceError("down"))
        if call.is_probe:
            self._open()
        elif self.state == "closed":
            self.failures_in_a_row += 1
            if self.failures_in_a_row == FAILURES:
                self._open()

    @rule(call=consumes(calls), error=st.sampled_from([None, NotFoundError("none"), ValueError("a defect of ours")]))
    def answer(self, call: Call, error: Exception | None) -> None:
        """An error that the dependency chose shows that it is there."""
        self._end(call, error)
        if call.is_probe:
            self.failures_in_a_row = 0
            self._move("closed")
        elif self.state == "closed":
            self.failures_in_a_row = 0

    @rule(call=consumes(calls), late=st.booleans())
    def give_up(self, call: Call, late: bool) -> None:
        """Says nothing about the dependency."""
        if late:
            self._end(call, DeadlineExceededError("late"))
        else:
            call.task.cancel()
            self.loop.settle()
            assert call.task.cancelled()
        if call.is_probe:
            self.probe = None

    @rule(seconds=st.sampled_from([0.5, RESET_SECONDS - 0.5, RESET_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @invariant()
    def state_is_as_promised(self) -> None:
        assert (self.breaker.state, self.told) == (self.state, self.states)

    def teardown(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.settle()
        self.loop.close()

    def _end(self, call: Call, error: Exception | None) -> None:
        if error is None:
            call.gate.set_result("answer")
        else:
            call.gate.set_exception(error)
        self.loop.settle()
        assert call.task.exception() is error
        if call.is_probe:
            self.probe = None

    def _open(self) -> None:
        self.opened_at = self.loop.time()
        self._move("open")

    def _move(self, state: str) -> None:
        if self.state != state:
            self.state = state
            self.states.append(state)


TestBreakerStates = BreakerStates.TestCase
TestBreakerStates.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
