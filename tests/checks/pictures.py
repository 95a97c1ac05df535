"""`make pictures`: draws `docs/images` from a running mesh: the console, and a dashboard from a real scrape.

It needs `prometheus` (Debian and Ubuntu: apt install prometheus) and takes three minutes. A browser draws
the panels: each line is what the dashboard's own expression gave Prometheus.
"""

import html
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Page

from tests.checks.prometheus import STATE, Prometheus, filled, mesh_up, write_configuration
from tests.e2e.browser import chromium
from tests.e2e.pages import SIZE, find, says
from tests.e2e.started import token
from tests.e2e.test_console import DEFINITION, go, sign_in
from tools.topology import ROOT, Mesh

IMAGES: Final = ROOT / "docs" / "images"
DASHBOARD: Final = ROOT / "helm" / "ameide" / "files" / "dashboards" / "services.json"
PANELS: Final = 6
"""As many of the dashboard's time series as fit: the first ones."""
SECONDS: Final = 90
STEP_SECONDS: Final = 2
COLOURS: Final = ("#1a5fb4", "#c64600", "#1a7046", "#813d9c", "#b5835a", "#0b7285")
STYLE: Final = """
body { margin: 0; padding: 16px; background: #f4f5f7; color: #24292f; font: 13px sans-serif; }
main { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
section { padding: 10px 12px; border: 1px solid #d0d7de; border-radius: 6px; background: white; }
h1 { margin: 0 0 12px; font-size: 18px; } h2 { margin: 0 0 6px; font-size: 14px; }
ul { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 4px 0 0; padding: 0; list-style: none; font-size: 11px; }
b { display: inline-block; width: 9px; height: 4px; margin-right: 5px; vertical-align: middle; }
"""


def work(mesh: Mesh) -> str:
    """Makes calls of every kind for a while; returns the id of a deployed IPA."""
    credentials = {"authorization": f"Bearer {token(mesh, 'acme', 'admin')}"}
    with httpx.Client(base_url=mesh.url, headers=credentials, timeout=20) as client:

        def post(path: str, **body: Any) -> Any:
            return client.post(path, json=body).raise_for_status().json()

        workflow = post("/v1/workflows", displayName="Pay an invoice", definition=DEFINITION)
        post(f"/v1/workflows/{workflow['id']}:publish")
        agent = post("/v1/agents", displayName="Invoice reader", model="reader-1")
        post(f"/v1/agents/{agent['id']}:activate")
        named = {"workflowId": workflow["id"], "workflowRevision": 1, "agentBindings": {"read": agent["id"]}}
        ipa: str = post("/v1/ipas", displayName="Invoices in Rotterdam", **named)["id"]
        post(f"/v1/ipas/{ipa}:deploy")
        until = time.monotonic() + SECONDS
        while (left := until - time.monotonic()) > 0:
            # More in the middle than at both ends.
            for _ in range(int(4 + 12 * min(left, SECONDS - left) / SECONDS)):
                made = post("/v1/users", displayName="Ada Lovelace", email=f"{time.monotonic_ns()}@example.com")
                for path in (f"/v1/users/{made['id']}", "/v1/users?pageSize=5", "/v1/agents", f"/v1/ipas/{ipa}"):
                    client.get(path).raise_for_status()
            client.get("/v1/workflows/none")
            client.post("/v1/users", json={"displayName": "Nobody"})
    return ipa


def console(page: Page, mesh: Mesh, ipa: str) -> None:
    page.goto(f"{mesh.url}/console")
    sign_in(page, token(mesh, "acme", "admin"))
    says(page, "#account", "acme")
    go(page, f"/ipas/{ipa}")
    says(page, "h1", "Invoices in Rotterdam")
    find(page, ".graph svg")
    says(page, "[data-state=DEPLOYED]", "The IPA is at work.")
    page.screenshot(path=IMAGES / "console.png")


def line(points: list[tuple[float, float]], colour: str, highest: float, start: float, end: float) -> str:
    at = " ".join(f"{600 * (x - start) / (end - start):.1f},{150 - 140 * y / highest:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def panel(prometheus: Prometheus, described: dict[str, Any], start: float, end: float) -> str:
    found = {}
    for target in described["targets"]:
        asked = {"start": str(start), "end": str(end), "step": str(STEP_SECONDS), "query": filled(target["expr"])}
        for one in prometheus.ask("query_range", **asked)["result"]:
            name = target["legendFormat"]
            for label in re.findall(r"{{(\w+)}}", name):
                name = name.replace(f"{{{{{label}}}}}", one["metric"].get(label, ""))
            found[name] = [(float(x), float(y)) for x, y in one["values"] if y != "NaN"]
    highest = max((y for points in found.values() for _, y in points), default=0.0) or 1.0
    unit = described["fieldConfig"]["defaults"].get("unit", "")
    colours = dict(zip(found, COLOURS * len(found), strict=False))
    lines = [line(points, colours[name], highest, start, end) for name, points in found.items()]
    items = [f'<li><b style="background: {colours[name]}"></b>{html.escape(name)}</li>' for name in found]
    top = f'<text x="4" y="10" font-size="11" fill="#57606a">{highest:.3g} {unit}</text>'
    axes = '<path d="M0 10H600M0 80H600M0 150H600" stroke="#d8dee4"/>'
    drawing = f'<svg viewBox="0 0 600 155">{axes}{"".join(lines)}{top}</svg>'
    return f"<section><h2>{html.escape(described['title'])}</h2>{drawing}<ul>{''.join(items)}</ul></section>"


def dashboard(page: Page, prometheus: Prometheus, start: float) -> None:
    described = json.loads(DASHBOARD.read_text())
    end = time.time()
    series = [one for one in described["panels"] if one["type"] == "timeseries"][:PANELS]
    drawn = "".join(panel(prometheus, one, start, end) for one in series)
    written = Path(STATE / "dashboard.html")
    written.write_text(
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><h1>{described['title']}</h1><main>{drawn}</main>"
    )
    page.goto(written.as_uri())
    page.screenshot(path=IMAGES / "dashboard.png")


def main() -> None:
    if not shutil.which("prometheus"):
        raise SystemExit("The dashboard needs prometheus. On Debian and Ubuntu: apt install prometheus")
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    with mesh_up() as mesh, chromium() as browser:
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        prometheus = Prometheus(7790 + mesh.port_offset)
        with prometheus.running(write_configuration(mesh)):
            start = time.time()
            ipa = work(mesh)
            dashboard(page, prometheus, start)
        console(page, mesh, ipa)


if __name__ == "__main__":
    main()
