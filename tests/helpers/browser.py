"""Shared by tests: a headless browser, and its requests and messages while it shows a page."""

import json
import shutil
import time
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
        browser.get_log("performance")
        browser.get_log("browser")
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
    """Return the console's errors; warnings, such as the software renderer's on its speed, are left out."""
    return [
        e["message"] for e in browser.get_log("browser") if e["level"] not in ("WARNING", "INFO", "DEBUG")
    ]


def requests(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "blob:"))]
