"""The page /docs in a real browser, before the whole mesh."""

import json
import re
from collections.abc import Callable
from typing import Final

import httpx
import pytest
from playwright.sync_api import Page

from tests.contract.test_openapi import DOCUMENT, OPERATIONS
from tests.e2e.answers import REFUSED
from tests.e2e.pages import find, holds, logged, press, requested, says, seen_as, text_of
from tests.e2e.started import token
from tools.topology import Mesh

# The start of mesh and browser is the first test's.
pytestmark = pytest.mark.timeout(180)
LIST_USERS: Final = "#operations-User-ListUsers"
ANSWER: Final = ".live-responses-table tr.response .response"
THREE_SCREENS: Final = 3 * 900


@pytest.fixture
def page(page: Page, mesh: Mesh) -> Page:
    """The page, just opened."""
    page.goto(f"{mesh.url}/docs")
    return page


def authorize(page: Page, mesh: Mesh, role: str) -> None:
    press(page, ".auth-wrapper .authorize")
    find(page, "#auth-bearer-value").fill(token(mesh, "the-page", role))
    press(page, ".modal-ux button.authorize")
    press(page, ".modal-ux .btn-done")


def longest() -> str:
    """The selector of the operation that has most to show: parameters, a body, refusals."""
    sizes = {
        name: len(one["parameters"]) + len(one["responses"]) + 4 * ("requestBody" in one)
        for name, (*_, one) in OPERATIONS.items()
    }
    name = max(sizes, key=lambda one: sizes[one])
    return f"#operations-{OPERATIONS[name][2]['tags'][0]}-{name}"


class TestPage:
    def test_lists_users_with_a_token(self, page: Page, mesh: Mesh, open_client: Callable[..., httpx.Client]) -> None:
        body = {"displayName": "Grace Hopper", "email": "grace@navy.example"}
        assert open_client("the-page", "admin").post("/v1/users", json=body).status_code == 200

        authorize(page, mesh, "viewer")
        press(page, f"{LIST_USERS} .opblock-summary-control")
        press(page, f"{LIST_USERS} .execute")
        assert text_of(page, f"{LIST_USERS} {ANSWER}-col_status").split() == ["200"]
        says(page, f"{LIST_USERS} {ANSWER}-col_description", "Grace Hopper")

        assert logged(page) == []
        own = [
            "/docs",
            *(f"/docs/{name}" for name in ("page.css", "start.js", "swagger-ui-bundle.js", "swagger-ui.css")),
        ]
        assert sorted(requested(page)) == [f"{mesh.url}{path}" for path in (*own, "/openapi.json", "/v1/users")]
        assert text_of(page, "a[href='/console']")

    def test_shows_an_operation_on_three_screens_and_each_error_once(self, page: Page) -> None:
        operation = longest()
        find(page, operation)
        # Axe looks at what is open.
        others = f".opblock-tag-section:not(:has({operation})) .opblock-tag[data-tag]"
        page.evaluate("(others) => document.querySelectorAll(others).forEach((one) => one.click())", others)
        with seen_as(page, "light", 1280):
            press(page, f"{operation} .opblock-summary-control")
            refused = text_of(page, f"{operation} .refusals").split()
            shown = find(page, operation).bounding_box()
            assert shown is not None and shown["height"] <= THREE_SCREENS
        assert {"400", "INVALID_REQUEST", "ETAG_MISMATCH", "429", "TOO_MANY_CALLS", "504"} <= set(refused)
        # Beside the answer there is no example: what an error looks like is told once.
        assert text_of(page, f"{operation} .responses-wrapper").count("Media type") == 1
        rows = page.evaluate("[...document.querySelectorAll('.errors td code[id]')].map((one) => one.id)")
        assert rows == DOCUMENT["components"]["schemas"]["Reason"]["enum"]
        bodies = [json.loads(one) for one in page.locator(".errors pre").all_text_contents()]
        assert [one["details"][0]["reason"] for one in bodies] == sorted(REFUSED)
        press(page, ".errors details summary")
        assert '"reason": "AGENT_NOT_FOUND"' in text_of(page, ".errors details pre")
        press(page, f"{operation} .refusals a[href='#ETAG_MISMATCH']")
        assert "Read the resource again" in text_of(page, ".errors tr:focus-within")
        holds(page, "the page", operation)

    def test_copies_each_first_call(self, page: Page, mesh: Mesh) -> None:
        calls = re.findall(r"```\w+\n(.*?)\n```", DOCUMENT["info"]["description"], re.DOTALL)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=mesh.url)
        find(page, ".copy button[aria-label='Copy REST']").press("Enter")
        says(page, ".copy [role=status]", "Copied")
        assert page.evaluate("navigator.clipboard.readText()") == calls[0]
        # Pages that no certificate protects may not copy, unless they are this machine's.
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        selected = []
        for button in page.locator(".copy button").all():
            button.press("Space")
            selected.append(str(page.evaluate("getSelection().toString()")).rstrip())
        assert selected == calls
        says(page, ".copy [role=status]", "copy it with the keyboard")
        assert logged(page) == []

    def test_ends_a_watch_that_it_executes(self, page: Page, mesh: Mesh) -> None:
        watch = "#operations-User-WatchUsers"
        authorize(page, mesh, "viewer")
        press(page, f"{watch} .opblock-summary-control")
        press(page, f"{watch} .execute")
        assert text_of(page, f"{watch} {ANSWER}-col_status").split() == ["200"]
        says(page, f"{watch} {ANSWER}-col_description", "bookmark")
        says(page, f"{watch} {ANSWER}-col_description", "The console and curl -N go on.")

    def test_runs_nothing_that_was_put_into_it(self, page: Page) -> None:
        find(page, ".auth-wrapper .authorize")
        attack = """() => {
            const script = document.createElement("script");
            script.textContent = "window.inside = true";
            document.body.append(script);
            setTimeout("window.evaluated = true", 0);
            const image = new Image();
            image.onerror = () => document.body.dataset.refused = "yes";
            image.src = "http://127.0.0.1:1/x.png";
        }"""
        page.evaluate(attack)
        find(page, "body[data-refused]")
        assert page.evaluate("[window.inside, window.evaluated]") == [None, None]
        refused = logged(page)
        for directive in ("script-src 'self'", "img-src 'self' data:"):
            assert [message for message in refused if directive in message], refused
