"""The page of a sweep: the answer first, a front for each target, what failed and why; in one file, also of 10,000 rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from browser import CONTRASTS, complaints, needs_browser, open_browser, show
from pages import NASTIER, NASTY
from sweep_rows import Row, drawn_row, drawn_sweep, failed_row
from test_page import Reader

from neurodeploy.report.front import answer
from neurodeploy.report.html import write_sweep_page


def page_of_rows(folder: Path, rows: list[Row], within: float = 1.0, **texts: str) -> str:
    path = folder / "sweep.html"
    write_sweep_page(rows, path, **{"title": "digits", "command": "neurodeploy sweep", **texts}, within=within)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [*drawn_sweep(), *(failed_row("odin", cores, reason="BudgetError: 9 slices > 8") for cores in (2, 1))]


@pytest.fixture(scope="module")
def page(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of_rows(tmp_path_factory.mktemp("sweep"), rows)


def test_the_answer_comes_first_then_a_section_for_each_target_then_what_failed(rows: list[Row], page: str) -> None:
    seen = Reader(page).text
    places = [
        seen.index(text)
        for text in ("✓ loihi2, 8 cores", answer(rows), " Targets ", " loihi1 The smallest size", " xylo No size")
    ]
    places += [seen.index(text) for text in (" odin No run is done.", "odin 2 BudgetError: 9 slices > 8 minimax 0.003 2, 1 0")]
    assert places == sorted(places)
    assert "33 of 35" in seen


def test_the_table_of_a_front_has_its_numbers(page: str) -> None:
    seen = Reader(page[page.index('id="target-1"') : page.index('id="target-2"')]).text
    assert "cores asked cores used on the front accuracy 95 % interval lost, points" in seen
    assert "lost, points weights kept what binds energy a sample time a sample" in seen
    assert (
        " 92.2 ± 0.2 % 91.5 to 92.9 % 4.28 40.0% synapse memory of layer0 the curve bends here 2.09 µJ 18.9 µs 0 , 1 , 2" in seen
    )
    assert "smallest within 1 point" in seen
    assert "The curve bends at 4 cores, where synapse memory of layer0 binds" in seen


def test_settings_off_the_front_are_in_the_table_too(tmp_path: Path) -> None:
    """Asked for 8 cores: as many used as of 4, and less accurate."""
    rows = [drawn_row(cores=4, accuracy=0.95), drawn_row(cores=8, cores_used=4, accuracy=0.9), drawn_row(cores=2, accuracy=0.8)]
    seen = Reader(page_of_rows(tmp_path, rows))
    assert [place for place in map(seen.text.find, (" 2 2 yes 80.0 %", " 4 4 yes 95.0 %", " 8 4 no 90.0 %")) if place < 0] == []
    assert "details" not in seen.tags


def test_many_settings_are_folded_and_none_is_missing(tmp_path: Path) -> None:
    rows = [drawn_row(cores=cores, accuracy=0.9 + (cores == 1) * 0.05) for cores in range(1, 42)]
    shown, fold, rest = page_of_rows(tmp_path, rows).partition("<details>")
    assert fold
    assert "yes 95.0 %" in Reader(shown).text
    assert Reader(rest).text.count(" no 90.0 %") == 40
    assert "40 settings that are not on the front" in Reader(rest).text
    assert " no 90.0 %" not in Reader(shown).text


def test_a_doubted_answer_is_not_green(page: str, tmp_path: Path) -> None:
    assert '<div class="verdict good">' in page
    doubted = page_of_rows(tmp_path, [drawn_row(accuracy=0.98, accuracy_dense=0.8)])
    assert '<div class="verdict doubtful">' in doubted
    assert "✓" not in doubted
    assert "Warning: The dense network is undertrained" in Reader(doubted).text


def test_each_run_is_a_dot_that_tells_of_it_and_leads_to_its_report(rows: list[Row], page: str) -> None:
    done = [row for row in rows if row["state"] == "done"]
    assert page.count("<title>") == len(done) + 1
    for row in done:
        link = f'<a tabindex="-1" href="{row["report"]}"><title>{row["target"]}, {row["cores"]} cores asked for'
        assert page.count(link) == 1


def test_one_target_with_one_seed_has_no_overview_and_no_interval(tmp_path: Path) -> None:
    seen = Reader(page_of_rows(tmp_path, drawn_sweep(["loihi1"], n_seeds=1))).text
    assert " Targets " not in seen
    assert "one seed" in seen
    assert "±" not in seen.partition("How to read this")[0]


def test_several_methods_are_named_and_the_choice_among_them_is_said_to_flatter(tmp_path: Path) -> None:
    several = [*drawn_sweep(["loihi1"]), *drawn_sweep(["loihi1"], method="gradual", learning_rate=0.01)]
    one, both = (Reader(page_of_rows(tmp_path, rows)).text for rows in (several[:15], several))
    assert "held-out" not in one
    assert "held-out" in both
    assert "loihi1, 8 cores, minimax, learning rate 0.003" in both or "loihi1, 8 cores, gradual, learning rate 0.01" in both


@pytest.mark.parametrize(
    "rows", [[], [failed_row("loihi1", 4)], [drawn_row(accuracy_dense=None, report=None, test_samples=None)]]
)
def test_a_sweep_without_an_answer_has_a_page(rows: list[Row], tmp_path: Path) -> None:
    seen = Reader(page_of_rows(tmp_path, rows)).text
    assert "✕ No answer" in seen
    assert answer(rows) in seen


def hostile_rows() -> list[Row]:
    """Names and reasons that look like markup, and reports that lead elsewhere."""
    return [
        drawn_row(NASTY, 4, method="$\\frac{", binds=NASTIER, report="javascript:alert(1)"),
        drawn_row(NASTY, 2, start=NASTIER, report="//evil.example/x y.html?<>"),
        drawn_row("<b>", 1, report='"><script>alert(2)</script>'),
        failed_row(NASTY, 1, reason=NASTIER * 50),
    ]


def test_hostile_texts_are_shown_and_neither_run_nor_lead_elsewhere(tmp_path: Path) -> None:
    page = page_of_rows(tmp_path, hostile_rows(), title=NASTY, command=NASTIER)
    seen = Reader(page)
    assert seen.tags.count("script") == 0
    assert "img" not in seen.tags
    assert "b" not in seen.tags
    assert seen.text.count(NASTY) > 5
    assert NASTIER in seen.text
    links = {link for link in seen.loads if not link.startswith(("#", "data:"))}
    assert links == {
        "javascript%3Aalert%281%29",
        "evil.example/x%20y.html%3F%3C%3E",
        "%22%3E%3Cscript%3Ealert%282%29%3C/script%3E",
    }
    assert "default-src 'none'" in page
    assert len(seen.ids) == len(set(seen.ids))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 10,000 rows, written in well under a minute of the processor's time."""
    rows = [
        drawn_row(target, cores, seed, learning_rate=0.001 * rate)
        for target in ("loihi1", "loihi2") for rate in range(1, 11) for cores in range(1, 51) for seed in range(10)
    ]  # fmt: skip
    folder, started = tmp_path_factory.mktemp("large"), time.process_time()
    page_of_rows(folder, rows)
    assert time.process_time() - started < 60
    return folder / "sweep.html"


def test_ten_thousand_rows_make_a_page_that_can_be_sent(large: Path) -> None:
    page = large.read_text(encoding="utf-8")
    assert page.count('<a tabindex="-1"') == 10_000
    assert len(page) < 5_000_000


def test_many_failures_are_listed_by_reason_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = [failed_row("loihi1", 1, seed, reason=f"reason {seed}") for seed in range(205)]
    seen = Reader(page_of_rows(tmp_path, rows)).text
    assert "reason 199" in seen
    assert "reason 200" not in seen
    assert "And 5 more reasons: all are in rows.jsonl." in seen


@pytest.fixture(scope="module")
def chromium() -> Any:
    browser = open_browser()
    yield browser
    browser.quit()


@needs_browser
def test_hostile_texts_are_shown_by_a_browser_without_a_complaint(chromium: Any, tmp_path: Path) -> None:
    page_of_rows(tmp_path, hostile_rows(), title=NASTY, command=NASTIER)
    show(chromium, tmp_path / "sweep.html")  # an alert would stop everything below
    assert NASTY in chromium.find_element("css selector", ".eyebrow").text
    assert complaints(chromium) == []


@needs_browser
def test_a_dot_is_found_under_the_pointer_and_leads_to_the_run(chromium: Any, rows: list[Row], tmp_path: Path) -> None:
    alone = drawn_row("loihi1", 3, accuracy=0.7)  # no other dot lies over it
    page_of_rows(tmp_path, [*rows, alone])
    report = tmp_path / alone["report"]
    report.parent.mkdir(parents=True)
    report.write_text("<title>the run</title>", encoding="utf-8")
    show(chromium, tmp_path / "sweep.html")
    dot = chromium.find_element("css selector", f'svg a[href="{alone["report"]}"]')
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", dot)
    dot.click()
    assert chromium.title == "the run"


@needs_browser
@pytest.mark.parametrize("width", [380, 1280])
def test_it_is_read_without_sideways_scrolling(chromium: Any, rows: list[Row], tmp_path: Path, width: int) -> None:
    page_of_rows(tmp_path, [*rows, *hostile_rows()])
    show(chromium, tmp_path / "sweep.html")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = chromium.execute_script("return document.documentElement.scrollWidth")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width


@needs_browser
def test_ten_thousand_rows_open_fast(chromium: Any, large: Path) -> None:
    started = time.monotonic()
    show(chromium, large)
    assert chromium.find_element("css selector", "h1").is_displayed()
    assert time.monotonic() - started < 20


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_by_day_and_by_night(chromium: Any, rows: list[Row], tmp_path: Path, scheme: str) -> None:
    page_of_rows(tmp_path, rows)
    show(chromium, tmp_path / "sweep.html")
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    found = chromium.execute_script(CONTRASTS)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(found) > 100
    assert [said for said in found if said[0] < 4.5] == []
