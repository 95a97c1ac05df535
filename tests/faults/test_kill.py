"""A service is killed under load: what it was doing fails, and nothing else."""

from __future__ import annotations

import signal

import grpc
import pytest

from tests.faults.callers import Caller
from tests.faults.conftest import Report
from tests.faults.form import FORM, NAMED
from tests.faults.load import REQUESTS_PER_SECOND, load
from tests.faults.stand import Stand

S = grpc.StatusCode
USERS = NAMED["users"]


NOTICED_SECONDS = 0.25
"""How long the edge may take to see that a process is gone, on a busy machine; Envoy's own pause of 1 s is too long."""


@pytest.mark.timeout(300)
async def test_fails_what_is_in_flight_and_repeats_no_write(stand: Stand, ada: Caller, report: Report) -> None:
    """A write that the edge had sent again would be refused: its e-mail would be taken."""
    async with load(ada.write_and_read) as seen:
        for _ in range(FORM.rounds):
            first = await stand.running(USERS)
            await stand.start(USERS)
            await seen.go_on()
            first.process.kill()
            assert await first.ended() == -signal.SIGKILL
            noticed = seen.asked + NOTICED_SECONDS * REQUESTS_PER_SECOND
            await seen.go_on(2 * FORM.load_seconds)
            assert seen.failures_since(noticed) == {}
    assert set(seen.statuses) <= {S.OK, S.UNAVAILABLE}, seen.failures
    async with stand.operator(USERS) as operator:
        emails = {row["email"] for row in await operator.fetch("SELECT email FROM users")}
    assert {ada.email(number) for number in seen.done if number % 2 == 0} <= emails
    report(f"kill -9, {FORM.rounds}x", f"{seen.asked} requests, {len(seen.failures)} in flight failed")
