"""A deployment survives a crash at any instant, a worker that freezes, calls that lie and compensations that fail.

In this process, over the real services; `make chaos` does the same to real processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from api_common.errors import AbortedError, DeadlineExceededError, ExternalServiceError, FailedPreconditionError
from api_common.sagas import Effect, StepAction
from api_common.sagas import worker as saga_worker
from structlog.testing import capture_logs

from services.ipas.tests.stage import (
    ALL,
    DEADLINE_SECONDS,
    FOR_EVER,
    NOTHING,
    Cast,
    Clock,
    Crash,
    Gate,
    Instants,
    Stage,
    with_effects,
)


class TestACrashAtAnyInstant:
    """Before and after each write and each effect: DL-1."""

    async def test_of_a_deployment_deploys_it_once(self, stage: Stage, ready: Cast) -> None:
        async def live(instants: Instants) -> None:
            deployment = await stage.deploy(ready.caller, await ready.ipa())
            await self._die_and_finish(stage, deployment["id"], instants)
            assert await stage.state(deployment["id"]) == "DONE"
            assert await stage.held(deployment["id"]) == ALL
            # Created, DEPLOYING, DEPLOYED: nothing happened twice.
            assert await stage.ipa(deployment["ipa_id"]) == ("DEPLOYED", 3)

        assert await self._at_every_instant(live) == 16

    async def test_of_a_failing_one_leaves_nothing(self, stage: Stage, ready: Cast) -> None:
        async def live(instants: Instants) -> None:
            deployment = await stage.deploy(ready.caller, await ready.ipa(fit=False))
            await self._die_and_finish(stage, deployment["id"], instants)
            assert await stage.state(deployment["id"]) == "FAILED"
            assert await stage.held(deployment["id"]) == NOTHING
            assert await stage.ipa(deployment["ipa_id"]) == ("FAILED", 3)

        # The refused step has no instant after its effect.
        assert await self._at_every_instant(live) == 25

    async def test_of_retiring_releases_all(self, stage: Stage, ready: Cast) -> None:
        async def live(instants: Instants) -> None:
            deployment = await stage.deploy(ready.caller, await ready.ipa())
            await stage.finish(stage.worker(stage.deploy_plan), deployment["id"])
            saga = await stage.retire(ready.caller, deployment["ipa_id"])
            await self._die_and_finish(stage, saga, instants)
            assert await stage.held(deployment["id"]) == NOTHING
            assert (await stage.ipa(deployment["ipa_id"]))[0] == "RETIRED"

        assert await self._at_every_instant(live) == 16

    async def _at_every_instant(self, live: Any) -> int:
        """Lives a life without a crash, and then one for each of its instants; returns their number."""
        whole = Instants()
        await live(whole)
        for instant in range(whole.count):
            await live(Instants(instant))
        return whole.count

    async def _die_and_finish(self, stage: Stage, saga: str, instants: Instants) -> None:
        plans = [with_effects(plan, instants.around) for plan in (stage.deploy_plan, stage.retire_plan)]
        try:
            await stage.work(stage.worker(*plans, instants=instants), saga)
        except Crash:
            # Somebody else finds it when its lease has ended.
            await stage.finish(stage.worker(stage.deploy_plan, stage.retire_plan), saga)


class TestAFrozenWorker:
    """Past its lease, in the middle of a step, while another one takes over: DL-3."""

    @pytest.mark.parametrize("successful", [True, False])
    async def test_does_nothing_any_more_when_it_thaws(self, stage: Stage, ready: Cast, *, successful: bool) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa(fit=successful))
        gate = Gate()
        sleeper = stage.worker(with_effects(stage.deploy_plan, gate, compensations=False))
        asleep = asyncio.create_task(stage.work(sleeper, deployment["id"]))
        await gate.reached.wait()
        await stage.finish(stage.worker(stage.deploy_plan), deployment["id"])
        before = await stage.notes(deployment["id"]), await stage.held(deployment["id"])
        assert before[1] == (ALL if successful else NOTHING)
        gate.opened.set()
        with capture_logs() as logs:
            await asleep
        assert [entry["event"] for entry in logs if entry["event"].startswith("saga")] == ["saga was taken over"]
        assert (await stage.notes(deployment["id"]), await stage.held(deployment["id"])) == before

    async def test_does_nothing_while_its_successor_is_at_work(self, stage: Stage, ready: Cast) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        whole = stage.deploy_plan
        gates = [Gate(), Gate()]
        tasks = []
        for place, gate in enumerate(gates):
            # The first stops in its first step; its successor makes that one and stops in the second.
            stopped = with_effects(whole, gate, compensations=False).steps[place]
            steps = [stopped if index == place else step for index, step in enumerate(whole.steps)]
            worker = stage.worker(replace(whole, steps=steps))
            tasks.append(asyncio.create_task(stage.work(worker, deployment["id"])))
            await gate.reached.wait()
        before = await stage.notes(deployment["id"])
        gates[0].opened.set()
        await tasks[0]
        assert await stage.notes(deployment["id"]) == before
        gates[1].opened.set()
        await tasks[1]
        assert (await stage.state(deployment["id"]), await stage.held(deployment["id"])) == ("DONE", ALL)
        assert [note["attempts"] for note in await stage.notes(deployment["id"])] == [2, 1, 1]


class TestAWorkerThatIsToldToStop:
    """As a service does when it drains: DR-4. The lease is one that no test outlives."""

    @pytest.mark.parametrize("ends", [True, False], ids=["step ends", "step hangs"])
    async def test_gives_its_saga_to_the_next_one(
        self, stage: Stage, ready: Cast, monkeypatch: pytest.MonkeyPatch, *, ends: bool
    ) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        gate = Gate()
        first = stage.worker(with_effects(stage.deploy_plan, gate, compensations=False))
        working = asyncio.create_task(first.run_forever())
        await gate.reached.wait()
        if not ends:
            monkeypatch.setattr(saga_worker, "_STOP_SECONDS", 0.01)
        ending = asyncio.create_task(first.stop())
        # It has heard, and takes nothing any more.
        await asyncio.sleep(0)
        if ends:
            gate.opened.set()
        await ending
        working.cancel()
        assert [note["state"] for note in await stage.notes(deployment["id"])] == [
            "DONE" if ends else "RUNNING",
            "PENDING",
            "PENDING",
        ]

        second = stage.worker(stage.deploy_plan)
        successor = asyncio.create_task(second.run_forever())
        async with asyncio.timeout(10):
            while await stage.state(deployment["id"]) != "DONE":
                await asyncio.sleep(0.01)
        await second.stop()
        successor.cancel()
        assert await stage.held(deployment["id"]) == ALL
        # What hung was begun twice and happened once.
        assert [note["attempts"] for note in await stage.notes(deployment["id"])] == [1 if ends else 2, 1, 1]


class TestAStepThatTimedOut:
    async def test_and_happened_all_the_same_is_taken_back(self, stage: Stage, ready: Cast) -> None:
        """DL-4: its outcome is never known."""
        deployment = await stage.deploy(ready.caller, await ready.ipa())

        def lying(effect: StepAction) -> StepAction:
            async def run(work: Effect) -> Mapping[str, Any]:
                await effect(work)
                raise DeadlineExceededError("The deadline passed before the work was done.")

            return run

        worker = stage.worker(with_effects(stage.deploy_plan, lying, compensations=False))
        await stage.work(worker, deployment["id"])
        await stage.pass_deadline(deployment["id"])
        assert await stage.finish(worker, deployment["id"]) == "FAILED"
        assert await stage.held(deployment["id"]) == NOTHING
        first, second, _ = await stage.notes(deployment["id"])
        assert (first["attempts"], first["compensation"]["state"], second["attempts"]) == (2, "DONE", 0)

    async def test_and_arrives_after_its_compensation_has_no_effect(self, stage: Stage, ready: Cast) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        late: list[tuple[StepAction, Effect]] = []

        def losing(effect: StepAction) -> StepAction:
            async def run(work: Effect) -> Mapping[str, Any]:
                late.append((effect, work))
                raise DeadlineExceededError("The deadline passed before the work was done.")

            return run

        worker = stage.worker(with_effects(stage.deploy_plan, losing, compensations=False))
        await stage.pass_deadline(deployment["id"])
        assert await stage.finish(worker, deployment["id"]) == "FAILED"
        for effect, work in late:
            with pytest.raises((AbortedError, FailedPreconditionError)):
                await effect(work)
            # Not even by a worker that nobody has replaced.
            with pytest.raises(FailedPreconditionError):
                await effect(replace(work, saga=replace(work.saga, fencing_token=2**40)))
        assert await stage.held(deployment["id"]) == NOTHING


class TestWhatKeepsFailing:
    """DL-5: it is never dropped."""

    @staticmethod
    def broken(_: StepAction) -> StepAction:
        async def run(_: Effect) -> Mapping[str, Any]:
            raise ExternalServiceError("A service that this call needs does not answer now.")

        return run

    async def test_as_a_compensation_needs_attention_and_goes_on_when_it_is_resumed(
        self, stage: Stage, ready: Cast
    ) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa(fit=False))
        whole = stage.deploy_plan
        spoilt = with_effects(whole, self.broken).steps
        steps = [replace(step, compensate=bad.compensate) for step, bad in zip(whole.steps, spoilt, strict=True)]
        parked = stage.registry.get_sample_value("sagas_parked_total", {"kind": whole.kind}) or 0
        worker = stage.worker(replace(whole, steps=steps))
        await stage.work(worker, deployment["id"])
        assert await stage.state(deployment["id"]) == "COMPENSATING"
        await stage.pass_deadline(deployment["id"])
        with capture_logs() as logs:
            assert await stage.finish(worker, deployment["id"]) == "NEEDS_ATTENTION"
        assert stage.registry.get_sample_value("sagas_parked_total", {"kind": whole.kind}) == parked + 1
        assert [entry["log_level"] for entry in logs if entry["event"] == "saga needs attention"] == ["error"]
        assert await stage.held(deployment["id"]) == {"workflows": 1, "agents": 0}
        resumed = await stage.resume(ready.caller, deployment)
        assert resumed["state"] == "COMPENSATING"
        assert await stage.finish(stage.worker(whole), deployment["id"]) == "FAILED"
        assert await stage.held(deployment["id"]) == NOTHING

    async def test_in_retiring_needs_attention_at_the_deadline(self, stage: Stage, ready: Cast) -> None:
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        await stage.finish(stage.worker(stage.deploy_plan), deployment["id"])
        saga = await stage.retire(ready.caller, deployment["ipa_id"])
        broken = stage.worker(with_effects(stage.retire_plan, self.broken))
        await stage.work(broken, saga)
        assert await stage.state(saga) == "RUNNING"
        await stage.pass_deadline(saga)
        assert await stage.finish(broken, saga) == "NEEDS_ATTENTION"
        assert (await stage.ipa(deployment["ipa_id"]))[0] == "DEPLOYED"
        assert (await stage.resume(ready.caller, deployment))["state"] == "RETIRING"
        assert await stage.finish(stage.worker(stage.retire_plan), saga) == "DONE"
        assert await stage.held(deployment["id"]) == NOTHING

    async def test_by_crashing_its_worker_is_given_up(self, stage: Stage, ready: Cast) -> None:
        """A step that ends its process each time does not do so for ever."""
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        clock = Clock()

        def deadly(effect: StepAction) -> StepAction:
            async def run(work: Effect) -> Mapping[str, Any]:
                await effect(work)
                raise Crash

            return run

        plan = with_effects(stage.deploy_plan, deadly, compensations=False)
        for _ in range(20):
            with pytest.raises(Crash):
                await stage.work(stage.worker(plan, now=clock), deployment["id"])
        # The last attempt begins at the deadline, at the latest when the lease of the one before has ended.
        clock.ahead_seconds = DEADLINE_SECONDS + FOR_EVER + 1
        assert await stage.finish(stage.worker(plan, now=clock), deployment["id"]) == "FAILED"
        assert await stage.held(deployment["id"]) == NOTHING
        assert (await stage.notes(deployment["id"]))[0]["error"]["message"] == "No attempt came to an end."
