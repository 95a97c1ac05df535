"""The page /docs in a real browser, before the whole mesh."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

from tests.e2e.conftest import token
from tools.topology import Mesh

# The start of mesh and browser is the first test's.
pytestmark = pytest.mark.timeout(180)
FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
LIST_USERS: Final = "#operations-User-ListUsers"
PATIENCE_SECONDS: Final = 40


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.fail("The page /docs needs a browser: on Debian and Ubuntu, apt install chromium chromium-driver")
    # Nothing of it is downloaded by selenium: both programs are named.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(programs[0])
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, Service(str(programs[1])))
        yield driver
        driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, mesh: Mesh) -> webdriver.Chrome:
    """The page, just opened; what was logged before is gone."""
    for kind in ("browser", "performance"):
        logged(browser, kind)
    browser.get(f"{mesh.url}/docs")
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
        self, page: webdriver.Chrome, mesh: Mesh, rest: Callable[..., httpx.Client]
    ) -> None:
        body = {"displayName": "Grace Hopper", "email": "grace@navy.example"}
        assert rest("the-page", "admin").post("/v1/users", json=body).status_code == 200

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
