"""The pages /docs and /docs/live in a real browser, before the whole mesh."""

import json
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.e2e.started import token
from tools.topology import Mesh

# The start of mesh and browser is the first test's.
pytestmark = pytest.mark.timeout(180)
LIST_USERS: Final = "#operations-User-ListUsers"
PATIENCE_SECONDS: Final = 40


@pytest.fixture
def page(browser: webdriver.Chrome, mesh: Mesh) -> webdriver.Chrome:
    """The page, just opened; what was logged before is gone."""
    return opened(browser, f"{mesh.url}/docs")


@pytest.fixture
def live(browser: webdriver.Chrome, mesh: Mesh) -> webdriver.Chrome:
    """The page that shows changes, just opened."""
    return opened(browser, f"{mesh.url}/docs/live")


def opened(browser: webdriver.Chrome, url: str) -> webdriver.Chrome:
    for kind in ("browser", "performance"):
        logged(browser, kind)
    browser.get(url)
    return browser


def find(browser: webdriver.Chrome, selector: str) -> WebElement:
    """Waits for what may be clicked."""
    wait = WebDriverWait(browser, PATIENCE_SECONDS)
    return wait.until(until.element_to_be_clickable((By.CSS_SELECTOR, selector)))


def press(browser: webdriver.Chrome, selector: str) -> None:
    # What is clicked may still be moving.
    browser.execute_script("arguments[0].click()", find(browser, selector))


def text_of(browser: webdriver.Chrome, selector: str) -> str:
    """Waits for what is shown."""
    wait = WebDriverWait(browser, PATIENCE_SECONDS)
    found: WebElement = wait.until(until.visibility_of_element_located((By.CSS_SELECTOR, selector)))
    return found.text


def logged(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """Returns what was logged since somebody asked last."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def requested(browser: webdriver.Chrome) -> list[str]:
    """Returns what the page asked for, anywhere in the world; not what the browser itself holds."""
    events = [json.loads(entry["message"])["message"] for entry in logged(browser, "performance")]
    sent = (event["params"]["request"] for event in events if event["method"] == "Network.requestWillBeSent")
    urls: list[str] = [request["url"] for request in sent]
    return [url for url in urls if not url.startswith(("data:", "chrome:"))]


class TestPage:
    def test_lists_users_with_a_token(
        self, page: webdriver.Chrome, mesh: Mesh, open_client: Callable[..., httpx.Client]
    ) -> None:
        body = {"displayName": "Grace Hopper", "email": "grace@navy.example"}
        assert open_client("the-page", "admin").post("/v1/users", json=body).status_code == 200

        press(page, ".auth-wrapper .authorize")
        find(page, "#auth-bearer-value").send_keys(token(mesh, "the-page", "viewer"))
        press(page, ".modal-ux button.authorize")
        press(page, ".modal-ux .btn-done")
        press(page, f"{LIST_USERS} .opblock-summary-control")
        press(page, f"{LIST_USERS} .execute")
        assert text_of(page, f"{LIST_USERS} tr.response .response-col_status").split() == ["200"]
        assert "Grace Hopper" in text_of(page, f"{LIST_USERS} tr.response .response-col_description")

        assert logged(page, "browser") == []
        own = ["/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/openapi.json"]
        assert sorted(requested(page)) == [f"{mesh.url}{path}" for path in (*own, "/v1/users")]

    def test_runs_nothing_that_was_put_into_it(self, page: webdriver.Chrome) -> None:
        find(page, ".auth-wrapper .authorize")
        attack = """
            const script = document.createElement("script");
            script.textContent = "window.inside = true";
            document.body.append(script);
            setTimeout("window.evaluated = true", 0);
            const image = new Image();
            image.onerror = () => document.body.dataset.refused = "yes";
            image.src = "http://127.0.0.1:1/x.png";
        """
        page.execute_script(attack)
        find(page, "body[data-refused]")
        assert page.execute_script("return [window.inside, window.evaluated]") == [None, None]
        refused = [entry["message"] for entry in logged(page, "browser")]
        for directive in ("script-src 'self'", "img-src 'self' data:"):
            assert [message for message in refused if directive in message], refused


def watch(page: webdriver.Chrome, bearer: str, collection: str = "users") -> None:
    """Begins to watch, and waits until the stream is open."""
    find(page, "[name=token]").clear()
    find(page, "[name=token]").send_keys(bearer)
    Select(find(page, "[name=collection]")).select_by_visible_text(collection)
    press(page, "form button")
    says(page, f"Watching {collection}.")


def says(page: webdriver.Chrome, text: str) -> None:
    wait = WebDriverWait(page, PATIENCE_SECONDS)
    wait.until(until.text_to_be_present_in_element((By.CSS_SELECTOR, "[role=status]"), text))


class TestLivePage:
    def test_shows_what_happens_as_it_happens(
        self, live: webdriver.Chrome, mesh: Mesh, open_client: Callable[..., httpx.Client]
    ) -> None:
        api = open_client("live", "admin")
        watch(live, token(mesh, "live", "viewer"))
        # Neither what others do nor what a name says is part of the page.
        open_client("other", "admin").post("/v1/users", json={"displayName": "Eve", "email": "eve@example.com"})
        body = {"displayName": "<b>Ada</b>", "email": "ada@example.com"}
        user = api.post("/v1/users", json=body).raise_for_status().json()
        find(live, "tr.created")
        api.patch(f"/v1/users/{user['id']}", json={"displayName": "Grace"}).raise_for_status()
        find(live, "tr.updated")
        api.delete(f"/v1/users/{user['id']}").raise_for_status()
        find(live, "tr.deleted")
        rows = [row.text.split(" ", 1)[1] for row in live.find_elements(By.CSS_SELECTOR, "tbody tr")]
        facts = (("deleted", "Grace"), ("updated", "Grace"), ("created", "<b>Ada</b>"))
        assert rows == [f"{kind} {name} ACTIVE {user['id']}" for kind, name in facts]

        assert logged(live, "browser") == []
        own = ["/docs/live", "/docs/live.css", "/docs/live.js", "/v1/users:watch?filter="]
        assert sorted(requested(live)) == [f"{mesh.url}{path}" for path in own]

    def test_begins_with_what_there_is_and_stops_when_it_is_told(
        self, live: webdriver.Chrome, mesh: Mesh, open_client: Callable[..., httpx.Client]
    ) -> None:
        api = open_client("live-agents", "admin")
        body = {"displayName": "Reader", "model": "reader-1"}
        agent = api.post("/v1/agents", json=body).raise_for_status().json()
        press(live, "[name=initialState]")
        watch(live, token(mesh, "live-agents", "viewer"), "agents")
        assert text_of(live, "tr.created").split()[2:] == ["Reader", "DRAFT", agent["id"]]
        press(live, "form [type=reset]")
        says(live, "Nothing is watched.")

    def test_says_why_it_cannot(self, live: webdriver.Chrome, mesh: Mesh) -> None:
        find(live, "[name=token]").send_keys("no token")
        press(live, "form button")
        says(live, "The watch has ended:")
