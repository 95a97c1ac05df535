"""Alerts and dashboards, by promtool. That the metrics they name exist is for tests/e2e/test_metrics.py to say."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.helm.release import CHART, ROOT, Release, values_of
from tools.topology import NAMED

RULES: Final = CHART / "files" / "rules.yaml"
TESTS: Final = Path(__file__).with_name("rules_test.yaml")
DASHBOARDS: Final = sorted((CHART / "files" / "dashboards").glob("*.json"))
_ALL: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
ALERTS: Final = [rule for rule in _ALL if "alert" in rule]
RECORDED: Final = [rule for rule in _ALL if "record" in rule]


def rules_of(release: Release) -> dict[str, Any]:
    (rule,) = (one for one in release.objects if one["kind"] == "PrometheusRule")
    spec: dict[str, Any] = rule["spec"]
    return spec


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    assert program, "promtool is missing; on Debian and Ubuntu: apt install prometheus"
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


class TestRules:
    def test_fire_when_they_should_and_only_then(self, production: Release, tmp_path: Path) -> None:
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules_of(production)))
        cases = yaml.safe_load(TESTS.read_text())
        # Every service is up where agents are.
        for series in (case["input_series"] for case in cases["tests"]):
            agents = [one for one in series if one["series"].startswith('up{namespace="mesh",job="agents"')]
            told = "".join(one["series"] for one in series)
            new = [(one, name) for one in agents for name in NAMED if f'up{{namespace="mesh",job="{name}"' not in told]
            series += [one | {"series": one["series"].replace("agents", name)} for one, name in new]
        (tmp_path / TESTS.name).write_text(yaml.safe_dump(cases))
        assert "SUCCESS" in promtool("test", "rules", str(tmp_path / TESTS.name))

    def test_each_alert_is_seen_to_fire(self) -> None:
        fired = re.findall(r"ALERTS\{alertname=\"(\w+)\", alertstate=\"firing\"[^}]*\}', value: 1", TESTS.read_text())
        assert {alert["alert"] for alert in ALERTS} == set(fired)

    @pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])
    def test_each_alert_says_what_to_do(self, alert: dict[str, Any]) -> None:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert {"summary", "description", "runbook_url"} == set(alert["annotations"])
        page, _, section = alert["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert section in {heading.lower() for heading in headings}

    def test_name_every_service(self, production: Release) -> None:
        text = str(rules_of(production))
        for name in NAMED:
            assert f'absent(up{{namespace="mesh",job="{name}"}})' in text
        assert text.count("|".join(sorted(NAMED))) == RULES.read_text().count("SERVICES")
        assert not re.search("SERVICES|ABSENT|NAMESPACE", text)

    def test_and_dashboards_ask_only_for_what_is_of_the_release(self) -> None:
        asked = [(rule["expr"], 'namespace="NAMESPACE"') for rule in RECORDED + ALERTS]
        for path in DASHBOARDS:
            panels = json.loads(path.read_text())["panels"]
            asked += [
                (target["expr"], 'namespace=~"$namespace"') for panel in panels for target in panel.get("targets", ())
            ]
        for expression, selects in asked:
            assert all(selector.startswith(selects) for selector in re.findall(r"\{([^}]*)\}", expression)), expression
            # What is summed keeps its namespace; a dashboard's viewer has chosen one.
            if "NAMESPACE" in selects:
                assert not re.search(r"\b(sum|max|min)\((?!_over)", expression), expression
                assert all(by.startswith("namespace") for by in re.findall(r"by \(([^)]*)\)", expression)), expression

    def test_and_dashboards_stay_away_where_nobody_reads_them(self) -> None:
        kinds = {one["kind"] for one in Release(values_of("development")).objects}
        assert not {"PrometheusRule", "PodMonitor"} & kinds


class TestDashboards:
    @pytest.mark.parametrize("path", DASHBOARDS, ids=[path.stem for path in DASHBOARDS])
    def test_every_query_is_one(self, path: Path, tmp_path: Path) -> None:
        panels = [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]
        queries = [target["expr"] for panel in panels for target in panel["targets"]]
        # Grafana's variables become what Grafana puts there.
        known = {"$__rate_interval": "5m", "$job": "users", "$namespace": "mesh"}
        for variable, value in known.items():
            queries = [query.replace(variable, value) for query in queries]
        rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
        written = tmp_path / "rules.yaml"
        written.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
        assert f"{len(queries)} rules found" in promtool("check", "rules", str(written))

    @pytest.mark.parametrize("path", DASHBOARDS, ids=[path.stem for path in DASHBOARDS])
    def test_panels_do_not_overlap_and_have_names_of_their_own(self, path: Path) -> None:
        panels = json.loads(path.read_text())["panels"]
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
        assert len({panel["id"] for panel in panels}) == len(panels)

    def test_reach_grafana(self, production: Release) -> None:
        assert "SERVICES" not in str(production.objects)
        (config,) = (one for one in production.objects if one["metadata"]["name"].endswith("-dashboards"))
        assert set(config["data"]) == {path.name for path in DASHBOARDS}
        assert all(json.loads(text)["uid"] for text in config["data"].values())
