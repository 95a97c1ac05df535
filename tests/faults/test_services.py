"""Services are replaced and killed under load."""

from __future__ import annotations

import asyncio
import signal

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


NOTICED_SECONDS = 0.25
"""How long the edge may take to see that a process is gone, on a busy machine; Envoy's own pause of 1 s is too long."""


class TestRollingRestart:
    @pytest.mark.timeout(300)
    async def test_of_services_under_load_loses_no_request(self, stand: Stand, ada: Caller, report: Report) -> None:
        """A new replica comes before the old one goes, as in a Deployment; all services at once, which is harder."""
        old = await asyncio.gather(*(stand.running(service) for service in FORM.restarted))
        new = await asyncio.gather(*(stand.start(service) for service in FORM.restarted))
        async with load(ada.ask_each(FORM.restarted)) as seen:
            await seen.go_on()
            for left in reversed(range(FORM.rounds)):
                assert await asyncio.gather(*(replica.stop() for replica in old)) == [0] * len(old)
                assert list(map(complaints, old)) == [[]] * len(old)
                await seen.go_on()
                if left:
                    old, new = new, await asyncio.gather(*(stand.start(service) for service in FORM.restarted))
        assert seen.failures == {}
        report(f"rolling restart of {len(old)} services, {FORM.rounds}x", f"{seen.asked} requests, none failed")


class TestSigterm:
    async def test_lets_calls_end_that_run_and_cuts_off_the_rest(self, stand: Stand, ada: Caller) -> None:
        service = await stand.running(USERS)
        ends, stays = await ada.create_user(0), await ada.create_user(1)
        async with stand.operator(USERS) as operator, locked(operator, stays):
            async with stand.operator(USERS) as other, locked(other, ends):
                calls = [asyncio.ensure_future(ada.rename_user(user)) for user in (ends, stays)]
                await until_sessions(operator, "wait_event_type = 'Lock'", at_least=2)
                service.process.send_signal(signal.SIGTERM)
                await service.until_ready(False)
            assert (await calls[0]).display_name == "renamed"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await calls[1]
            assert caught.value.code() is S.UNAVAILABLE
            assert await service.ended() == 0
            assert complaints(service) == []
        async with stand.operator(USERS) as operator:
            name = await operator.fetchval("SELECT display_name FROM users WHERE id = $1", stays.id)
        assert name == "x"


class TestStart:
    async def test_fails_at_once_and_says_why(self, stand: Stand, report: Report) -> None:
        (incomplete, missing), (unmigrated, revision) = await asyncio.gather(
            stand.refusal_to_start(USERS, USERS_SERVER_GRPC_PORT="many", USERS_PAGINATION_KEYS=""),
            stand.refusal_to_start(USERS, USERS_DATABASE_URL=stand.urls["agents"].application),
        )
        assert (incomplete, unmigrated) == (1, 1)
        assert missing.startswith("users: The environment is incomplete:\n")
        assert "USERS_SERVER_GRPC_PORT" in missing
        assert "USERS_PAGINATION_KEYS" in missing
        assert revision.startswith("users: the schema is at revision ")
        assert "`python -m users_service migrate`" in revision


def complaints(replica: Replica) -> list[object]:
    """Returns what it logged of things that went wrong; the last thing it said must be that it stopped."""
    records = replica.records()
    assert records[-1]["event"] == "stopped"
    return [one for one in records if one["level"] not in {"info", "warning"}]
