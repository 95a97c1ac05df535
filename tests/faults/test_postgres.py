"""The database stops, freezes, drops connections and changes under a service that is asked all the while."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.faults.callers import Caller
from tests.faults.form import FORM, Report
from tests.faults.load import load
from tests.faults.locks import locked, until_sessions
from tests.faults.stand import Replica, Stand
from tools.topology import NAMED

S = grpc.StatusCode
USERS = NAMED["users"]
RECOVERY_SECONDS = 5
"""How long the service may take after the database is back (FA-2)."""
BLOCKED_SECONDS = 1
"""What waits for the database on the event loop would hold it up for longer than this."""


@pytest.fixture
async def service(stand: Stand) -> Replica:
    """The users service; no test restarts it."""
    return await stand.running(USERS)


async def test_a_column_that_is_added_under_load_is_nobodys_error(
    stand: Stand, service: Replica, ada: Caller, report: Report
) -> None:
    async with stand.operator(USERS) as operator, load(ada.write_and_read) as seen:
        await seen.go_on(FORM.load_seconds / 2)
        await operator.execute("ALTER TABLE users ADD COLUMN faults text DEFAULT 'new'")
        await seen.go_on(FORM.load_seconds / 2)
        await operator.execute("ALTER TABLE users DROP COLUMN faults")
        await seen.go_on(FORM.load_seconds / 2)
    assert seen.failures == {}
    report("a column added and dropped", f"{seen.asked} requests, none failed")


async def test_idle_connections_that_are_ended_are_nobodys_error(
    stand: Stand, service: Replica, ada: Caller, report: Report
) -> None:
    async with stand.operator(USERS) as operator:
        for number in range(0, 2 * FORM.leaving, 20):
            # More at once than there are connections, so that all are open.
            await asyncio.gather(*(ada.write_and_read(number + one) for one in range(20)))
            killed = await operator.fetchval(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert killed > 1
        await asyncio.gather(*(ada.write_and_read(number + 20 + one) for one in range(20)))
    report("every idle connection ended", f"{FORM.leaving // 10} times, no call failed")


async def test_a_database_that_stops_is_503_until_it_is_back(
    stand: Stand, service: Replica, ada: Caller, report: Report
) -> None:
    async with load(ada.write_and_read) as seen:
        await seen.go_on()
        await stand.crash_postgres()
        await service.until_ready(False)
        await seen.go_on(FORM.outage_seconds)
        async with stand.client("acme") as rest:
            refusal = await rest.get("/v1/users")
        assert (refusal.status_code, refusal.json()["code"]) == (503, S.UNAVAILABLE.value[0])
        await stand.start_postgres()
        async with asyncio.timeout(RECOVERY_SECONDS):
            await service.until_ready()
        await stand.until_served(service)
        resumed = seen.asked
        await seen.go_on()
    assert set(seen.statuses) == {S.OK, S.UNAVAILABLE}, seen.failures
    assert seen.failures_since(resumed) == {}
    await service.until_idle()
    async with stand.operator(USERS) as operator:
        emails = {row["email"] for row in await operator.fetch("SELECT email FROM users")}
    # What was acknowledged is there.
    assert {ada.email(number) for number in seen.done if number % 2 == 0} <= emails
    refused = seen.statuses[S.UNAVAILABLE]
    report("Postgres crashed and started again", f"{refused} of {seen.statuses.total()} refused, 503")


async def test_a_database_that_freezes_ends_no_call_late(
    stand: Stand, service: Replica, ada: Caller, report: Report
) -> None:
    async with stand.client("acme", **{"grpc-timeout": "1S"}) as rest:
        assert (await rest.get("/v1/users")).status_code == 200
        with stand.frozen_postgres():
            answers = await asyncio.gather(*(ask(rest, number) for number in range(40)))
            # The service's own answers, each in time: the client would have waited for half a minute.
            codes = {(one.status_code, one.json()["code"]) for one in answers}
            assert (504, 4) in codes
            assert codes <= {(504, 4), (503, 14)}
            await service.until_ready(False)
            metrics = await service.metrics()
        assert metrics["event_loop_lag_seconds"] < BLOCKED_SECONDS
        await service.until_ready()
        await stand.until_served(service)
        await service.until_idle()
        assert {(await ask(rest, number)).status_code for number in range(40)} == {200}
    # Also not of callers that were gone before their answer.
    assert [one for one in service.records() if "exception" in one] == []
    statuses = [one.status_code for one in answers]
    report(
        "Postgres frozen, deadline 1 s",
        f"{statuses.count(504)} DEADLINE_EXCEEDED, {statuses.count(503)} UNAVAILABLE,"
        f" loop at most {metrics['event_loop_lag_seconds'] * 1000:.0f} ms late",
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("leaving", ["at its deadline", "by hanging up"])
async def test_who_leaves_leaves_nothing_behind(
    stand: Stand, service: Replica, ada: Caller, leaving: str, report: Report
) -> None:
    """A write that waits for a lock is gone from the server when its caller is, and so is what it wrote before."""
    user = await ada.create_user(0)
    async with stand.operator(USERS) as operator:
        async with locked(operator, user):
            for _ in range(FORM.leaving // 10):
                timeout = 0.3 if leaving == "at its deadline" else 30
                calls = [ada.rename_user(user, timeout=timeout) for _ in range(10)]
                if leaving == "by hanging up":
                    await until_sessions(operator, "wait_event_type = 'Lock'", at_least=1)
                    for call in calls:
                        call.cancel()
                assert {await code_of(call) for call in calls} <= {S.DEADLINE_EXCEEDED, S.ABORTED, S.CANCELLED}
                await until_sessions(operator, "wait_event_type = 'Lock'", at_most=0)
        await service.until_idle()
        await until_sessions(operator, "state <> 'idle'", at_most=0)
        found = await operator.fetchval("SELECT display_name FROM users WHERE id = $1", user.id)
        assert found == "x"
        assert await operator.fetchval("SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass") == 0
    assert (await ada.rename_user(user)).display_name == "renamed"
    report(f"callers leave {leaving}", f"{FORM.leaving} times: no statement, lock or connection left")


async def ask(rest: Any, number: int) -> Any:
    """Lists and creates by turns, over REST."""
    if number % 2:
        return await rest.get("/v1/users")
    return await rest.post("/v1/users", json={"displayName": "x", "email": f"{number}@example.com"})


async def code_of(call: Any) -> grpc.StatusCode:
    """Waits for the end of ``call``."""
    code: grpc.StatusCode = await call.code()
    return code
