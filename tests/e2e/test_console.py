"""The page /console in a real browser, before the whole mesh: what a person does there."""

import asyncio
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.checks.waiting import wait_until
from tests.e2e.line import Line
from tests.e2e.pages import find, holds, logged, press, requested, says, text_of
from tests.e2e.started import token
from tools.topology import Mesh

# The start of mesh and browser is the first test's.
pytestmark = pytest.mark.timeout(180)

Json = dict[str, Any]
OWN: Final = ("/console", "/console/console.css", "/console/console.js", "/.well-known/oauth-protected-resource")
DEFINITION: Final = {
    "nodes": [
        {"id": "start", "type": "START", "displayName": "An invoice arrives"},
        {"id": "read", "type": "AGENT", "displayName": "Read it"},
        {"id": "known", "type": "DECISION", "displayName": "Is the payee known?"},
        {"id": "ask", "type": "HUMAN", "displayName": "Ask the purchaser"},
        {"id": "end", "type": "END", "displayName": "Booked"},
    ],
    "edges": [
        {"source": "start", "target": "read"},
        {"source": "read", "target": "known"},
        {"source": "known", "target": "ask", "condition": "payee is new"},
        {"source": "known", "target": "end"},
        {"source": "ask", "target": "end"},
    ],
}


class Tenant:
    """A tenant of its own with what a person looks at."""

    def __init__(self, mesh: Mesh, open_client: Callable[..., httpx.Client]) -> None:
        self.name = f"console-{secrets.token_hex(4)}"
        self.api = open_client(self.name, "admin")
        self._mesh = mesh

    def token(self, *roles: str) -> str:
        return token(self._mesh, self.name, *roles)

    def post(self, path: str, **body: Any) -> Json:
        made: Json = self.api.post(path, json=body).raise_for_status().json()
        return made

    def workflow(self, name: str = "Pay an invoice") -> Json:
        made = self.post("/v1/workflows", displayName=name, description="Books what arrives.", definition=DEFINITION)
        return self.post(f"/v1/workflows/{made['id']}:publish")

    def ipa(self, *, agent_is_ready: bool) -> Json:
        workflow = self.workflow()
        agent = self.post("/v1/agents", displayName="Invoice reader", model="reader-1")
        if agent_is_ready:
            self.post(f"/v1/agents/{agent['id']}:activate")
        named = {"workflowId": workflow["id"], "workflowRevision": 1, "agentBindings": {"read": agent["id"]}}
        return self.post("/v1/ipas", displayName="Invoices in Rotterdam", **named)


@pytest.fixture
def tenant(mesh: Mesh, open_client: Callable[..., httpx.Client]) -> Tenant:
    return Tenant(mesh, open_client)


@pytest.fixture
def console(page: Page, mesh: Mesh) -> Page:
    """The page, just opened; nobody is signed in."""
    page.goto(f"{mesh.url}/console")
    return page


def sign_in(page: Page, credential: str) -> None:
    enter(page, "[name=credential]", credential)


def enter(page: Page, field: str, text: str) -> None:
    find(page, field).fill(text)
    page.keyboard.press("Enter")


def go(page: Page, path: str) -> None:
    page.evaluate("(path) => { location.hash = path; }", path)


def is_live(page: Page) -> None:
    says(page, ".pill", "Live")


def rows(page: Page) -> list[str]:
    return page.locator(".rows a").all_text_contents()


def shows(page: Page, *names: str) -> None:
    expect(page.locator(".rows a")).to_have_text(list(names))


class TestSignIn:
    def test_at_a_click_where_the_development_issuer_is(self, console: Page, mesh: Mesh) -> None:
        press(console, ".card div button")
        says(console, "#account", "ada of acme")
        is_live(console)
        # The token is in this tab, and nowhere else.
        assert console.url == f"{mesh.url}/console"
        kept = "[localStorage.length, document.cookie, Object.keys(sessionStorage)]"
        assert console.evaluate(kept) == [0, "", ["ameide.credential"]]
        press(console, "#account button")
        find(console, "[name=credential]")
        assert console.evaluate("sessionStorage.length") == 0

    def test_takes_no_token_that_it_has_not_asked_for(self, page: Page, tenant: Tenant, mesh: Mesh) -> None:
        page.goto(f"{mesh.url}/console#token={tenant.token('admin')}&state=")
        find(page, "[name=credential]")
        assert page.url == f"{mesh.url}/console"

    def test_with_an_api_key(self, console: Page, tenant: Tenant) -> None:
        account = tenant.post("/v1/serviceAccounts", displayName="Reports", roles=["viewer"])
        key = tenant.post(f"/v1/serviceAccounts/{account['id']}/keys", displayName="One")
        tenant.workflow("Seen with a key")
        sign_in(console, key["secret"])
        says(console, "#account", "an API key")
        shows(console, "Seen with a key")

    def test_says_why_it_cannot(self, console: Page) -> None:
        sign_in(console, "no token")
        says(console, ".refusal", "UNAUTHENTICATED")
        find(console, "[name=credential]")


class TestLook:
    def test_finds_a_workflow_and_its_graph(self, console: Page, tenant: Tenant, mesh: Mesh) -> None:
        for name in ("Pay an invoice", "Welcome a colleague"):
            tenant.workflow(name)
        sign_in(console, tenant.token("viewer"))
        shows(console, "Welcome a colleague", "Pay an invoice")
        enter(console, "[name=filter]", "invoice")
        shows(console, "Pay an invoice")
        press(console, ".rows a")
        says(console, "h1", "Pay an invoice")
        drawn = "[...document.querySelectorAll('svg title')].map((one) => one.textContent)"
        find(console, ".graph svg")
        steps = [node["displayName"] for node in DEFINITION["nodes"]]
        assert sorted(console.evaluate(drawn)) == sorted([*steps, "payee is new"])
        places = "[...document.querySelectorAll('.node rect')].map((one) => Number(one.getAttribute('y')))"
        # The steps follow each other downwards.
        assert console.evaluate(places) == sorted(set(console.evaluate(places)))
        press(console, ".graph summary")
        assert "Is the payee known? (decision), then Ask the purchaser if payee is new, or Booked" in text_of(
            console, ".graph ol"
        )
        assert "Published as revision 1 by ada" in text_of(console, ".history")
        press(console, ".history summary")
        find(console, ".history svg")
        exact = find(console, ".facts time").get_attribute("title")
        assert exact and re.search(r"\d\d:\d\d:\d\d", exact), exact

        assert logged(console) == []
        asked = {url.partition("?")[0] for url in requested(console)}
        calls = [f"WorkflowService/{name}" for name in ("ListWorkflows", "WatchWorkflows", "GetWorkflow")]
        rpcs = [f"/ameide.workflow.v1.{name}" for name in (*calls, "WorkflowService/ListWorkflowRevisions")]
        assert asked == {f"{mesh.url}{path}" for path in (*OWN, *rpcs)}

    def test_follows_what_happens(self, console: Page, tenant: Tenant) -> None:
        sign_in(console, tenant.token("viewer"))
        says(console, ".empty", "There is no workflow yet.")
        go(console, "/agents")
        says(console, ".empty", "There is no agent yet.")
        is_live(console)
        # What a name says is no part of the page.
        agent = tenant.post("/v1/agents", displayName="<b>Ada</b>", model="reader-1")
        shows(console, "<b>Ada</b>")
        path = f"/v1/agents/{agent['id']}"
        tenant.api.patch(path, json={"displayName": "Grace"}).raise_for_status()
        shows(console, "Grace")
        tenant.post(f"{path}:activate")
        says(console, ".rows", "Active")
        tenant.api.delete(path).raise_for_status()
        says(console, ".empty", "There is no agent yet.")

    def test_has_pages(self, console: Page, tenant: Tenant) -> None:
        names = [f"Person {number}" for number in range(22)]
        people = [{"user": {"displayName": one, "email": f"{one[7:]}@example.com"}} for one in names]
        tenant.post("/v1/users:batchCreate", requests=people)
        sign_in(console, tenant.token("viewer"))
        go(console, "/users")
        expect(console.locator(".rows a")).to_have_count(20)
        first = rows(console)
        press(console, ".pages button:last-child")
        expect(console.locator(".rows a")).to_have_count(2)
        assert sorted([*first, *rows(console)]) == sorted(names)
        press(console, ".pages button:first-child")
        shows(console, *first)

    def test_explains_a_filter_that_is_none(self, console: Page, tenant: Tenant) -> None:
        sign_in(console, tenant.token("viewer"))
        enter(console, "[name=filter]", "colour = 1")
        says(console, ".refusal", "INVALID_FILTER")
        assert "`colour`" in text_of(console, ".refusal")

    def test_shows_limits_to_those_who_may(self, console: Page, tenant: Tenant) -> None:
        tenant.workflow()
        sign_in(console, tenant.token("admin"))
        is_live(console)
        go(console, "/limits")
        says(console, ".meters", "1 of 100,000")
        assert "of 4,000" in text_of(console, "section:last-child .meters")
        press(console, "#account button")
        sign_in(console, tenant.token("viewer"))
        says(console, ".refusal", "PERMISSION_DENIED")


class TestDeploy:
    def test_watches_it_arrive(self, console: Page, tenant: Tenant) -> None:
        ipa = tenant.ipa(agent_is_ready=True)
        sign_in(console, tenant.token("editor", "admin"))
        go(console, f"/ipas/{ipa['id']}")
        says(console, "ameide-deployments", "Never deployed.")
        assert "Invoice reader" in str(find(console, ".graph svg").text_content())
        press(console, "[data-verb=deploy]")
        says(console, "[data-state=DEPLOYED]", "The IPA is at work.")
        says(console, ".title", "Deployed")
        steps = text_of(console, ".steps")
        assert re.sub(r"\d+ ms", "… ms", steps).split("\n") == [
            *("✓", "Reserve workflow", "Done · … ms", "✓", "Reserve agents", "Done · … ms"),
            *("✓", "Activate", "Done · … ms"),
        ]
        press(console, "[data-verb=retire]")
        says(console, "dialog", "A retired IPA never works again.")
        press(console, "dialog .danger")
        says(console, "[data-state=RETIRED]", "Retirement")
        says(console, ".title", "Retired")

    def test_sees_what_was_done_being_undone(self, console: Page, tenant: Tenant) -> None:
        ipa = tenant.ipa(agent_is_ready=False)
        sign_in(console, tenant.token("admin"))
        go(console, f"/ipas/{ipa['id']}")
        press(console, "[data-verb=deploy]")
        says(console, "[data-state=FAILED]", "nothing is held")
        steps = text_of(console, ".steps")
        assert re.search(r"Reserve workflow\nDone.*\n✓\nUndo it\nDone", steps), steps
        assert re.search(r"✕\nReserve agents\nFailed.*\n.*not ACTIVE.*INVALID_STATE", steps), steps


class TestRefusal:
    def test_is_explained(self, console: Page, tenant: Tenant) -> None:
        workflow = tenant.post("/v1/workflows", displayName="Empty")
        sign_in(console, tenant.token("admin"))
        go(console, f"/workflows/{workflow['id']}")
        press(console, "[data-verb=publish]")
        said = text_of(console, ".refusal")
        assert said.startswith("Publish was refused.\n")
        assert "INVALID_GRAPH" in said
        assert re.search(r"Request id [0-9a-f-]{36}", said)

    def test_names_the_missing_right(self, console: Page, tenant: Tenant) -> None:
        workflow = tenant.workflow()
        sign_in(console, tenant.token("viewer"))
        go(console, f"/workflows/{workflow['id']}")
        press(console, "[data-verb=publish]")
        says(console, ".refusal", "PERMISSION_DENIED")
        assert "An admin of your tenant can give you another role." in text_of(console, ".refusal")

    def test_a_deletion_is_confirmed_and_can_be_taken_back(self, console: Page, tenant: Tenant) -> None:
        workflow = tenant.workflow()
        sign_in(console, tenant.token("admin"))
        go(console, f"/workflows/{workflow['id']}")
        press(console, "[data-verb=delete]")
        find(console, "dialog button").press("Escape")
        expect(console.locator("[data-verb=delete]")).to_be_focused()
        press(console, "[data-verb=delete]")
        press(console, "dialog .danger")
        says(console, ".title", "Deleted")
        press(console, "[data-verb=undelete]")
        says(console, ".title", "Published")
        go(console, "/workflows")
        shows(console, "Pay an invoice")


@contextmanager
def line_to(port: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Opens a line to ``port``; yields its address, and what cuts it."""
    loop, opening = asyncio.new_event_loop(), Line.to(port)
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    line = asyncio.run_coroutine_threadsafe(opening.__aenter__(), loop).result()
    try:
        yield line.url, lambda: loop.call_soon_threadsafe(line.cut)
    finally:
        asyncio.run_coroutine_threadsafe(opening.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        runner.join()
        loop.close()


class TestConnection:
    def test_that_is_lost_goes_on_where_it_was(self, console: Page, mesh: Mesh, tenant: Tenant) -> None:
        tenant.workflow("Before")
        with line_to(mesh.ports["edge http"]) as (url, cut):
            console.goto(f"{url}/console")
            sign_in(console, tenant.token("viewer"))
            is_live(console)
            shows(console, "Before")
            console.context.set_offline(True)
            cut()
            says(console, ".pill", "Connection lost. Trying again…")
            tenant.workflow("Meanwhile")
            console.context.set_offline(False)
            is_live(console)
            shows(console, "Meanwhile", "Before")
            tenant.workflow("After")
            shows(console, "After", "Meanwhile", "Before")

    def test_holds_no_watch_that_nobody_sees(self, console: Page, mesh: Mesh, tenant: Tenant) -> None:
        ipa = tenant.ipa(agent_is_ready=True)
        sign_in(console, tenant.token("viewer"))
        for path in ("/users", "/agents", f"/workflows/{ipa['workflowId']}", "/ipas", f"/ipas/{ipa['id']}"):
            go(console, path)
            is_live(console)
        watched = f"http://127.0.0.1:{mesh.ports['edge admin']}/stats?filter=upstream_rq_active"

        def open_calls() -> int:
            counts = re.findall(r"(?m)^cluster\.\w+s\.upstream_rq_active: (\d+)", httpx.get(watched, verify=False).text)
            return sum(map(int, counts))

        # The IPA and its deployments.
        wait_until(lambda: open_calls() == 2)
        go(console, "/limits")
        wait_until(lambda: open_calls() == 0)


class TestEverybody:
    def test_can_read_every_view(self, console: Page, tenant: Tenant) -> None:
        ipa = tenant.ipa(agent_is_ready=False)
        long = {"displayName": "W" * 200, "labels": {"label-" + "x" * 57: "y" * 255}, "description": "z" * 3000}
        agent = tenant.post("/v1/agents", model="reader-1", instructions="i" * 3000, **long)
        holds(console, "the sign-in", ".card div button")
        sign_in(console, tenant.token("admin"))
        go(console, f"/ipas/{ipa['id']}")
        press(console, "[data-verb=deploy]")
        find(console, "[data-state=FAILED]")
        press(console, "[data-verb=retire]")
        for path, shown in (
            (f"/ipas/{ipa['id']}", ".graph svg"),
            (f"/agents/{agent['id']}", ".prose"),
            (f"/workflows/{ipa['workflowId']}", ".graph svg"),
            ("/agents", ".rows a"),
            ("/users", ".empty"),
            ("/users?filter=colour%20%3D%201", ".refusal"),
            ("/limits", "section:last-child li"),
        ):
            go(console, path)
            holds(console, path, shown)
        go(console, f"/agents/{agent['id']}")
        press(console, "[data-verb=delete]")
        holds(console, "the question", "dialog .danger")

    def test_needs_no_mouse(self, console: Page, tenant: Tenant) -> None:
        tenant.workflow()
        sign_in(console, tenant.token("admin"))
        shows(console, "Pay an invoice")

        def focused() -> str:
            return text_of(console, ":focus")

        # Who opens a page is at its heading, and screen readers begin there.
        assert focused() == "Workflows"
        for stop in ("", "", "Apply", "Pay an invoice"):
            console.keyboard.press("Tab")
            assert focused() == stop
        console.keyboard.press("Enter")
        says(console, "h1", "Pay an invoice")
        assert focused() == "Pay an invoice"
        console.keyboard.press("Tab")
        console.keyboard.press("Enter")
        says(console, ".title", "Published")
        says(console, ".history", "revision 1")
