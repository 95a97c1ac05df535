"""What a person does with a page: looks for something, waits for it, presses it, reads it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

from tests.node_packages import installed
from tools.topology import ROOT

FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_SECONDS: Final = 40


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that loads nothing by itself."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.fail("The tests need a browser: on Debian and Ubuntu, apt install chromium chromium-driver")
    # Nothing of it is downloaded by selenium: both programs are named.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(programs[0])
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, Service(str(programs[1])))
        driver.set_script_timeout(PATIENCE_SECONDS)
        yield driver
        driver.quit()


def patience(browser: webdriver.Chrome) -> WebDriverWait[webdriver.Chrome]:
    """Waits for what a page will show."""
    return WebDriverWait(browser, PATIENCE_SECONDS, poll_frequency=0.1)


def opened(browser: webdriver.Chrome, url: str) -> webdriver.Chrome:
    """Opens a page; what was logged before is gone."""
    for kind in ("browser", "performance"):
        logged(browser, kind)
    browser.get(url)
    return browser


def find(browser: webdriver.Chrome, selector: str) -> WebElement:
    """Waits for what may be clicked."""
    wait = patience(browser)
    return wait.until(until.element_to_be_clickable((By.CSS_SELECTOR, selector)))


def press(browser: webdriver.Chrome, selector: str) -> None:
    # What is clicked may still be moving.
    browser.execute_script("arguments[0].click()", find(browser, selector))


def text_of(browser: webdriver.Chrome, selector: str) -> str:
    """Waits for what is shown."""
    wait = patience(browser)
    found: WebElement = wait.until(until.visibility_of_element_located((By.CSS_SELECTOR, selector)))
    return found.text


def says(browser: webdriver.Chrome, selector: str, text: str) -> None:
    """Waits until ``text`` is a part of what is shown."""
    wait = patience(browser)
    wait.until(until.text_to_be_present_in_element((By.CSS_SELECTOR, selector), text))


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


@contextmanager
def seen_as(page: webdriver.Chrome, scheme: str, width: int) -> Iterator[None]:
    """Gives the page a colour scheme and a width."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def holds(page: webdriver.Chrome, what: str, shown: str) -> None:
    """Axe finds nothing in both colour schemes, and nothing is wider than a desktop or a phone."""
    axe = (installed(ROOT / "clients" / "console") / "node_modules" / "axe-core" / "axe.min.js").read_text()
    find(page, shown)
    run = "axe.run().then((found) => arguments[0](found.violations.map((one) => one.id + ' ' + one.nodes[0].html)))"
    for scheme, width in (("light", 1280), ("dark", 390)):
        with seen_as(page, scheme, width):
            page.execute_script(axe)
            assert page.execute_async_script(run) == [], f"{what}, {scheme}"
            wide = page.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{what}, {width} pixels wide, needs {wide}"
