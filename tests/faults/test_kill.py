"""A service is killed under load: what it was doing fails, and nothing else."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import grpc
import pytest

from tests.faults.callers import Caller
from tests.faults.form import FORM, Report
from tests.faults.load import load
from tests.faults.stand import PATIENCE_SECONDS, Stand
from tools.topology import NAMED

S = grpc.StatusCode
USERS = NAMED["users"]


# Sent to the process, which ended before it answered: the edge cannot know what came of it.
IN_FLIGHT = "upstream_reset_before_response_started{connection_termination}"


@pytest.mark.timeout(300)
async def test_fails_what_is_in_flight_and_repeats_no_write(stand: Stand, ada: Caller, report: Report) -> None:
    """A write that the edge had sent again would be refused: its e-mail would be taken."""
    await stand.running(USERS)
    async with load(ada.write_and_read) as seen:
        for _ in range(FORM.rounds):
            first = await stand.running(USERS)
            await stand.start(USERS)
            await seen.go_on()
            first.process.kill()
            assert await first.ended() == -signal.SIGKILL
            await seen.go_on(2 * FORM.load_seconds)
    assert set(seen.statuses) <= {S.OK, S.UNAVAILABLE}, seen.failures
    # As the edge saw them: no clock tells, the kernel takes its time to close what a killed process had open.
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(failed := [line for line in stand.edge.log() if line["grpc_status"]]) < len(seen.failures):
            await asyncio.sleep(0.1)
    assert Counter(line["details"] for line in failed) == {IN_FLIGHT: len(seen.failures)}
    async with stand.operator(USERS) as operator:
        emails = {row["email"] for row in await operator.fetch("SELECT email FROM users")}
    assert {ada.email(number) for number in seen.done if number % 2 == 0} <= emails
    report(f"kill -9, {FORM.rounds}x", f"{seen.asked} requests, {len(seen.failures)} in flight failed")
