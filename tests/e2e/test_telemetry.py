"""One trace from the edge to the database and to siblings, in a collector that speaks the real protocol."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.e2e.started import run, running, token
from tests.ports import mesh_offset
from tools.topology import COLLECTOR_PORT, Mesh

SECRET = "grace@example.com"


@dataclass
class Collector:
    """Keeps what it is told."""

    spans: list[tuple[str, Span]] = field(default_factory=list)
    """With the name of the service that they come from."""
    metrics: set[tuple[str, str]] = field(default_factory=set)
    """Service and metric."""
    raw: list[bytes] = field(default_factory=list)
    """Everything, as it came."""

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.raw.append(request.SerializeToString())
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            for resource in request.resource_metrics:
                names = {one.name for scope in resource.scope_metrics for one in scope.metrics}
                self.metrics |= {(service_of(resource), name) for name in names}
            return metrics_service_pb2.ExportMetricsServiceResponse()
        for resource in request.resource_spans:
            self.spans += [(service_of(resource), one) for scope in resource.scope_spans for one in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[tuple[str, Span]]:
        return [(service, span) for service, span in list(self.spans) if span.trace_id.hex() == trace_id]


def service_of(resource: Any) -> str:
    (name,) = (one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
    return str(name)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, Collector]]:
    """A mesh of its own, that tells a collector everything."""
    # As for the mesh of the other tests: not below pytest's folder, which Postgres may not enter.
    with tempfile.TemporaryDirectory(prefix="mesh") as folder, mesh_offset() as offset:
        mesh = Mesh(Path(folder), offset)
        collector = Collector()
        server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"127.0.0.1:{COLLECTOR_PORT + mesh.port_offset}")
        server.start()
        for _ in running(mesh, TELEMETRY="on"):
            yield mesh, collector
        server.stop(None)


def until(found: Callable[[], bool]) -> None:
    """Waits for what comes in batches, a second or so later."""
    deadline = time.monotonic() + 20
    while not found() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found()


def test_a_call_is_one_trace_over_edge_services_and_databases(traced: tuple[Mesh, Collector]) -> None:
    mesh, collector = traced
    credentials = {"authorization": f"Bearer {token(mesh, 'traced', 'admin')}"}
    with httpx.Client(base_url=mesh.url, headers=credentials, timeout=20) as client:
        workflow = client.post("/v1/workflows", json={"displayName": "traced"}).json()
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        made = client.post(
            "/v1/ipas",
            json={"displayName": "traced", "description": SECRET, "workflowId": workflow["id"]},
            headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"},
        )
        assert made.status_code == 200, made.text
    wanted = {
        ("ipas", "ameide.ipa.v1.IpaService/CreateIpa"),
        ("ipas", "INSERT ipas"),
        ("ipas", "COMMIT"),
        ("ipas", "ameide.workflow.v1.WorkflowService/BatchGetWorkflows"),
        ("workflows", "ameide.workflow.v1.WorkflowService/BatchGetWorkflows"),
        ("workflows", "SELECT workflows"),
    }
    until(lambda: wanted <= {(service, span.name) for service, span in collector.of(trace_id)})
    until(lambda: "edge" in {service for service, _ in collector.of(trace_id)})
    spans = {span.span_id: (service, span) for service, span in collector.of(trace_id)}
    # Every span but the client's own has its parent here: nothing hangs loose.
    loose = {span.parent_span_id.hex() for _, span in spans.values() if span.parent_span_id not in spans}
    assert loose == {"b7ad6b7169203331"}
    (served,) = (one for service, one in spans.values() if (service, one.kind) == ("workflows", Span.SPAN_KIND_SERVER))
    asked = spans[served.parent_span_id]
    assert (asked[0], asked[1].kind) == ("ipas", Span.SPAN_KIND_CLIENT)
    assert asked[1].start_time_unix_nano <= served.start_time_unix_nano
    assert served.end_time_unix_nano <= asked[1].end_time_unix_nano


def test_the_steps_of_a_deployment_are_in_the_trace_of_the_call_that_asked(traced: tuple[Mesh, Collector]) -> None:
    mesh, collector = traced
    trace_id = "3bf7651916cd43dd8448eb211c80319f"
    credentials = {"authorization": f"Bearer {token(mesh, 'traced', 'admin')}"}
    with httpx.Client(base_url=mesh.url, headers=credentials, timeout=20) as client:
        graph = {
            "nodes": [{"id": "start", "type": "START"}, {"id": "end", "type": "END"}],
            "edges": [{"source": "start", "target": "end"}],
        }
        workflow = client.post("/v1/workflows", json={"displayName": "traced", "definition": graph}).json()["id"]
        assert client.post(f"/v1/workflows/{workflow}:publish").is_success
        ipa = client.post("/v1/ipas", json={"displayName": "traced", "workflowId": workflow}).json()["id"]
        headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
        begun = client.post(f"/v1/ipas/{ipa}:deploy", headers=headers)
        assert begun.status_code == 200, begun.text
    steps = ["reserve_workflow", "reserve_agents", "activate"]
    called = ["ameide.ipa.v1.IpaService/DeployIpa", "ameide.workflow.v1.ReservationService/ReserveWorkflow"]
    until(lambda: {*steps, *called} <= {span.name for _, span in collector.of(trace_id)})
    until(lambda: {service for service, _ in collector.of(trace_id)} >= {"edge", "ipas", "workflows", "agents"})
    spans = [span for _, span in collector.of(trace_id)]
    (call,) = (span for service, span in collector.of(trace_id) if (service, span.name) == ("ipas", called[0]))
    attempts = sorted((span for span in spans if span.name in steps), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in attempts] == steps
    assert {(span.parent_span_id, span.kind) for span in attempts} == {(call.span_id, Span.SPAN_KIND_INTERNAL)}
    for span in attempts:
        facts = {one.key: one.value for one in span.attributes}
        assert facts["ameide.deployment_id"].string_value == begun.json()["id"]
        assert (facts["ameide.attempt"].int_value, facts["ameide.outcome"].string_value) == (1, "DONE")
        assert not {name for name in facts if name.startswith("rpc.")}
    assert {span.parent_span_id.hex() for span in spans} - {span.span_id.hex() for span in spans} == {
        "b7ad6b7169203331"
    }


def test_lines_of_the_log_name_trace_and_span(traced: tuple[Mesh, Collector]) -> None:
    mesh, collector = traced
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    lines = [line for line in mesh.log("workflows").read_text().splitlines() if trace_id in line]
    ids = {span.span_id.hex() for _, span in collector.of(trace_id)}
    assert any(re.search(r'"span_id":"(\w+)"', line)[1] in ids for line in lines)  # type: ignore[index]
    (event,) = (line for line in mesh.log("ipas").read_text().splitlines() if trace_id in line and '"business"' in line)
    told = json.loads(event[event.index("{") :])
    assert (told["name"], told["service"], told["level"]) == ("ipa.created", "ipas", "info")
    assert abs(datetime.fromisoformat(told["time"]).timestamp() - time.time()) < 600


def test_no_span_holds_what_a_request_carried(traced: tuple[Mesh, Collector]) -> None:
    _, collector = traced
    everything = b"".join(collector.raw)
    assert SECRET.encode() not in everything
    assert b"eyJ" not in everything


def test_metrics_are_sent_that_prometheus_scrapes(traced: tuple[Mesh, Collector]) -> None:
    mesh, collector = traced
    until(lambda: ("users", "rpc_server_call_duration_seconds") in collector.metrics)
    scraped = httpx.get(f"http://127.0.0.1:{mesh.ports['users operations']}/metrics").text
    names = {name for service, name in collector.metrics if service == "users"}
    assert names <= set(re.findall(r"^# TYPE (\S+)", scraped, re.MULTILINE))
    assert {"db_client_connection_count", "event_loop_lag_seconds", "idempotent_replays_total"} <= names


def test_what_fails_is_kept_whoever_did_not_ask_for_it(traced: tuple[Mesh, Collector]) -> None:
    mesh, collector = traced
    trace_id = "1bf7651916cd43dd8448eb211c80319d"
    credentials = {"authorization": f"Bearer {token(mesh, 'traced', 'admin')}"}
    hasty = credentials | {"traceparent": f"00-{trace_id}-b7ad6b7169203331-00", "grpc-timeout": "2m"}
    with httpx.Client(base_url=mesh.url, headers=hasty, timeout=20) as client:

        def failed() -> bool:
            # Within 2 ms the call reaches the service or ends on its way there: so again, until one has.
            client.get("/v1/users")
            failures = [span for service, span in collector.of(trace_id) if service == "users"]
            return any(span.kind == Span.SPAN_KIND_SERVER for span in failures)

        until(failed)
    served = [span for _, span in collector.of(trace_id) if span.kind == Span.SPAN_KIND_SERVER]
    assert {span.status.code for span in served} == {Status.STATUS_CODE_ERROR}
    ordinary = "2bf7651916cd43dd8448eb211c80319e"
    unasked = credentials | {"traceparent": f"00-{ordinary}-b7ad6b7169203331-00", "grpc-timeout": "9S"}
    with httpx.Client(base_url=mesh.url, headers=unasked, timeout=20) as client:
        assert client.get("/v1/users").status_code == 200
    assert not collector.of(ordinary)


def test_a_mesh_without_a_collector_says_nothing(mesh: Mesh, open_client: Callable[..., httpx.Client]) -> None:
    assert run(mesh, "tools.mesh", "status").returncode == 0
    assert open_client("untraced", "admin").get("/v1/users").status_code == 200
    stats = httpx.get(f"http://127.0.0.1:{mesh.ports['edge admin']}/stats", params={"filter": "spans_sent$"}).text
    assert stats == "tracing.opentelemetry.spans_sent: 0\n"


def test_the_edge_begins_traces(traced: tuple[Mesh, Collector]) -> None:
    mesh, collector = traced
    credentials = {"authorization": f"Bearer {token(mesh, 'traced', 'admin')}"}
    request_id = httpx.get(f"{mesh.url}/v1/agents", headers=credentials, timeout=20).headers["x-request-id"]
    until(lambda: any(service == "edge" and request_id in str(span) for service, span in list(collector.spans)))
