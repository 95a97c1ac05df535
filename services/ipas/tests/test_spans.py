"""Each attempt of a deployment's step is a span below that of the call; tests/e2e/test_telemetry.py is about export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from api_common.errors import ExternalServiceError
from api_common.telemetry import SpanRecord, Trace, Tracer
from opentelemetry.trace import SpanKind

from services.ipas.tests.stage import Cast, Crash, Instants, Stage, with_effects

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from api_common.sagas import Effect, StepAction


class Kept(Tracer):
    """Keeps spans instead of exporting them."""

    def __init__(self) -> None:
        self.spans: list[tuple[Trace, SpanRecord]] = []

    def begin(self, trace: Trace) -> None:
        trace.steps = []

    def end(self, trace: Trace, call: SpanRecord) -> bool:
        self.spans.append((trace, call))
        return True

    def told(self) -> list[tuple[str, int | str, int | str]]:
        """Returns name, attempt and outcome of each span."""
        return [(one.name, one.attributes["ameide.attempt"], one.attributes["ameide.outcome"]) for _, one in self.spans]


def fails_once(effect: StepAction) -> StepAction:
    seen: set[str] = set()

    async def run(work: Effect) -> Mapping[str, Any] | None:
        name = work.key.split("/")[1]
        if name == "reserve_agents" and name not in seen:
            seen.add(name)
            raise ExternalServiceError
        return await effect(work)

    return run


class TestSpansOfADeployment:
    async def test_are_one_of_each_attempt_below_the_call_that_asked(self, stage: Stage, ready: Cast) -> None:
        tracer = Kept()
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        worker = stage.worker(with_effects(stage.deploy_plan, fails_once), tracer=tracer)
        assert await stage.finish(worker, deployment["id"]) == "DONE"
        assert tracer.told() == [
            ("reserve_workflow", 1, "DONE"),
            ("reserve_agents", 1, "UNAVAILABLE"),
            ("reserve_agents", 2, "DONE"),
            ("activate", 1, "DONE"),
        ]
        places = {(trace.trace_id, trace.parent_id, trace.sampled) for trace, _ in tracer.spans}
        assert places == {(stage.trace.trace_id, stage.trace.span_id, False)}
        assert len({trace.span_id for trace, _ in tracer.spans}) == 4
        assert {one.kind for _, one in tracer.spans} == {SpanKind.INTERNAL}
        assert {one.attributes["ameide.deployment_id"] for _, one in tracer.spans} == {deployment["id"]}
        # What an attempt waited for is below it: the sibling, and the statements that store what came of it.
        waits = [step.name for step in tracer.spans[0][0].steps or ()]
        assert waits[0] == "ameide.workflow.v1.ReservationService/ReserveWorkflow"
        assert {"UPDATE sagas", "UPDATE deployments", "COMMIT"} <= set(waits)

    async def test_tell_what_is_taken_back_and_why(self, stage: Stage, ready: Cast) -> None:
        tracer = Kept()
        deployment = await stage.deploy(ready.caller, await ready.ipa(fit=False))
        assert await stage.finish(stage.worker(stage.deploy_plan, tracer=tracer), deployment["id"]) == "FAILED"
        assert tracer.told() == [
            ("reserve_workflow", 1, "DONE"),
            ("reserve_agents", 1, "INVALID_STATE"),
            ("reserve_agents compensation", 1, "DONE"),
            ("reserve_workflow compensation", 1, "DONE"),
        ]

    async def test_of_the_release_before_are_a_trace_of_their_own(self, stage: Stage, ready: Cast) -> None:
        tracer = Kept()
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        await stage.forget_call(deployment["id"])
        assert await stage.finish(stage.worker(stage.deploy_plan, tracer=tracer), deployment["id"]) == "DONE"
        places = {(trace.trace_id, trace.parent_id) for trace, _ in tracer.spans}
        assert places == {(deployment["id"].replace("-", ""), "")}

    async def test_of_an_attempt_that_is_cut_off_say_so(self, stage: Stage, ready: Cast) -> None:
        tracer, instants = Kept(), Instants(1)
        deployment = await stage.deploy(ready.caller, await ready.ipa())
        worker = stage.worker(with_effects(stage.deploy_plan, instants.around), tracer=tracer)
        with pytest.raises(Crash):
            await stage.work(worker, deployment["id"])
        assert tracer.told() == [("reserve_workflow", 1, "INTERRUPTED")]
