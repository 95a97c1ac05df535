"""What dashboards and alerts name is what a running mesh says."""

import json
import re
from collections.abc import Callable
from typing import Final

import httpx
import yaml

from tools.topology import NAMED, ROOT, Mesh

FILES: Final = ROOT / "helm" / "ameide" / "files"
# Rules and dashboards write labels, if only `{}`, behind each metric, so that it can be found here.
METRIC: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{")
# Said by Prometheus itself about each scrape; and what the rules record.
MADE: Final = re.compile(r"up|job:.*")
# Said where there are shared limits: tests/e2e/edge/test_shared_limits.py.
SHARED_LIMITS: Final = {f"envoy_cluster_ratelimit_{name}" for name in ("ok", "over_limit", "failure_mode_allowed")}


def test_every_metric_that_a_dashboard_or_rule_names_is_there(
    mesh: Mesh, open_client: Callable[..., httpx.Client]
) -> None:
    client = open_client("metrics", "admin")
    for collection in NAMED:
        assert client.get(f"/v1/{collection}").status_code == 200
    workflow = client.post("/v1/workflows", json={"displayName": "measured"}).json()
    # Once for the metrics of calls to siblings, and once more for those of replays.
    for _ in range(2):
        ipa = {"displayName": "measured", "workflowId": workflow["id"]}
        answer = client.post("/v1/ipas", json=ipa, headers={"idempotency-key": "measured"})
        assert answer.status_code == 200, answer.text
    ports = [mesh.ports[f"{name} operations"] for name in NAMED]
    pages = [httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in (*ports, mesh.ports["edge operations"])]
    # A gauge that is measured every minute may be declared and have no value yet.
    name = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[{ ]|^# TYPE (\S+) gauge$", re.MULTILINE)
    said = {match[1] or match[2] for page in pages for match in name.finditer(page)}
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(named) > 20
    assert {name for name in named if not MADE.fullmatch(name)} - SHARED_LIMITS <= said


def test_the_edge_shows_its_metrics_and_nothing_else_of_its_admin_port(mesh: Mesh) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{mesh.ports['edge operations']}") as client:
        assert "envoy_http_downstream_rq_xx" in client.get("/metrics").text
        refused = [
            client.post("/metrics"),
            *map(client.get, ("/", "/config_dump", "/stats", "/metrics/../config_dump")),
        ]
        assert {answer.status_code for answer in refused} == {404}


def expressions() -> list[str]:
    groups = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
    found = [rule["expr"] for group in groups for rule in group["rules"]]
    for path in (FILES / "dashboards").glob("*.json"):
        panels = json.loads(path.read_text())["panels"]
        found += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return found
