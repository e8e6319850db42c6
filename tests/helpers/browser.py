"""Shared by tests: a headless browser, and its requests and messages while it shows a page."""

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
DRIVER = shutil.which("chromedriver")
WHY = "no browser: install chromium and chromium-driver (apt-get) to test pages in one"
in_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason=WHY)


def started() -> Any:
    """Return a headless Chromium that logs its requests and its console."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for word in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "enable-unsafe-swiftshader",
        "window-size=1280,1000",
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))


def open_page(browser: Any, path: Path) -> float:
    """Open a page; return the seconds until it was loaded, the best of three if the machine is busy."""
    best = float("inf")
    for _ in range(3):
        browser.get("about:blank")
        requests(browser)
        complaints(browser)
        started = time.perf_counter()
        browser.get(path.as_uri())
        best = min(best, time.perf_counter() - started)
        if best < 3:
            break
    return best


def wait_for(browser: Any, condition: str) -> None:
    for _ in range(900):
        if browser.execute_script(f"return Boolean({condition})"):
            return
        time.sleep(0.1)
    raise AssertionError(f"never became true: {condition}")


def complaints(browser: Any) -> list[str]:
    """Return the console's errors; warnings, such as the software renderer's on its speed, are left out.

    The console's messages reach the driver some time after the page is loaded. Two messages of our own
    follow the page's, one logged and one thrown, since the two kinds overtake each other.
    """
    ends = {f"end of log {uuid.uuid4()} {kind}" for kind in ("logged", "thrown")}
    logged, thrown = sorted(ends)
    browser.execute_script(
        "console.error(arguments[0]); const end = arguments[1]; setTimeout(() => { throw new Error(end) })",
        logged,
        thrown,
    )
    found: list[str] = []
    for _ in range(300):
        entries = browser.get_log("browser")
        found += [e["message"] for e in entries if e["level"] not in ("WARNING", "INFO", "DEBUG")]
        if all(any(end in message for message in found) for end in ends):
            return [message for message in found if not any(end in message for end in ends)]
        time.sleep(0.1)
    raise AssertionError(f"the console's log did not end: {found}")


def requests(browser: Any) -> list[str]:
    """Return the addresses that the page asked for, in order; what it holds itself is left out."""
    end = f"end-of-log-{uuid.uuid4()}"
    browser.execute_script(
        "const here = location.href; history.replaceState(history.state, '', '#' + arguments[0]);"
        "history.replaceState(history.state, '', here)",
        end,
    )
    asked: list[str] = []
    for _ in range(300):
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked += [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        within = [e["params"]["url"] for e in events if e["method"] == "Page.navigatedWithinDocument"]
        if any(url.endswith(end) for url in within):
            return [url for url in asked if not url.startswith(("data:", "blob:"))]
        time.sleep(0.1)
    raise AssertionError(f"the log of requests did not end: {asked}")
