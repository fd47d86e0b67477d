"""A real Chromium, without a window, for tests of pages; and axe-core, which knows the rules of accessibility."""

from __future__ import annotations

import base64
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
)


@contextmanager
def browser(dark: bool = False, width: int = 1280, height: int = 900, scripts: bool = True) -> Iterator[Any]:
    """A Chromium of its own profile, closed at the end; skips the test where none is installed.

    Args:
        dark: whether pages are told that the reader prefers dark surroundings.
        width: of the window's inside, in CSS pixels; 360 is a narrow telephone.
        height: likewise.
        scripts: whether pages may run scripts.
    """
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        options.binary_location = CHROMIUM
        for switch in (*SWITCHES, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            driver.set_page_load_timeout(60)
            resize(driver, width, height)
            prefer(driver, dark=dark)
            if not scripts:
                driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
            yield driver
        finally:
            driver.quit()


def resize(driver: Any, width: int, height: int = 900) -> None:
    """Gives the page's view this size, below the least that a window can have, too."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


def prefer(driver: Any, *, dark: bool) -> None:
    """Tells pages which surroundings the reader prefers, and that nothing should move."""
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def axe(driver: Any, part: str = "html") -> list[str]:
    """Serious and critical violations that axe-core finds on the page, or a part of it: rule, help, elements."""
    found = importlib.util.find_spec("axe_core_python")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    # Into the page's own world by the debugger, which no content security policy stops.
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": source})
    result = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(arguments[0], {resultTypes: ['violations']}).then(done, e => done({violations: [{impact: 'critical', "
        "id: 'axe failed', help: String(e), nodes: []}]}));",
        part,
    )
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:200] for node in rule['nodes'][:5]]}"
        for rule in result["violations"]
        if rule["impact"] in ("serious", "critical")
    ]


def complaints(driver: Any) -> list[str]:
    """What the browser's console holds of errors since it was last asked, refused scripts and styles included."""
    return [str(entry["message"]) for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def remarks(driver: Any) -> list[str]:
    """The same, warnings included."""
    return [str(entry["message"]) for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def scrolls_sideways(driver: Any) -> bool:
    """Whether the page as a whole is wider than its view."""
    return bool(driver.execute_script("return document.documentElement.scrollWidth > window.innerWidth"))


def whole_picture(driver: Any, path: Path) -> None:
    """Writes a picture of the whole page, what lies below its view included, as PNG."""
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
    path.write_bytes(base64.b64decode(taken["data"]))


def drawn(driver: Any, number: int) -> None:
    """Waits until so many charts of a report are drawn."""
    WebDriverWait(driver, 60).until(
        lambda d: d.execute_script("return document.querySelectorAll('svg.marks').length") == number
    )


def texts(driver: Any, selector: str) -> list[str]:
    """The text of every element that a selector finds, as it is seen."""
    found: list[str] = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector
    )
    return found


def press(driver: Any, selector: str, *keys: str) -> None:
    """Keys for what has the focus, after that was put on an element."""
    driver.execute_script("document.querySelector(arguments[0]).focus()", selector)
    ActionChains(driver).send_keys(*keys).perform()


def opens(page: Any, wanted: list[str]) -> None:
    """Waits until just these parts of the page are open: browsers tell of a new address a moment after the key."""
    opened = "return [...document.querySelectorAll('details[open]')].map(e => e.id)"
    WebDriverWait(page, 10).until(lambda d: d.execute_script(opened) == wanted)
