"""A real browser: Debian's Chromium, driven without a window."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium here: apt-get install chromium chromium-driver"
)


def open_browser(width: int = 1200, height: int = 900) -> Any:
    """A headless Chromium; `quit()` it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"window-size={width},{height}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(DRIVER)))


def show(browser: Any, path: Path, part: str = "") -> None:
    browser.get(path.as_uri() + (f"#{part}" if part else ""))


def complaints(browser: Any) -> list[str]:
    """What the page's console has said since it was last asked."""
    return [entry["message"] for entry in browser.get_log("browser")]
