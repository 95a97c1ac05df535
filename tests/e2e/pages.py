"""What a person does with a page: looks for something, waits for it, presses it, reads it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Locator, Page, ViewportSize, expect

from tests.node_packages import installed
from tools.topology import ROOT

SIZE: Final[ViewportSize] = {"width": 1280, "height": 900}
expect.set_options(timeout=40_000)


def find(page: Page, selector: str) -> Locator:
    """Waits for what is shown."""
    found = page.locator(selector).first
    expect(found).to_be_visible()
    return found


def press(page: Page, selector: str) -> None:
    # What is clicked may still be moving.
    find(page, selector).dispatch_event("click")


def text_of(page: Page, selector: str) -> str:
    """Waits for what is shown; returns its lines, without those that are empty."""
    return re.sub(r"\n+", "\n", find(page, selector).inner_text())


def says(page: Page, selector: str, text: str) -> None:
    """Waits until ``text`` is a part of what is shown."""
    expect(page.locator(selector).first).to_contain_text(text, use_inner_text=True)


def logged(page: Page) -> list[str]:
    """Returns what was written to the console, and the errors of scripts."""
    return [one.text for one in page.console_messages()] + [str(one) for one in page.page_errors()]


def requested(page: Page) -> list[str]:
    """Returns what the page asked for, anywhere in the world; not what it holds itself."""
    return [one.url for one in page.requests() if not one.url.startswith("data:")]


@contextmanager
def seen_as(page: Page, scheme: str, width: int) -> Iterator[None]:
    """Gives the page a colour scheme and a width."""
    session = page.context.new_cdp_session(page)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    session.send("Emulation.setEmulatedMedia", media)
    session.send("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        session.send("Emulation.setEmulatedMedia", {"features": []})
        session.send("Emulation.clearDeviceMetricsOverride")
        session.detach()


def holds(page: Page, what: str, shown: str) -> None:
    """Axe finds nothing in both colour schemes, and nothing is wider than a desktop or a phone."""
    axe = (installed(ROOT / "clients" / "console") / "node_modules" / "axe-core" / "axe.min.js").read_text()
    find(page, shown)
    run = "axe.run().then((found) => found.violations.map((one) => one.id + ' ' + one.nodes[0].html))"
    for scheme, width in (("light", 1280), ("dark", 390)):
        with seen_as(page, scheme, width):
            page.evaluate(axe)
            assert page.evaluate(run) == [], f"{what}, {scheme}"
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{what}, {width} pixels wide, needs {wide}"
