"""`make check-prometheus`: a real Prometheus reads the metrics of a whole mesh, and the chart's rules work on them.

It needs `prometheus` (Debian and Ubuntu: apt install prometheus) and takes two minutes.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.checks.table import Table
from tests.checks.waiting import wait_until
from tests.e2e.test_metrics import expressions
from tools.mesh import processes
from tools.topology import ROOT, SERVICES, Mesh

STATE: Final = ROOT / ".local" / "check-prometheus"
NAMESPACE: Final = "mesh"
NAMES: Final = [service.name for service in SERVICES]
ABSENT: Final = " or ".join(f'absent(up{{namespace="{NAMESPACE}",job="{name}"}})' for name in NAMES)
PLACES: Final = {
    "$__rate_interval": "1m",
    "$namespace": NAMESPACE,
    "$job": ".*",
    "SERVICES": "|".join(NAMES),
    "NAMESPACE": NAMESPACE,
    "ABSENT": ABSENT,
}
"""What the chart, or Grafana, puts in place of these."""


@contextmanager
def mesh_up() -> Iterator[Mesh]:
    mesh = Mesh(STATE / "mesh", int(os.environ.get("PORT_OFFSET") or 0))
    words = ["make", "--no-print-directory", f"PORT_OFFSET={mesh.port_offset}"]
    environment = {**os.environ, "AMEIDE_LOCAL_DIR": str(mesh.folder)}
    subprocess.run([*words, "up", "DETACH=1"], cwd=ROOT, env=environment, check=True)
    try:
        yield mesh
    finally:
        subprocess.run([*words, "down"], cwd=ROOT, env=environment, check=True)


def filled(text: str) -> str:
    for place, value in PLACES.items():
        text = text.replace(place, value)
    return text


def write_configuration(mesh: Mesh) -> Path:
    """Scrapes every process of the mesh as the chart's PodMonitor does, with the chart's rules as it renders them."""
    rules = (ROOT / "helm" / "ameide" / "files" / "rules.yaml").read_text()
    (STATE / "rules.yaml").write_text(filled(rules))
    jobs = [
        {
            "job_name": name,
            "scrape_interval": "2s",
            "scrape_timeout": "2s",
            "static_configs": [
                {
                    "targets": [f"127.0.0.1:{mesh.ports[f'{name} operations']}"],
                    "labels": {"namespace": NAMESPACE, "pod": f"{name}-0"},
                }
            ],
        }
        for name in (*NAMES, "edge")
    ]
    path = STATE / "prometheus.yaml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "scrape_configs": jobs}))
    return path


class Prometheus:
    """A server with an empty database."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        self._port = port

    @contextmanager
    def running(self, configuration: Path) -> Iterator[None]:
        words = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={STATE / 'data'}"]
        with (STATE / "prometheus.log").open("w") as log:
            listen = f"--web.listen-address=127.0.0.1:{self._port}"
            process = subprocess.Popen([*words, listen], stdout=log, stderr=log)
        try:
            wait_until(self._is_ready)
            yield
        finally:
            process.terminate()
            process.wait(30)

    def _is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return self._http.get("/-/ready").is_success
        return False

    def ask(self, path: str, **query: str) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=query)
        assert answer.is_success, f"{query}: {answer.text}"
        return answer.json()["data"]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def state_of(self, alert: str) -> str:
        return next(str(rule["state"]) for rule in self.rules() if rule["name"] == alert)


def check(table: Table, mesh: Mesh, prometheus: Prometheus) -> None:
    with table.line("every process is scraped") as seen:
        wait_until(lambda: {one["health"] for one in prometheus.ask("targets")["activeTargets"]} == {"up"})
        seen.append(f"{len(prometheus.ask('targets')['activeTargets'])} targets")
    with table.line("every rule is evaluated without an error") as seen:
        wait_until(lambda: "unknown" not in {rule["health"] for rule in prometheus.rules()})
        wrong = [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok"]
        assert not wrong, f"{wrong}"
        seen.append(f"{len(prometheus.rules())} rules")
    with table.line("every panel's expression can be asked") as seen:
        for expression in expressions():
            prometheus.ask("query", query=filled(expression))
        seen.append(f"{len(expressions())} expressions, those of the rules among them")
    with table.line("nothing is alarming while all is well"):
        assert {rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"} == set()
    with table.line("a service that is gone is noticed") as seen:
        mesh_of = dict(processes.pids(mesh))
        mesh_of["agents"].suspend()
        try:
            wait_until(lambda: prometheus.state_of("ServiceIsDown") in {"pending", "firing"})
        finally:
            mesh_of["agents"].resume()
        wait_until(lambda: prometheus.state_of("ServiceIsDown") == "inactive")
        seen.append("ServiceIsDown begins, and ends when it is back")


def main() -> None:
    if not shutil.which("prometheus"):
        raise SystemExit("This check needs prometheus. On Debian and Ubuntu: apt install prometheus")
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    table = Table("Prometheus before the mesh")
    with mesh_up() as mesh:
        prometheus = Prometheus(7790 + mesh.port_offset)
        with prometheus.running(write_configuration(mesh)):
            check(table, mesh, prometheus)
    table.finish()


if __name__ == "__main__":
    main()
