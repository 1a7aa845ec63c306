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


CONTRASTS = """
const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
  return .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
};
const behind = e => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
};
document.querySelectorAll('main > section').forEach(part => part.hidden = false);
const found = [];
for (const e of document.querySelectorAll('h1,h2,h3,p,a,dt,dd,th,td,small,li,figcaption,button,label,figure text')) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  const ink = light(getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color']), paper = light(behind(e));
  const ratio = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  found.push([ratio, e.tagName, e.textContent.trim().slice(0, 40)]);
}
return found;
"""
"""Contrast (WCAG), tag and first words of everything that is read on a page."""
