"""The page: the verdict first, every number of the report, whole in one file, and nothing that was given to it runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages import NASTIER, NASTY, spread, trained_page, trained_report, two_layers

from neurodeploy.hardware.loading import load_profile
from neurodeploy.mapping.place import lay_out, place
from neurodeploy.report.html import MOST_CORES, RunArtifacts, chip_map, fingerprint, page_of, shadow_prices, write_page
from neurodeploy.report.summary import summarize, versions

TINY = load_profile("tiny")


class Reader(HTMLParser):
    """What a browser would see: the text outside scripts and styles, the tags, what they would load, their ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.loads, self.ids, self._hidden = "", [], [], [], ""
        self.feed(html)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("script", "style"):
            self._hidden = tag
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += f" {data}"


@pytest.fixture(scope="module")
def page() -> str:
    return trained_page()


def test_the_verdict_comes_first(page: str) -> None:
    seen = Reader(page).text
    assert seen.index("✓ Fits") < seen.index("Layers: use and budget")
    assert "Before: it did not fit. network: 2 cores > 1" in seen
    assert "75.00% [70.5%, 79.0%]" in seen
    assert 'id="network-figure' in page  # the network's graph


def test_a_network_that_does_not_fit_says_what_binds() -> None:
    tiny = load_profile("tiny")
    placement = lay_out(two_layers(n=400), tiny, cores=1)
    seen = Reader(page_of(summarize(tiny, None, placement))).text
    assert "✕ Does not fit" in seen
    assert f"{placement.cores_used} cores > 1 (cores allowed)" in seen
    assert "Compress it to 1 core" in seen


def test_every_number_of_a_layer_is_there(page: str) -> None:
    report, _ = trained_report(load_profile("tiny"))
    seen = Reader(page).text
    for layer in report.layers:
        budget = layer.budget
        assert budget is not None
        row = seen[seen.index(f" {layer.now.layer} ") :]
        for number in (layer.now.neurons, layer.now.synapses):
            assert f" {number:,} " in row
        assert f"{layer.now.synapse_memory_bits:,} / {budget.synapse_memory_bits:,}" in row
        assert f"{layer.now.input_axons:,} / {budget.input_axons:,}" in row
        assert f"{layer.connectivity:.1%}" in row


def test_prices_are_the_highest_of_a_unit_and_of_this_layer_alone() -> None:
    report, _ = trained_report(load_profile("tiny"))
    assert shadow_prices(report.history, "hidden") == [("synapse_memory_bits", 0.00321)]
    assert shadow_prices(report.history, "hid") == []


def test_where_it_comes_from_is_told(page: str) -> None:
    seen = Reader(page).text
    assert f"command neurodeploy compress {NASTIER} seed 7 versions neurodeploy" in seen
    assert f"tiny, SHA-256 {fingerprint(load_profile('tiny'))}" in seen


def test_command_network_data_date_and_version_stand_above_the_tabs(page: str) -> None:
    head = Reader(page.partition("<nav")[0]).text
    assert f"command neurodeploy compress {NASTIER} network 40 inputs, 2 layers, 55 neurons, " in head
    assert "test data 400 samples" in head
    assert re.search(rf"written \d{{4}}-\d\d-\d\d \d\d:\d\d UTC by neurodeploy {versions()['neurodeploy']}", head)


def test_an_undertrained_network_is_told_of_beside_the_verdict() -> None:
    report, evidence = trained_report(TINY)
    poor = replace(report, accuracy=replace(report.accuracy, dense=0.14, compressed=0.6))
    told = "Warning: The dense network is undertrained: its accuracy is 14.0%"
    assert told in Reader(page_of(poor, evidence).partition("<nav")[0]).text
    assert told not in Reader(page_of(report, evidence)).text


def test_the_fingerprint_changes_with_any_number() -> None:
    loihi2, board = load_profile("loihi2"), load_profile("kapoho_point")
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(loihi2))
    assert fingerprint(loihi2) == fingerprint(load_profile("loihi2")) != fingerprint(replace(board, name="loihi2"))


def test_costs_come_with_the_source_of_each_figure() -> None:
    loihi1 = load_profile("loihi1")
    placement = place(two_layers(), loihi1)
    seen = Reader(page_of(summarize(loihi1, None, placement))).text
    assert loihi1["synop_dense_energy"].source in seen
    assert "spike rates are assumed" in seen
    assert "tiny has no published figures" in Reader(page_of(summarize(TINY, None, place(two_layers(), TINY)))).text


def test_it_is_whole_in_one_file(page: str, tmp_path: Path) -> None:
    seen = Reader(page)
    assert [link for link in seen.loads if not link.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in page
    assert {"link", "img", "iframe"} & set(seen.tags) <= {"link"}  # the icon, which is empty
    assert len(seen.ids) == len(set(seen.ids))
    write_page(*_arguments(tmp_path / "report.html"))
    assert 50_000 < (tmp_path / "report.html").stat().st_size < 1_000_000


def _arguments(path: Path) -> tuple[object, Path, RunArtifacts]:
    report, evidence = trained_report(load_profile("tiny"))
    return report, path, evidence


def test_what_was_given_is_shown_and_not_run() -> None:
    page = trained_page(NASTY)
    seen = Reader(page)
    assert seen.text.count(NASTY) >= 4  # tables, legend, figures
    assert seen.text.count(NASTIER) == 3  # the warning; the command, in the head and under provenance
    assert "img" not in seen.tags
    assert seen.tags.count("script") == 2
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, flags=re.DOTALL)
    assert facts is not None
    assert NASTY in json.dumps(json.loads(facts[1]))


# ---------------------------------------------------------------------------------------------- the map


def test_each_core_of_a_used_chip_is_a_cell_and_tells_what_it_holds() -> None:
    placement = place(two_layers(), load_profile("tiny"))
    drawn = chip_map(placement)
    assert len(drawn.cells) + drawn.folded == placement.profile.cores
    assert {f"core {core}" for core in placement.cores} <= {cell.name for cell in drawn.cells}
    for cell, facts in zip(drawn.cells, drawn.facts["cells"], strict=True):
        core = int(re.findall(r"core (\d+)", cell.name)[0])
        lines = " ".join(facts["lines"])
        if core not in placement.cores:
            assert lines == "not used"
            continue
        assert facts["share"] == [round(share, 4) for share in placement.utilization(core).values()]
        for part in placement.slices:
            assert (f"{part.name}, " in lines) == (part.core == core)
        assert f"neurons: {placement.utilization(core)['neurons']:.1%} ({placement.on_core(core)['neurons']:,} of " in lines


def test_few_cores_of_a_large_chip_are_drawn_large_with_their_numbers_and_without_the_unused() -> None:
    """Of 128 cores two are used, in different rows and columns: both are there, the two that complete the square, no others."""
    loihi2 = load_profile("loihi2")
    drawn = chip_map(spread(loihi2, [5, 86]))
    assert len(drawn.cells) + drawn.folded == 128
    assert len(drawn.cells) == 4
    assert {"5", "86"} <= {cell.number for cell in drawn.cells}
    assert len({(cell.x, cell.y) for cell in drawn.cells}) == 4
    assert drawn.shown_width == 5 * drawn.width
    page = page_of(summarize(loihi2, None, spread(loihi2, [5, 86])))
    seen = Reader(page).text
    assert "124 unused cores are left out" in seen
    assert "Cores are numbered as on the board, 0 to 127." in seen
    whole = chip_map(spread(loihi2, list(range(128))))
    assert (len(whole.cells), whole.folded) == (128, 0)


def test_chips_stay_apart_on_a_folded_map() -> None:
    board = load_profile("kapoho_bay")
    per_chip = board["cores_per_chip"].number
    drawn = chip_map(spread(board, [3, 7, per_chip + 3]))
    assert [name for *_, name in drawn.frames] == ["chip 0", "chip 1"]
    (x, y, wide, high, _), (u, v, *_) = drawn.frames
    assert x + wide < u or y + high < v
    for cell in drawn.cells:
        assert any(left <= cell.x < left + w and top <= cell.y < top + h for left, top, w, h, _ in drawn.frames)


def test_stripes_share_a_cell_as_layers_share_its_neurons() -> None:
    placement = place(two_layers(n=20), load_profile("tiny"))
    cells = {cell.name: cell for cell in chip_map(placement).cells}
    shared = next(core for core in placement.cores if len({part.layer for part in placement.slices if part.core == core}) > 1)
    neurons = {part.layer: part.usage.neurons for part in placement.slices if part.core == shared}
    widths = [width for _, _, width in cells[f"core {shared}"].stripes]
    assert sum(widths) == pytest.approx(18, abs=0.05)
    assert widths == sorted(widths, reverse=True)
    assert len(widths) == len(neurons)


def test_boards_of_more_cores_than_can_be_told_apart_are_drawn_chip_by_chip() -> None:
    hala = load_profile("hala_point")
    per_chip = hala["cores_per_chip"].number
    few, many = (spread(hala, list(range(0, n * per_chip, per_chip // 2))) for n in (2, 200))
    assert not chip_map(few).of_chips
    drawn = chip_map(many)
    assert drawn.of_chips
    assert len(drawn.cells) * per_chip > MOST_CORES
    assert sum(facts["share"] is not None for facts in drawn.facts["cells"]) == 200
    assert any("2 cores used; on average" in facts["lines"] for facts in drawn.facts["cells"])


def test_the_largest_board_makes_a_page_that_can_be_sent() -> None:
    hala = load_profile("hala_point")
    full = spread(hala, list(range(0, hala.cores, 61)))
    page = page_of(summarize(hala, None, full))
    assert page.count('class="cell"') == 1152
    assert len(page) < 5_000_000


def test_as_many_cores_as_are_drawn_one_by_one_make_a_page_that_can_be_sent() -> None:
    board = load_profile("nahuku32")
    full = spread(board, list(range(board.cores)))
    page = page_of(summarize(board, None, full))
    assert page.count('class="cell"') == board.cores == MOST_CORES
    assert len(page) < 5_000_000
