"""What a person does with a page: looks for something, waits for it, presses it, reads it."""

import json
from typing import Any, Final

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_SECONDS: Final = 40


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
