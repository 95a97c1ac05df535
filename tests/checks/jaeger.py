"""`make check-jaeger`: a real Jaeger gets the traces of a whole mesh, and shows a call as one tree.

It builds Jaeger once with Go into `.cache/jaeger` (nine minutes of one core), and takes two minutes.
"""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from tests.checks.table import Table
from tests.checks.waiting import wait_until
from tools.secrets import identity
from tools.topology import COLLECTOR_PORT, ROOT, SERVICES, Mesh

VERSION: Final = "v1.76.0"
PROGRAM: Final = ROOT / ".cache" / "jaeger" / f"jaeger-{VERSION}"
STATE: Final = ROOT / ".local" / "check-jaeger"
CREATION, DEPLOYMENT = "0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319d"
MADE_OF: Final = ("ipas", "workflows", "agents")
STEPS: Final = {"reserve_workflow", "reserve_agents", "activate"}
CLIENTS_OWN: Final = "b7ad6b7169203331"
"""The span that the client says its calls belong to."""
PLACES: Final = {
    "--collector.otlp.grpc.host-port": COLLECTOR_PORT,
    "--collector.otlp.http.host-port": 4318,
    "--collector.grpc-server.host-port": 14250,
    "--collector.http-server.host-port": 14268,
    "--query.http-server.host-port": 16686,
    "--query.grpc-server.host-port": 16685,
    "--admin.http.host-port": 14269,
}
"""Where Jaeger listens, by its flags."""


def program() -> Path:
    """Returns Jaeger, built if it is not there.

    Raises:
        SystemExit: it is not there, and there is no Go.
        subprocess.CalledProcessError: Go failed; its own lines say why.
    """
    if not PROGRAM.exists():
        if shutil.which("go") is None:
            raise SystemExit("This check builds Jaeger once and needs Go for that: https://go.dev/doc/install")
        sources = PROGRAM.parent / "go"
        work = sources / "work"
        work.mkdir(parents=True, exist_ok=True)
        (work / "go.mod").unlink(missing_ok=True)
        kept = {"GOPATH": str(sources), "GOCACHE": str(sources / "build"), "GOFLAGS": "-modcacherw", "GOWORK": "off"}
        package = "github.com/jaegertracing/jaeger/cmd/all-in-one"
        half = PROGRAM.with_name("half")
        for words in (
            ("mod", "init", "programs"),
            ("get", "-tool", f"{package}@{VERSION}"),
            ("build", "-ldflags=-s -w", "-o", str(half), package),
        ):
            subprocess.run(["nice", "-n", "19", "go", *words], cwd=work, env={**os.environ, **kept}, check=True)
        half.rename(PROGRAM)
        shutil.rmtree(sources, ignore_errors=True)
    return PROGRAM


@dataclass(frozen=True)
class Span:
    """What a person sees of a span in Jaeger."""

    service: str
    name: str
    parent: str
    id: str
    system: str
    """`postgresql`, for one that waits for the database."""


class Jaeger:
    """A Jaeger that keeps traces in memory."""

    def __init__(self, offset: int) -> None:
        self._ports = {flag: port + offset for flag, port in PLACES.items()}
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self._ports['--query.http-server.host-port']}")

    @contextmanager
    def running(self) -> Iterator[None]:
        words = [str(program()), *(f"{flag}=127.0.0.1:{port}" for flag, port in self._ports.items())]
        with (STATE / "jaeger.log").open("w") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            wait_until(lambda: self._answers(process), 60)
            yield
        finally:
            process.terminate()
            process.wait(30)

    def _answers(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, f"Jaeger stopped; {STATE / 'jaeger.log'} says why"
        with suppress(httpx.TransportError):
            return self._http.get("/api/services").is_success
        return False

    def services(self) -> set[str]:
        return set(self._http.get("/api/services").raise_for_status().json()["data"] or ())

    def trace(self, id: str) -> list[Span]:
        """Returns the spans of a trace, as far as they have come."""
        answer = self._http.get(f"/api/traces/{id}")
        if answer.status_code == 404:
            return []
        (trace,) = answer.raise_for_status().json()["data"]
        return [_span(one, trace["processes"]) for one in trace["spans"]]


def _span(one: dict[str, Any], processes: dict[str, Any]) -> Span:
    tags = {tag["key"]: tag["value"] for tag in one["tags"]}
    parents = [reference["spanID"] for reference in one["references"] if reference["refType"] == "CHILD_OF"]
    service = processes[one["processID"]]["serviceName"]
    return Span(service, one["operationName"], "".join(parents), one["spanID"], str(tags.get("db.system.name", "")))


@contextmanager
def mesh_up(mesh: Mesh) -> Iterator[None]:
    words = ["make", "--no-print-directory", f"PORT_OFFSET={mesh.port_offset}"]
    environment = {**os.environ, "AMEIDE_LOCAL_DIR": str(mesh.folder)}
    subprocess.run([*words, "up", "DETACH=1", "TELEMETRY=on"], cwd=ROOT, env=environment, check=True)
    try:
        yield
    finally:
        subprocess.run([*words, "down"], cwd=ROOT, env=environment, check=True)


def deploy(mesh: Mesh) -> str:
    """Deploys an IPA, and returns how that ended; its creation and its deployment have a trace each."""
    token = identity.mint(mesh.issuer, sub="ada", tenant="acme", roles=["admin"])
    node = [{"id": "start", "type": "START"}, {"id": "ask", "type": "AGENT"}, {"id": "end", "type": "END"}]
    edges = [{"source": "start", "target": "ask"}, {"source": "ask", "target": "end"}]
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {token}"}, timeout=60) as http:

        def post(path: str, body: Any = None, trace: str = "") -> Any:
            headers = {"traceparent": f"00-{trace}-{CLIENTS_OWN}-01"} if trace else {}
            answer = http.post(path, json=body or {}, headers=headers)
            assert answer.is_success, answer.text
            return answer.json()

        graph = {"nodes": node, "edges": edges}
        workflow = post("/v1/workflows", {"displayName": "Traced", "definition": graph})["id"]
        post(f"/v1/workflows/{workflow}:publish")
        agent = post("/v1/agents", {"displayName": "Traced", "model": "gpt-4o"})["id"]
        post(f"/v1/agents/{agent}:activate")
        body = {"displayName": "Traced", "workflowId": workflow, "agentBindings": {"ask": agent}}
        ipa = post("/v1/ipas", body, CREATION)["id"]
        begun = post(f"/v1/ipas/{ipa}:deploy", trace=DEPLOYMENT)
        state = "DEPLOYING"
        deadline = time.monotonic() + 60
        while state == "DEPLOYING" and time.monotonic() < deadline:
            state = http.get(f"/v1/ipas/{ipa}/deployments/{begun['id']}").raise_for_status().json()["state"]
            time.sleep(0.1)
        return state


def check(table: Table, mesh: Mesh, jaeger: Jaeger) -> None:
    with table.line("an IPA is created and deployed") as seen:
        seen.append(deploy(mesh))
        assert seen == ["DEPLOYED"]
    with table.line("Jaeger knows edge and services") as seen:
        everybody = {"edge", *(service.name for service in SERVICES)}
        wait_until(lambda: everybody - {"users"} <= jaeger.services(), 60)
        seen.append(", ".join(sorted(jaeger.services())))
    for name, id, everybody in (
        ("its creation", CREATION, {"edge", *MADE_OF}),
        ("its deployment, with the steps that a worker took after the answer,", DEPLOYMENT, {"edge", *MADE_OF}),
    ):
        with table.line(f"{name} is one tree with every statement: {', '.join(sorted(everybody))}") as seen:
            wait_until(partial(is_whole, jaeger, id, everybody), 60)
            spans = jaeger.trace(id)
            of = Counter(span.service for span in spans)
            assert set(of) == everybody, of
            statements = sum(span.system == "postgresql" for span in spans)
            told = ", ".join(f"{number} of {service}" for service, number in of.items())
            seen.append(f"{len(spans)} spans: {told}; {statements} of the database")
    with table.line("each step of the deployment is below the call that asked for it") as seen:
        wait_until(lambda: {span.name for span in jaeger.trace(DEPLOYMENT)} >= STEPS, 60)
        spans = jaeger.trace(DEPLOYMENT)
        (call,) = (one for one in spans if one.name.endswith("/DeployIpa") and one.service == "ipas")
        below = [span.name for span in spans if span.parent == call.id and span.name in STEPS]
        assert sorted(below) == sorted(STEPS)
        seen.append(", ".join(below))


def is_whole(jaeger: Jaeger, id: str, everybody: set[str]) -> bool:
    """Tells whether everybody's spans are there, each with its parent, and waits for the database among them."""
    spans = jaeger.trace(id)
    loose = {span.parent for span in spans} - {span.id for span in spans}
    of_database = {span.service for span in spans if span.system == "postgresql"}
    return (
        {span.service for span in spans} >= everybody and of_database >= everybody - {"edge"} and loose == {CLIENTS_OWN}
    )


def main() -> None:
    program()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    mesh = Mesh(STATE / "mesh", int(os.environ.get("PORT_OFFSET") or 0))
    jaeger = Jaeger(mesh.port_offset)
    table = Table("Jaeger behind the mesh")
    with jaeger.running(), mesh_up(mesh):
        check(table, mesh, jaeger)
    table.finish()


if __name__ == "__main__":
    main()
