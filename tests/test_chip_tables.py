"""How chips are shown: grouped, in full, with assumptions and inherited numbers marked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from neurodeploy.hardware.loading import load_profile, profile_paths
from neurodeploy.hardware.profile import KEYS, HardwareProfile
from neurodeploy.report.text import as_text, chip_json, chip_list, chip_table


def lines(profile: HardwareProfile) -> dict[str, str]:
    """The rows of a chip's table by what they begin with."""
    return {line.split()[0]: " ".join(line.split()) for line in as_text(chip_table(profile)).splitlines() if line.strip()}


def test_a_chip_is_shown_in_groups() -> None:
    text = as_text(chip_table(load_profile("loihi1")))
    groups = ["\n board\n", "\n core\n", "\n memory\n", "\n synapses\n", "\n dynamics\n", "\n energy and time\n"]
    places = [text.index(group) for group in groups]
    assert places == sorted(places)
    assert text.index("\n board\n") < text.index("tile_mesh") < text.index("\n core\n") < text.index("neurons_per_core")


@pytest.mark.parametrize("name", profile_paths())
def test_every_number_of_a_chip_is_shown(name: str) -> None:
    profile = load_profile(name)
    shown = lines(profile)
    for limit in profile:
        event = limit.key.rpartition("_")[0] if KEYS[limit.key].kind == "figure" else limit.key
        assert limit.key in shown or event in shown


def test_values_are_easy_to_read() -> None:
    shown, others = lines(load_profile("loihi2")), lines(load_profile("dynapcnn"))
    assert shown["memory_bits_per_core"].startswith("memory_bits_per_core 1,572,864 bits = 192 KiB Intel")
    assert shown["tile_mesh"].startswith("tile_mesh 8 x 16 tiles ~")
    assert shown["chips"].startswith("chips 1 chip this")
    assert shown["encodings"].startswith("encodings dense, sparse, convolution ~")
    assert others["neurons_per_core"].startswith("neurons_per_core 3 x 65,536, 2 x 32,768, 4 x 16,384 neurons")
    assert lines(load_profile("loihi1"))["weight_bits"].startswith("weight_bits 1-6, 8 bits nengo-loihi")
    assert lines(load_profile("xylo"))["neurons_per_core"].startswith("neurons_per_core 1,000, 8 neurons rockpool")


def test_an_energy_and_a_time_from_one_source_share_a_row() -> None:
    shown = lines(load_profile("loihi1"))
    assert shown["synop_dense"].startswith("synop_dense 35.5 pJ, 3.8 ns SANA-FE")
    assert shown["hop_north_south_energy"].startswith("hop_north_south_energy 4.2 pJ SANA-FE")
    assert shown["sync_time"].startswith("sync_time 600, 1,000, 1,400, 1,800 ns")


def test_assumptions_and_what_another_file_states_are_marked() -> None:
    shown = lines(load_profile("kapoho_point"))
    assert shown["chip_mesh"].startswith("chip_mesh 2 x 2 x 2 chips ~ four chips")
    assert shown["neurons_per_core"].startswith("neurons_per_core 8,192 neurons loihi2 Intel")
    assert shown["input_axon_bits"].startswith("input_axon_bits 32 bits ~ loihi2 no public")
    assert shown["energy_range"].startswith("energy_range 0.48 to 1.6 times ~ loihi2 as far as one network is measured")
    assert "37 of 46 numbers are assumptions, marked ~" in as_text(chip_table(load_profile("kapoho_point")))


def test_a_source_that_is_said_already_is_not_said_again() -> None:
    assert lines(load_profile("kapoho_point"))["block_header_bits"] == 'block_header_bits 10 bits ~ loihi2 "'


def test_chips_are_listed_with_what_they_have() -> None:
    rows = {line.split()[0]: line for line in as_text(chip_list(map(load_profile, profile_paths()))).splitlines() if line.strip()}
    assert set(profile_paths()) <= set(rows)
    assert rows["hala_point"].split()[1:7] == ["1,152", "140,544", "1,151,336,448", "192", "KiB", "36"]
    assert rows["xylo"].split()[1:6] == ["1", "2", "1,008", "101.6", "KiB"]


def test_a_chip_without_memory_is_listed_without(make_chip: Callable[..., HardwareProfile]) -> None:
    assert "KiB" not in as_text(chip_list([make_chip(synapse_memory_bits_per_core=None)]))


def test_a_chip_in_json_is_all_that_is_known_of_it() -> None:
    profile = load_profile("nahuku32")
    data = chip_json(profile)
    assert (data["name"], data["description"], list(data["limits"])) == ("nahuku32", profile.description, list(profile.limits))
    assert data["limits"]["chips"]["profile"] == "nahuku32"
    assert data["limits"]["weight_bits"]["profile"] == "loihi1"
