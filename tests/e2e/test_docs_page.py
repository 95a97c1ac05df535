"""The page /docs in a real browser, before the whole mesh."""

from collections.abc import Callable
from typing import Final

import httpx
import pytest
from selenium import webdriver

from tests.e2e.pages import find, logged, opened, press, requested, text_of
from tests.e2e.started import token
from tools.topology import Mesh

# The start of mesh and browser is the first test's.
pytestmark = pytest.mark.timeout(180)
LIST_USERS: Final = "#operations-User-ListUsers"


@pytest.fixture
def page(browser: webdriver.Chrome, mesh: Mesh) -> webdriver.Chrome:
    """The page, just opened; what was logged before is gone."""
    return opened(browser, f"{mesh.url}/docs")


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
        assert text_of(page, "a[href='/console']")

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
