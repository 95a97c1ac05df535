"""A deployment waits out what may pass, until its deadline, and `:retire` cancels it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.db import Row
from api_common.errors import AbortedError, AuthorizationError, DeadlineExceededError, ExternalServiceError
from api_common.sagas import Effect, Plan, SagaMetrics, StepAction
from api_common.sagas import store as saga_store
from api_common.testing import Caller, refused
from prometheus_client import CollectorRegistry

from libs.api_common.tests.proxy import Proxy
from services.ipas.tests.factories import create_ipa, create_workflow
from services.ipas.tests.stage import (
    ALL,
    DEADLINE_SECONDS,
    NOTHING,
    Cast,
    Clock,
    Gate,
    Stage,
    StageBeside,
    pausing,
    with_effects,
)
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode
WORKFLOW_ONLY: Final = {"workflows": 1, "agents": 0}


class Outage:
    """What happens to the effects of a plan: while it lasts they fail, and are counted in any case."""

    def __init__(self, error: type[Exception] = ExternalServiceError, *, step: str = "") -> None:
        self.lasts = True
        self.attempts: list[str] = []
        self._error = error
        self._step = step

    def over(self, effect: StepAction) -> StepAction:
        async def run(work: Effect) -> Mapping[str, Any] | None:
            name = work.key.split("/")[1]
            self.attempts.append(name)
            if self.lasts and self._step in {"", name}:
                raise self._error
            return await effect(work)

        return run


async def shown(ipas: IpaServiceAsyncStub, caller: Caller, deployment: Row) -> pb.Deployment:
    """Returns what a client sees of a deployment."""
    request = pb.GetDeploymentRequest(ipa_id=deployment["ipa_id"], id=deployment["id"])
    return await ipas.GetDeployment(request, metadata=caller.metadata, timeout=10)


class TestWaiting:
    @pytest.mark.parametrize(
        "error",
        [ExternalServiceError, DeadlineExceededError, AbortedError, ConnectionError],
        ids=lambda one: one.__name__,
    )
    async def test_ends_with_the_outage_however_often_it_failed(
        self, stage: Stage, ready: Cast, error: type[Exception]
    ) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        outage = Outage(error, step="reserve_agents")
        plan = with_effects(stage.deploy_plan, outage.over)
        for _ in range(20):
            await stage.work(stage.worker(plan), deployment["id"])
        assert (await stage.state(deployment["id"]), await stage.held(deployment["id"])) == ("RUNNING", WORKFLOW_ONLY)
        outage.lasts = False
        assert await stage.finish(stage.worker(plan), deployment["id"]) == "DONE"
        assert await stage.held(deployment["id"]) == ALL
        # What had succeeded was not attempted again.
        assert outage.attempts == ["reserve_workflow", *["reserve_agents"] * 21]

    async def test_is_shown_with_the_time_of_the_next_attempt(
        self, stage: Stage, ipas: IpaServiceAsyncStub, ready: Cast
    ) -> None:
        outage = Outage()
        worker = stage.worker(with_effects(stage.deploy_plan, outage.over))
        ipa = await ready.ipa()
        request = pb.WatchDeploymentsRequest(ipa_id=ipa)
        async with watching(ipas.WatchDeployments, request, ready.caller) as watch:
            await watch.until("bookmark")
            deployment = await stage.deploy(ready.caller, ipa)
            _, begun = await watch.change()
            assert begun.HasField("deadline_time")
            assert not begun.HasField("next_attempt_time")
            assert begun.deadline_time.ToSeconds() - begun.create_time.ToSeconds() in range(895, 906)
            await stage.work(worker, deployment["id"])
            seen = [await watch.change() for _ in range(2)]
        (_, attempted), (_, waits) = seen
        assert not attempted.HasField("next_attempt_time")
        assert waits == await shown(ipas, ready.caller, deployment)
        due = await stage._of(deployment["id"], "due_time")
        assert waits.next_attempt_time.ToMicroseconds() == round(due.timestamp() * 1e6)
        assert (waits.state, waits.steps[0].error.reason) == (pb.Deployment.DEPLOYING, "UNAVAILABLE")
        outage.lasts = False
        await stage.finish(worker, deployment["id"])
        ended = await shown(ipas, ready.caller, deployment)
        assert ended.state == pb.Deployment.DEPLOYED
        assert not ended.HasField("next_attempt_time")
        assert not ended.HasField("deadline_time")

    async def test_holds_no_task_and_no_connection(self, stage: Stage, ready: Cast) -> None:
        outage = Outage()
        # A pause that no test outlives.
        worker = stage.worker(pausing(with_effects(stage.deploy_plan, outage.over), 500))
        for _ in range(20):
            deployment = await stage.deploy(ready.caller, await ready.ipa())
            await stage.expire(deployment["id"])
        working = asyncio.create_task(worker.run_forever())
        async with asyncio.timeout(30):
            while len(outage.attempts) < 20 or worker._running:
                await asyncio.sleep(0.01)
        working.cancel()
        await asyncio.wait([working])
        occupancy = stage.database.occupancy
        assert (occupancy.open, occupancy.waiting) == (occupancy.idle, 0)
        metrics = CollectorRegistry()
        SagaMetrics(metrics).show(await saga_store.count(stage.database))
        assert (metrics.get_sample_value("sagas_waiting") or 0) >= 20
        assert (metrics.get_sample_value("saga_waiting_seconds") or 0) > 0

    async def test_is_continued_by_another_worker(self, stage: Stage, ready: Cast) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        outage = Outage(step="reserve_agents")
        plan = with_effects(stage.deploy_plan, outage.over)
        first = stage.worker(plan)
        await stage.work(first, deployment["id"])
        await first.stop()
        outage.lasts = False
        second = stage.worker(plan)
        working = asyncio.create_task(second.run_forever())
        async with asyncio.timeout(30):
            while await stage.state(deployment["id"]) != "DONE":
                await asyncio.sleep(0.01)
        await second.stop()
        working.cancel()
        assert outage.attempts == ["reserve_workflow", "reserve_agents", "reserve_agents"]
        assert (await stage.ipa(deployment["ipa_id"]), await stage.held(deployment["id"])) == (("DEPLOYED", 3), ALL)

    async def test_of_one_tenant_lets_others_go_first(
        self,
        stage: Stage,
        ready: Cast,
        ipas: IpaServiceAsyncStub,
        workflows: WorkflowServiceAsyncStub,
        stranger: Caller,
    ) -> None:
        many = [await stage.deploy(ready.caller, await ready.ipa()) for _ in range(3)]
        workflow = await create_workflow(workflows, stranger)
        last = await stage.deploy(stranger, (await create_ipa(ipas, stranger, workflow_id=workflow.id)).id)
        found = await saga_store.find_due(stage.database, [stage.deploy_plan.kind], limit=1000)
        order = [row["id"] for row in found]
        assert order.index(last["id"]) < order.index(many[1]["id"])


class TestADeadline:
    async def test_that_passes_ends_the_deployment_and_takes_back_what_was_done(
        self, stage: Stage, ipas: IpaServiceAsyncStub, ready: Cast
    ) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        outage, clock = Outage(step="reserve_agents"), Clock()
        plan = with_effects(stage.deploy_plan, outage.over, compensations=False)
        worker = stage.worker(plan, now=clock)
        await stage.work(worker, deployment["id"])
        clock.ahead_seconds = DEADLINE_SECONDS - 5
        await stage.work(worker, deployment["id"])
        assert await stage.state(deployment["id"]) == "RUNNING"
        clock.ahead_seconds = DEADLINE_SECONDS + 1
        assert await stage.finish(worker, deployment["id"]) == "FAILED"
        assert outage.attempts == ["reserve_workflow", *["reserve_agents"] * 3]
        assert await stage.held(deployment["id"]) == NOTHING
        failed = await shown(ipas, ready.caller, deployment)
        assert failed.state == pb.Deployment.FAILED
        assert failed.steps[1].error.reason == "UNAVAILABLE"

    async def test_is_not_slept_through(self, stage: Stage, ready: Cast) -> None:
        """The last pause ends at the deadline."""
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        outage, clock = Outage(), Clock()
        worker = stage.worker(pausing(with_effects(stage.deploy_plan, outage.over), 500), now=clock)
        clock.ahead_seconds = DEADLINE_SECONDS - 50
        await stage.work(worker, deployment["id"])
        row = await stage.deployment(deployment["id"])
        pause = row["next_attempt_time"] - row["update_time"]
        assert 0 < pause.total_seconds() <= 50

    async def test_is_given_to_the_compensation_anew(
        self, stage: Stage, ipas: IpaServiceAsyncStub, ready: Cast
    ) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        outage, clock = Outage(), Clock()
        worker = stage.worker(with_effects(stage.deploy_plan, outage.over), now=clock)
        await stage.work(worker, deployment["id"])
        clock.ahead_seconds = DEADLINE_SECONDS + 1
        for _ in range(15):
            await stage.work(worker, deployment["id"])
        waits = await shown(ipas, ready.caller, deployment)
        assert waits.state == pb.Deployment.COMPENSATING
        assert waits.HasField("next_attempt_time")
        assert waits.deadline_time.ToSeconds() - waits.create_time.ToSeconds() > 2 * DEADLINE_SECONDS - 5
        outage.lasts = False
        assert await stage.finish(worker, deployment["id"]) == "FAILED"
        assert await stage.held(deployment["id"]) == NOTHING

    async def test_is_not_awaited_after_a_refusal(self, stage: Stage, ready: Cast) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        outage = Outage(AuthorizationError, step="reserve_agents")
        plan = with_effects(stage.deploy_plan, outage.over, compensations=False)
        await stage.work(stage.worker(plan), deployment["id"])
        assert outage.attempts == ["reserve_workflow", "reserve_agents"]
        assert (await stage.state(deployment["id"]), await stage.held(deployment["id"])) == ("FAILED", NOTHING)

    async def test_is_counted_from_now_for_what_the_release_before_began(
        self, stage: Stage, ipas: IpaServiceAsyncStub, ready: Cast
    ) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        await stage.forget_deadline(deployment["id"])
        assert not (await shown(ipas, ready.caller, deployment)).HasField("deadline_time")
        outage = Outage()
        worker = stage.worker(with_effects(stage.deploy_plan, outage.over))
        await stage.work(worker, deployment["id"])
        assert (await shown(ipas, ready.caller, deployment)).HasField("deadline_time")
        outage.lasts = False
        assert await stage.finish(worker, deployment["id"]) == "DONE"


class TestRetiringWhatWaits:
    async def test_releases_what_was_done_and_ends_the_ipa(
        self, stage: Stage, ipas: IpaServiceAsyncStub, ready: Cast
    ) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        outage = Outage(step="reserve_agents")
        worker = stage.worker(with_effects(stage.deploy_plan, outage.over))
        await stage.work(worker, deployment["id"])
        assert await stage.held(deployment["id"]) == WORKFLOW_ONLY
        saga = await stage.retire(ready.caller, deployment["ipa_id"])
        assert await stage.retire(ready.caller, deployment["ipa_id"]) == saga
        assert (await shown(ipas, ready.caller, deployment)).state == pb.Deployment.RETIRING
        await stage.work(worker, deployment["id"])
        assert outage.attempts == ["reserve_workflow", "reserve_agents"]
        # Until it is retired the IPA is neither changed nor deployed again.
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            request = pb.DeleteIpaRequest(id=deployment["ipa_id"])
            await ipas.DeleteIpa(request, metadata=ready.caller.metadata, timeout=10)
        assert (await stage.deploy(ready.caller, deployment["ipa_id"]))["id"] == deployment["id"]
        assert await stage.finish(stage.worker(stage.retire_plan), saga) == "DONE"
        ended = await shown(ipas, ready.caller, deployment)
        assert (ended.state, ended.HasField("next_attempt_time")) == (pb.Deployment.RETIRED, False)
        assert await stage.held(deployment["id"]) == NOTHING
        assert (await stage.ipa(deployment["ipa_id"]))[0] == "RETIRED"
        assert await stage.state(deployment["id"]) == "CANCELLED"

    @pytest.mark.parametrize("first", ["retired", "thawed"])
    async def test_stops_the_worker_in_the_middle_of_a_step(self, stage: Stage, ready: Cast, first: str) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        gate = Gate()
        sleeper = stage.worker(with_effects(stage.deploy_plan, gate, compensations=False))
        asleep = asyncio.create_task(stage.work(sleeper, deployment["id"]))
        await gate.reached.wait()
        saga = await stage.retire(ready.caller, deployment["ipa_id"])
        if first == "retired":
            assert await stage.finish(stage.worker(stage.retire_plan), saga) == "DONE"
        gate.opened.set()
        await asleep
        assert await stage.finish(stage.worker(stage.retire_plan), saga) == "DONE"
        assert await stage.held(deployment["id"]) == NOTHING
        assert (await stage.ipa(deployment["ipa_id"]))[0] == "RETIRED"

    async def test_also_while_it_is_compensated_or_needs_attention(self, stage: Stage, ready: Cast) -> None:
        outage = Outage(AuthorizationError)
        for compensations in (False, True):
            deployment = await stage.deploy(ready.caller, await ready.ipa())
            plan = with_effects(stage.deploy_plan, Outage(AuthorizationError).over, compensations=False)
            plan = with_effects(plan, (outage if compensations else Outage()).over, steps=False)
            await stage.work(stage.worker(plan), deployment["id"])
            state = "NEEDS_ATTENTION" if compensations else "COMPENSATING"
            assert await stage.state(deployment["id"]) == state
            saga = await stage.retire(ready.caller, deployment["ipa_id"])
            assert await stage.finish(stage.worker(stage.retire_plan), saga) == "DONE"
            assert (await stage.ipa(deployment["ipa_id"]))[0] == "RETIRED"
            assert await stage.held(deployment["id"]) == NOTHING

    async def test_at_the_instant_when_it_is_deployed_ends_it_all_the_same(self, stage: Stage, ready: Cast) -> None:
        """Whichever comes first, nothing waits for ever and nothing is held."""
        for _ in range(10):
            deployment = await stage.deploy(ready.caller, await ready.ipa())
            working = asyncio.create_task(stage.work(stage.worker(stage.deploy_plan), deployment["id"]))
            saga = await stage.retire(ready.caller, deployment["ipa_id"])
            await working
            assert await stage.finish(stage.worker(stage.retire_plan), saga) == "DONE"
            assert (await stage.ipa(deployment["ipa_id"]))[0] == "RETIRED"
            assert await stage.held(deployment["id"]) == NOTHING


class TestASiblingThatIsAway:
    @pytest.fixture
    async def agents_door(self, siblings: dict[str, str]) -> AsyncIterator[Proxy]:
        """Stands before the real agents service."""
        async with Proxy.before(f"tcp://{siblings['agents']}") as door:
            yield door

    @pytest.fixture
    async def beyond(
        self, stage_beside: StageBeside, siblings: dict[str, str], agents_door: Proxy
    ) -> AsyncIterator[Stage]:
        async with stage_beside({**siblings, "agents": f"127.0.0.1:{agents_door.port}"}) as stage:
            yield stage

    @pytest.mark.parametrize("how", ["gone", "hanging"])
    async def test_and_comes_back_delays_deployments(
        self, beyond: Stage, agents_door: Proxy, ready: Cast, how: str
    ) -> None:
        """Its breaker opens meanwhile, which is waited out, too."""
        deployments = [await beyond.deploy(ready.caller, await ready.ipa()) for _ in range(3)]
        if how == "gone":
            await agents_door.cut()
        else:
            agents_door.freeze()
        worker = beyond.worker(beyond.deploy_plan, step_seconds=0.2)
        working = asyncio.create_task(worker.run_forever())
        try:
            async with asyncio.timeout(60):
                while min([(await beyond.notes(one["id"]))[1]["attempts"] for one in deployments]) < 10:
                    await asyncio.sleep(0.02)
                assert {await beyond.state(one["id"]) for one in deployments} == {"RUNNING"}
                if how == "gone":
                    await agents_door.restore()
                else:
                    agents_door.thaw()
                while {await beyond.state(one["id"]) for one in deployments} != {"DONE"}:
                    await asyncio.sleep(0.02)
        finally:
            await worker.stop()
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
        for one in deployments:
            assert (await beyond.held(one["id"]), await beyond.ipa(one["ipa_id"])) == (ALL, ("DEPLOYED", 3))


def test_pauses_grow_and_differ() -> None:
    async def nothing(*_: object) -> None: ...

    plan = Plan(kind="a", steps=(), record=nothing, deadline_seconds=1, first_pause_seconds=1, longest_pause_seconds=30)
    for attempts, longest in ((1, 1), (2, 2), (5, 16), (6, 30), (10**9, 30)):
        pauses = {plan.pause_seconds(attempts) for _ in range(50)}
        assert len(pauses) > 1
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
