"""What a call notes for its trace, and which traces metrics name; tests/e2e/test_telemetry.py is about spans."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Final

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common import errors
from api_common.call import RequestHeaders
from api_common.contract import read_policies
from api_common.rpc.call import Call, Incoming
from api_common.rpc.layers.telemetry import AccessLog, telemetry
from api_common.telemetry import Metrics, Trace, Tracer
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry

GET: Final = read_policies(pb.DESCRIPTOR.services_by_name["UserService"])["GetUser"]
TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
UNSAMPLED, SAMPLED = (f"00-{TRACE}-b7ad6b7169203331-{flags}" for flags in ("00", "01"))


@pytest.fixture
def silent_collector() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
async def tracer(silent_collector: str, monkeypatch: pytest.MonkeyPatch) -> Tracer:
    monkeypatch.setattr("api_common.telemetry.tracing.FLUSH_SECONDS", 0.05)
    return Tracer("users", endpoint=silent_collector, sample_ratio=0)


async def never() -> bytes:
    raise AssertionError("nobody reads the request")


async def examples(traceparent: str, tracer: Tracer | None, error: errors.DomainError | None) -> tuple[Trace, set[str]]:
    """Makes a call that waits for something, and returns its trace and the traces that its metrics name."""
    metrics = Metrics(CollectorRegistry())
    headers = RequestHeaders.read([("traceparent", traceparent)])
    trace = headers.trace

    async def within(call: Call) -> None:
        trace.note("SELECT users", SpanKind.CLIENT, 0, {})
        call.error = error

    layer = telemetry(GET, within, metrics=metrics, access_log=AccessLog("users"), tracer=tracer)
    deadline = asyncio.get_running_loop().time() + 60
    await layer(Call(Incoming(GET, never, headers, deadline=deadline, trace=trace)))
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return trace, {sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar}


class TestWithoutACollector:
    async def test_nothing_is_noted_and_metrics_name_no_trace(self) -> None:
        trace, named = await examples(SAMPLED, None, errors.InternalError("Broken."))
        assert (trace.steps, named) == (None, set())


class TestWithACollector:
    async def test_metrics_name_the_traces_that_it_is_told_of(self, tracer: Tracer) -> None:
        broken, missing = errors.InternalError("Broken."), errors.NotFoundError("Missing.")
        assert (await examples(SAMPLED, tracer, None))[1] == {TRACE}
        assert (await examples(UNSAMPLED, tracer, broken))[1] == {TRACE}
        assert (await examples(UNSAMPLED, tracer, missing))[1] == set()
        await tracer.close()

    async def test_what_was_waited_for_is_noted(self, tracer: Tracer) -> None:
        trace, _ = await examples(UNSAMPLED, tracer, None)
        assert [step.name for step in trace.steps or ()] == ["SELECT users"]
        await tracer.close()
