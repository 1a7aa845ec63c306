"""The page in a real browser: no complaint, no request, tabs and hovers, by mouse and by keyboard, by day, by night, on paper."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CONTRASTS, complaints, needs_browser, open_browser, show
from pages import NASTY, trained_page

pytestmark = needs_browser
TABS = ["layers", "chip", "training", "spikes", "cost", "provenance"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    browser = open_browser(1300)
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(trained_page(), encoding="utf-8")
    return path


@pytest.fixture
def page(chromium: Any, report: Path) -> Any:
    """The page, freshly opened."""
    chromium.get("about:blank")
    show(chromium, report)
    return chromium


def visible(page: Any) -> list[str]:
    parts = "[...document.querySelectorAll('main > section')]"
    return page.execute_script(f"return {parts}.filter(part => part.offsetParent).map(part => part.id)")


def fill(page: Any, core: str) -> str:
    return page.execute_script(f"return getComputedStyle(document.querySelector('[data-name=\"{core}\"] rect')).fill")


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver.common.keys import Keys

    page.switch_to.active_element.send_keys(*(getattr(Keys, key) for key in keys))


def test_it_opens_from_disk_without_a_complaint_or_a_request(page: Any, report: Path) -> None:
    for tab in TABS:
        page.find_element("id", f"tab-{tab}").click()
    assert complaints(page) == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {e["params"]["request"]["url"].partition("#")[0] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "about:"))} == {report.as_uri()}


def test_tabs_show_one_part_at_a_time_and_the_address_remembers(page: Any, report: Path) -> None:
    assert visible(page) == ["layers"]
    page.find_element("id", "tab-spikes").click()
    assert visible(page) == ["spikes"]
    assert page.current_url.endswith("#spikes")
    page.get("about:blank")
    show(page, report, "cost")
    assert visible(page) == ["cost"]


def test_it_opens_at_the_top_where_no_tab_is_asked_for(page: Any, report: Path) -> None:
    """A hash that is set while the page loads would scroll the verdict out of sight."""
    assert (page.execute_script("return window.scrollY"), page.current_url) == (0, report.as_uri())
    page.find_element("id", "tab-spikes").click()
    assert page.execute_script("return window.scrollY") == 0


def test_tabs_go_by_arrow_keys(page: Any) -> None:
    page.find_element("id", "tab-layers").click()
    press(page, "ARROW_RIGHT")
    assert visible(page) == ["chip"]
    press(page, "ARROW_LEFT", "ARROW_LEFT")
    assert visible(page) == ["provenance"]
    press(page, "HOME")
    assert visible(page) == ["layers"]


def test_a_core_is_told_on_hover(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page.find_element("id", "tab-chip").click()
    told = page.find_element("id", "details")
    assert not told.is_displayed()
    ActionChains(page).move_to_element(page.find_element("css selector", "[data-name='core 0']")).move_by_offset(1, 1).perform()
    assert told.is_displayed()
    assert told.text.splitlines()[0] == "core 0"
    assert "hidden[0:" in told.text
    assert "neurons: " in told.text


def test_cores_are_reached_and_left_by_keyboard(page: Any) -> None:
    page.find_element("id", "tab-chip").click()
    page.execute_script("document.querySelector('.cell[tabindex=\"0\"]').focus()")
    told = page.find_element("id", "details")
    first = told.text
    press(page, "ARROW_RIGHT")
    assert told.is_displayed()
    assert told.text != first
    press(page, "ARROW_LEFT")
    assert told.text == first
    press(page, "ESCAPE")
    assert not told.is_displayed()


def test_a_core_in_focus_stays_told_when_the_page_moves_and_a_core_under_the_pointer_does_not(page: Any) -> None:
    """Focus itself scrolls a core into view, and the scroll is told only afterwards."""
    from selenium.webdriver.common.action_chains import ActionChains

    page.find_element("id", "tab-chip").click()
    told = page.find_element("id", "details")
    page.execute_script("document.querySelector('.cell[tabindex=\"0\"]').focus(); document.dispatchEvent(new Event('scroll'))")
    assert told.is_displayed()
    assert told.text.startswith("core 0\n")
    ActionChains(page).move_to_element(page.find_element("css selector", "[data-name='core 1']")).move_by_offset(1, 1).perform()
    assert told.text.startswith("core 1\n")
    page.execute_script("document.dispatchEvent(new Event('scroll'))")
    assert not told.is_displayed()


def test_cores_take_the_colour_of_what_is_asked(page: Any) -> None:
    page.find_element("id", "tab-chip").click()
    by_layer = fill(page, "core 0")
    page.find_element("css selector", "input[value='layer']").send_keys("")
    page.execute_script("document.querySelector('input[value=neurons]').click()")
    by_use = fill(page, "core 0")
    assert by_use != by_layer
    assert page.find_element("id", "scale").is_displayed()
    page.execute_script("document.querySelector('input[value=layer]').click()")
    assert fill(page, "core 0") == by_layer
    assert not page.find_element("id", "scale").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_by_day_and_by_night(page: Any, scheme: str) -> None:
    """WCAG's contrast, 4.5 or more, of everything that is read, figures' labels too."""
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    worst = page.execute_script(CONTRASTS)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(worst) > 100
    assert [said for said in worst if said[0] < 4.5] == []


def test_it_prints_all_its_parts_on_a_few_pages(page: Any) -> None:
    from selenium.webdriver.common.print_page_options import PrintOptions

    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert visible(page) == TABS
    assert not page.find_element("id", "tabs").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    paper = base64.b64decode(page.print_page(PrintOptions()))
    assert paper.startswith(b"%PDF")
    assert 2 <= paper.count(b"/Type /Page\n") <= 12


def test_one_page_is_printed_by_a_button(page: Any) -> None:
    page.execute_script("window.print = () => { window.printed = document.body.className; }")
    page.find_element("id", "print-one").click()
    assert "one-page" in page.execute_script("return window.printed")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert visible(page) == ["layers"]
    headings = "[...document.querySelectorAll('#layers h3')]"
    assert page.execute_script(f"return {headings}.filter(one => one.offsetParent).map(one => one.textContent)") == ["Notes"]
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert visible(page) == TABS
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_it_is_read_on_a_telephone_without_sideways_scrolling(page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    wide = page.execute_script(
        "document.querySelectorAll('main > section').forEach(s => s.hidden = false); return document.documentElement.scrollWidth"
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 380


def test_names_that_look_like_scripts_are_shown(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "nasty.html"
    path.write_text(trained_page(NASTY), encoding="utf-8")
    show(chromium, path)  # an alert would stop everything below
    assert NASTY in chromium.find_element("css selector", "tbody th").text
    assert complaints(chromium) == []
