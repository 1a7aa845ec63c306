"""Nouns show themselves in a notebook: tables with the numbers that they hold, whatever the names in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from pages import NASTIER, NASTY, trained_report, two_layers

import neurodeploy as nd
from neurodeploy.errors import RequestError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import MAX_TABLE_ROWS, html_table
from neurodeploy.ir.network import Network
from neurodeploy.mapping.place import lay_out


class Cells(HTMLParser):
    """The cells of all tables, row by row; and the text in all."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.text, self._inside = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002  # its signature is given
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")


def shown(noun: object) -> Cells:
    return Cells(noun._repr_html_())


def test_a_chip_shows_each_number_with_its_source(loihi1: HardwareProfile) -> None:
    rows = {row[0]: row[1:] for row in shown(loihi1).rows}
    neurons = loihi1["neurons_per_core"]
    assert rows["neurons_per_core"] == ["1,024", "neurons", "assumed" if neurons.assumed else "", neurons.source]
    assert rows["weight_bits"][0] == ", ".join(map(str, loihi1["weight_bits"].choices))
    assert len(rows) == len(loihi1.limits) + 1


def test_a_chip_whose_cores_differ_shows_the_range() -> None:
    chip = nd.load_profile("dynapcnn")
    key, limit = next((limit.key, limit) for limit in chip if len(set(limit.choices)) > 1 and limit.key.endswith("_per_core"))
    rows = {row[0]: row[1:] for row in shown(chip).rows}
    assert rows[key][0] == f"{min(limit.choices):,} to {max(limit.choices):,}"


def test_a_network_shows_who_hears_whom(make_network: Callable[..., Network]) -> None:
    network = make_network([40, 50, 5], connectivity=0.5)
    _, first, last = shown(network).rows
    assert first[:5] == ["layer1", "50", "50", "LIF", "input (Dense)"]
    assert last[:5] == ["layer2", "5", "5", "LI", "layer1 (Dense)"]
    assert first[5] == f"{network['layer1'].n_synapses:,}"
    assert first[6] == f"{network['layer1'].connectivity:.1%}"


def test_a_budget_shows_what_each_layer_may_use(make_network: Callable[..., Network], tiny: HardwareProfile) -> None:
    budget = nd.share_budget(make_network([40, 50, 5]), tiny, cores=2)
    _, *rows = shown(budget).rows
    assert [row[3] for row in rows] == [f"{layer.synapse_memory_bits:,}" for layer in budget.layers]
    assert [row[-1] for row in rows] == [layer.binds.replace("_", " ") for layer in budget.layers]
    assert [row[-2] for row in rows] == [f"{layer.kept:.1%}" for layer in budget.layers]


def test_a_placement_shows_its_verdict(tiny: HardwareProfile) -> None:
    fits, not_so = lay_out(two_layers(), tiny), lay_out(two_layers(n=400), tiny, cores=1)
    assert f"fits: {fits.cores_used} of {tiny.cores} cores" in shown(fits).text
    assert f"does not fit: network: {not_so.cores_used} cores > 1 " in shown(not_so).text
    assert [row[0] for row in shown(fits).rows] == ["layer", "hidden", "out $x"]


def test_a_report_shows_verdict_accuracy_and_where_its_page_is(tiny: HardwareProfile) -> None:
    report, _ = trained_report(tiny)
    seen = shown(replace(report, files={"page": "here/report.html"}))
    assert "Now: fits." in seen.text
    assert ["emulated", "75.0%", "[70.5%, 79.0%]", "400"] in seen.rows
    assert ["Lava", "50.0%", "[9.5%, 90.5%]", "2"] in seen.rows
    assert "Report page: here/report.html" in seen.text


def test_a_report_stays_text_in_a_notebook(tiny: HardwareProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """There rich shows what it writes, and leaves nothing for the file report.txt."""
    report, _ = trained_report(tiny)
    expected, shown_there = str(report), list[object]()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *given: shown_there.append(given))
    assert str(report) == expected
    assert not shown_there


def test_names_stay_names(tiny: HardwareProfile) -> None:
    report, _ = trained_report(replace(tiny, description=NASTIER), NASTY)
    for noun in (report.profile, two_layers(NASTY), report.placement, report, nd.share_budget(two_layers(NASTY), tiny)):
        assert {"img", "script"} & set(shown(noun).tags) == set()
        assert NASTY in shown(noun).text or NASTIER in shown(noun).text


def test_of_many_rows_the_first_are_shown() -> None:
    rows = Cells(html_table("many", ["n"], ([i] for i in range(MAX_TABLE_ROWS + 7)))).rows
    assert len(rows) == 1 + MAX_TABLE_ROWS + 1
    assert rows[-1] == ["and 7 more"]


# ---------------------------------------------------------------------------------------------- the explorer


def test_the_explorer_answers_what_was_chosen(make_network: Callable[..., Network], tiny: HardwareProfile) -> None:
    network = make_network([40, 50, 5])
    box = nd.explore(network, ["tiny", "loihi1"])
    choice, answer = box.children
    chip, cores, bits = choice.children
    assert "does not fit" in answer.value
    assert "Budget: 1 core of tiny, 8-bit weights" in answer.value
    cores.value = 3
    assert "Budget: 3 cores of tiny" in answer.value
    bits.value = 4
    assert "4-bit weights" in answer.value
    chip.value = nd.load_profile("loihi1")
    assert "Placement on loihi1: fits" in answer.value
    assert list(bits.options) == [8, 6, 5, 4, 3, 2]  # the chip's and its target's


def test_the_explorer_says_what_no_compression_helps(make_network: Callable[..., Network]) -> None:
    box = nd.explore(make_network([40, 5, 5_000]), ["tiny"])
    assert "Compressible: no. layer" in box.children[1].value


def test_the_explorer_wants_a_chip(make_network: Callable[..., Network]) -> None:
    with pytest.raises(RequestError, match="chips: are none"):
        nd.explore(make_network([4, 3]), [])


def test_the_explorer_says_what_it_lacks(make_network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(RequestError, match=r"explore: needs ipywidgets\. Install neurodeploy-snn\[notebook\]\."):
        nd.explore(make_network([4, 3]))
