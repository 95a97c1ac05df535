"""When a call is made again. Pauses are asked for, never waited."""

import grpc
import pytest
from ameide_client.api_error import ApiError
from ameide_client.retries import Attempts, RetryBudget, RetryPolicy, is_retryable

_S = grpc.StatusCode
BUSY = ApiError("busy", code=_S.UNAVAILABLE)


def attempts(*, timeout_seconds: float = 60, budget: RetryBudget | None = None, max_attempts: int = 4) -> Attempts:
    policy = RetryPolicy(max_attempts, first_pause_seconds=1, longest_pause_seconds=3)
    return Attempts(policy, budget or RetryBudget(), timeout_seconds=timeout_seconds)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ApiError("", code=_S.UNAVAILABLE), True),
        (ApiError("", code=_S.DEADLINE_EXCEEDED), True),
        (ApiError("", code=_S.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", retry_after_seconds=1), True),
        (ApiError("", code=_S.RESOURCE_EXHAUSTED, reason="PAYLOAD_TOO_LARGE"), False),
        (ApiError("", code=_S.ABORTED, reason="CONCURRENT_UPDATE"), True),
        (ApiError("", code=_S.ABORTED, reason="IDEMPOTENCY_KEY_IN_USE"), True),
        (ApiError("", code=_S.ABORTED, reason="ETAG_MISMATCH"), False),
        (ApiError("", code=_S.INTERNAL), False),
        (ApiError("", code=_S.ALREADY_EXISTS, reason="EMAIL_TAKEN"), False),
    ],
    ids=str,
)
def test_only_what_may_pass_is_made_again(error: ApiError, expected: bool) -> None:
    assert is_retryable(error) is expected


class TestPause:
    def test_is_random_below_a_bound_that_doubles(self) -> None:
        pauses = []
        for _ in range(200):
            call = attempts()
            pauses.append([call.pause_seconds(BUSY) for _ in range(3)])
        longest = [max(one[number] for one in pauses) for number in range(3)]
        assert 0.5 < longest[0] <= 1 < longest[1] <= 2 < longest[2] <= 3
        assert min(one[2] for one in pauses) < 1

    def test_is_never_shorter_than_the_server_asks(self) -> None:
        asked = ApiError("", code=_S.RESOURCE_EXHAUSTED, retry_after_seconds=7)
        pauses = {attempts().pause_seconds(asked) for _ in range(50)}
        assert 7 <= min(pauses) < max(pauses) <= 8

    def test_beyond_the_deadline_is_not_begun(self) -> None:
        asked = ApiError("", code=_S.RESOURCE_EXHAUSTED, retry_after_seconds=7)
        with pytest.raises(ApiError) as raised:
            attempts(timeout_seconds=6).pause_seconds(asked)
        assert raised.value is asked


def test_a_call_ends_with_its_last_attempt() -> None:
    call = attempts(max_attempts=3)
    call.pause_seconds(BUSY)
    call.pause_seconds(BUSY)
    with pytest.raises(ApiError) as raised:
        call.pause_seconds(BUSY)
    assert raised.value is BUSY


class TestBudget:
    def test_ends_retries_while_everything_fails(self) -> None:
        budget, again = RetryBudget(), 0
        for _ in range(1000):
            call = attempts(budget=budget)
            with pytest.raises(ApiError):
                while True:
                    call.pause_seconds(BUSY)
                    again += 1
        assert again < 10

    def test_is_earned_back_by_what_succeeds(self) -> None:
        budget = RetryBudget()
        while budget.spend():
            pass
        with pytest.raises(ApiError):
            attempts(budget=budget).pause_seconds(BUSY)
        for _ in range(40):
            attempts(budget=budget).succeeded()
        assert attempts(budget=budget).pause_seconds(BUSY) <= 1

    def test_is_not_spent_by_what_is_not_retried(self) -> None:
        budget = RetryBudget()
        for _ in range(100):
            with pytest.raises(ApiError):
                attempts(budget=budget).pause_seconds(ApiError("", code=_S.NOT_FOUND))
        assert attempts(budget=budget).pause_seconds(BUSY) <= 1
