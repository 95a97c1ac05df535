"""A service that others call hangs or is down: they stop calling it, say so at once, and do everything else."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest
from api_common.siblings import FAILURES_TO_OPEN, MAX_WAIT_SECONDS

from tests.faults.callers import Caller
from tests.faults.form import FORM, Report
from tests.faults.load import load
from tests.faults.stand import PATIENCE_SECONDS, Stand
from tools.topology import NAMED

S = grpc.StatusCode
IPAS, WORKFLOWS, USERS = NAMED["ipas"], NAMED["workflows"], NAMED["users"]
OPEN = 'circuit_breaker_state{"state": "open", "target": "workflows"}'


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", FORM.sibling_faults, ids=lambda number: number.name)
async def test_a_sibling_that_does_not_answer_is_left_alone_until_it_is_back(
    stand: Stand, ada: Caller, report: Report, fault: signal.Signals
) -> None:
    ipas, workflows, _ = await asyncio.gather(*(stand.known(service) for service in (IPAS, WORKFLOWS, USERS)))
    workflow = await ada.create_workflow()
    await ada.create_ipa(workflow_id=workflow.id)
    async with load(ada.ask_each((IPAS, USERS))) as seen:
        workflows.process.send_signal(fault)
        if fault is signal.SIGKILL:
            await workflows.ended()
        refused = [ada.create_ipa(workflow_id=workflow.id) for _ in range(FAILURES_TO_OPEN)]
        assert {await call.code() for call in refused} == {S.UNAVAILABLE}
        assert (await ipas.metrics())[OPEN] == 1
        # A call to a service that hangs would not be answered in this time.
        seconds = MAX_WAIT_SECONDS / 2 if fault is signal.SIGSTOP else PATIENCE_SECONDS
        refused = [ada.create_ipa(workflow_id=workflow.id, timeout=seconds) for _ in range(20)]
        assert {await call.code() for call in refused} == {S.UNAVAILABLE}
        if fault is signal.SIGSTOP:
            workflows.process.send_signal(signal.SIGCONT)
        await stand.known(WORKFLOWS)
        async with asyncio.timeout(20):
            while await ada.create_ipa(workflow_id=workflow.id).code() is not S.OK:
                await asyncio.sleep(0.05)
        assert (await ipas.metrics())[OPEN] == 0
    # What does not need workflows did not notice.
    assert seen.failures == {}
    report(f"a sibling gets {fault.name}", f"breaker opened and closed; {seen.asked} other requests, none failed")
