"""The chips that come with neurodeploy: their numbers against what their sources publish elsewhere, and against the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from chipfiles import TINY, board
from hypothesis import given
from hypothesis import strategies as st

from neurodeploy.errors import ProfileError
from neurodeploy.hardware.loading import load_profile, profile_paths, profile_schema
from neurodeploy.hardware.profile import KEYS, HardwareProfile

ROOT = Path(__file__).parent.parent
NAMES = sorted(profile_paths())
BOARDS = {"kapoho_bay": 2, "nahuku32": 32, "pohoiki_springs": 768, "kapoho_point": 8, "hala_point": 1152}
ENCODINGS = {"dense", "sparse", "convolution", "dynapcnn", "crossbar"}
SCHEMA = jsonschema.Draft202012Validator(profile_schema())


def neurons(profile: HardwareProfile) -> int:
    """All of them, counted core by core."""
    return sum(profile.capacity("neurons", core) for core in range(profile.cores))


# ---------------------------------------------------------------------------------------------- all of them


def test_the_chips_are_all_here() -> None:
    assert {"loihi1", "loihi2", "dynapcnn", "xylo", "truenorth", "odin", "tiny", *BOARDS} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_says_where_it_is_from(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert all(len(limit.source) > 4 and limit.unit == KEYS[limit.key].unit for limit in profile)
    assert all(limit.profile in NAMES for limit in profile)
    assert set(profile["encodings"].names) <= ENCODINGS


@pytest.mark.parametrize("name", NAMES)
def test_a_core_has_memory_and_neurons_have_a_state(name: str) -> None:
    profile = load_profile(name)
    assert ("memory_bits_per_core" in profile) != ("synapse_memory_bits_per_core" in profile)
    assert ("input_axon_bits" in profile) == ("output_axon_bits" in profile) == ("memory_bits_per_core" in profile)
    if "memory_bits_per_core" in profile or "neuron_memory_bits_per_core" in profile:
        assert "neuron_state_bits" in profile
    if "sparse" in profile["encodings"].names:
        assert "index_bits" in profile


@pytest.mark.parametrize("name", NAMES)
def test_every_energy_of_a_list_belongs_to_an_encoding_that_the_chip_has(name: str) -> None:
    profile = load_profile(name)
    priced = {limit.key.split("_")[1] for limit in profile if limit.key.startswith("synop_")}
    assert priced <= set(profile["encodings"].names)


@pytest.mark.parametrize(("name", "chips"), BOARDS.items())
def test_a_board_is_a_chip_and_a_difference(name: str, chips: int) -> None:
    profile, written = load_profile(name), yaml.safe_load(profile_paths()[name].read_text(encoding="utf-8"))
    assert profile["chips"].number == chips
    assert len(written) <= 6
    chip = load_profile("loihi1" if "loihi1" in {limit.profile for limit in profile} else "loihi2")
    assert {limit.key for limit in profile if limit != chip.limits.get(limit.key)} <= {"chips", "chip_mesh", "cores_per_chip"}


# ---------------------------------------------------------------------------------------------- Loihi


def test_no_number_of_loihi1_is_assumed_but_some_of_loihi2_are(loihi1: HardwareProfile) -> None:
    assert not any(limit.assumed for limit in loihi1)
    assert {"input_axon_bits", "output_axon_bits", "neuron_state_bits"} <= {
        limit.key for limit in load_profile("loihi2") if limit.assumed
    }


def test_loihi1_has_the_numbers_of_its_sources(loihi1: HardwareProfile) -> None:
    assert {limit.key: limit.value for limit in loihi1 if KEYS[limit.key].kind not in ("figure", "steps")} == {
        "chips": 1, "cores_per_chip": 128, "cores_per_tile": 4, "tile_mesh": (8, 4), "neurons_per_core": 1024,
        "input_axons_per_core": 4096, "output_axons_per_core": 4096, "synapse_formats_per_core": 16,
        "neuron_profiles_per_core": 32, "threshold_profiles_per_core": 16, "synapse_memory_bits_per_core": 16384 * 64,
        "encodings": ("dense", "sparse", "convolution"), "memory_unit_bits": 64, "synapses_per_block": 64,
        "block_header_bits": 4 + 6, "axon_base_neurons": 256, "weight_bits": (1, 2, 3, 4, 5, 6, 8),
        "index_bits": (6, 7, 8, 9, 10, 11, 12), "max_delay_steps": 62, "state_bits": 24, "decay_bits": 12, "threshold_bits": 17,
    }  # fmt: skip


def test_loihi1_has_energy_and_time_for_each_event_but_those_that_are_not_published(loihi1: HardwareProfile) -> None:
    figures = {key for key, what in KEYS.items() if what.kind == "figure"}
    unpublished = {f"{event}_{quantity}" for event in ("hop_between_chips",) for quantity in ("energy", "time")}
    assert {limit.key for limit in loihi1 if KEYS[limit.key].kind == "figure"} == figures - unpublished


def test_loihi_systems_have_the_neurons_that_their_maker_counts(loihi1: HardwareProfile) -> None:
    """Davies 2018: 131,072 a chip; Intel: 262,000 in Kapoho Bay, 100 million in Pohoiki Springs, 1.15 billion in Hala Point."""
    assert neurons(loihi1) == 131_072
    assert neurons(load_profile("kapoho_bay")) == 262_144
    assert round(neurons(load_profile("pohoiki_springs")) / 1e6) == 101
    assert round(neurons(load_profile("loihi2")) / 1e6, 1) == 1.0
    hala_point = load_profile("hala_point")
    assert hala_point.cores == 140_544
    assert round(neurons(hala_point) / 1e9, 2) == 1.15


# ---------------------------------------------------------------------------------------------- of other makes


def test_dynapcnn_has_the_memories_of_sinabs_in_words() -> None:
    chip = load_profile("dynapcnn")
    kernel = [chip.capacity("synapse_memory_bits", core) / chip["weight_bits"].choices[0] for core in range(9)]
    state = [chip.capacity("neuron_memory_bits", core) / chip["neuron_state_bits"].number for core in range(9)]
    assert [words / 1024 for words in kernel] == [16, 16, 16, 32, 32, 64, 64, 16, 16]
    assert [words / 1024 for words in state] == [64, 64, 64, 32, 32, 16, 16, 16, 16]
    assert list(chip["neurons_per_core"].choices) == state
    assert round(neurons(chip) / 1e6, 2) == 0.33  # SynSense: "up to 0.32M configurable spiking neurons"


def test_xylo_has_room_for_the_weights_of_its_three_memories() -> None:
    chip = load_profile("xylo")
    (weight,), (index,) = chip["weight_bits"].choices, chip["index_bits"].choices
    hidden, readout = chip["neurons_per_core"].choices
    inputs = chip["external_inputs"].number
    assert chip["input_axons_per_core"].choices == (inputs + hidden, hidden)
    assert chip.capacity("synapse_memory_bits", 0) == 2 * inputs * hidden * weight + 32 * hidden * (weight + index)
    assert chip.capacity("synapse_memory_bits", 1) == hidden * readout * weight


@pytest.mark.parametrize("name", ["truenorth", "odin"])
def test_a_crossbar_has_a_cell_for_each_axon_and_neuron(name: str) -> None:
    chip = load_profile(name)
    cells = chip.capacity("input_axons") * chip.capacity("neurons")
    assert chip.capacity("synapse_memory_bits") == cells * chip["weight_bits"].choices[0]
    assert chip.capacity("neuron_memory_bits") == chip.capacity("neurons") * chip["neuron_state_bits"].number


# ---------------------------------------------------------------------------------------------- the schema


def test_the_schema_that_is_shipped_is_the_one_that_is_made() -> None:
    shipped = json.loads((ROOT / "hardware_profiles" / "schema.json").read_text(encoding="utf-8"))
    assert shipped == profile_schema(), "neurodeploy profiles --schema > hardware_profiles/schema.json"
    jsonschema.Draft202012Validator.check_schema(shipped)


@pytest.mark.parametrize("name", NAMES)
def test_every_chip_keeps_to_the_schema_and_names_it(name: str) -> None:
    text = profile_paths()[name].read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    SCHEMA.validate(yaml.safe_load(text))


CHIPS = TINY["chips"]
BAD = {
    "unknown key": {**TINY, "neurons": CHIPS},
    "missing key": {key: value for key, value in TINY.items() if key != "encodings"},
    "no name": {key: value for key, value in TINY.items() if key != "name"},
    "bare number": {**TINY, "chips": 1},
    "zero": {**TINY, "chips": {**CHIPS, "value": 0}},
    "fraction": {**TINY, "chips": {**CHIPS, "value": 1.5}},
    "no source": {**TINY, "chips": {"value": 1, "unit": "chips"}},
    "source and assumption": {**TINY, "chips": {**CHIPS, "source": "a paper"}},
    "blank source": {**TINY, "chips": {"value": 1, "unit": "chips", "source": " "}},
    "wrong unit": {**TINY, "chips": {**CHIPS, "unit": "cores"}},
    "wide weight": {**TINY, "weight_bits": {**TINY["weight_bits"], "value": [8, 33]}},
    "odd encoding": {**TINY, "encodings": {**TINY["encodings"], "value": ["a/b"]}},
    "path extended": yaml.safe_load(board(extends="../tiny")),
}


@pytest.mark.parametrize("written", BAD.values(), ids=BAD.keys())
def test_the_schema_refuses_what_the_reader_refuses(written: dict[str, Any]) -> None:
    assert not SCHEMA.is_valid(written)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["dense", "tiny", "bits"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    key=st.sampled_from([*KEYS, "name", "description", "extends"]),
    part=st.sampled_from(["value", "unit", "source", "assumption", None]),
    value=ANYTHING,
)
def test_the_reader_takes_nothing_that_the_schema_refuses(
    tmp_path_factory: pytest.TempPathFactory, key: str, part: str | None, value: Any
) -> None:
    entry = TINY.get(key, {"value": 1, "unit": KEYS[key].unit, "source": "a paper"} if key in KEYS else {})
    written = {**TINY, key: {**entry, part: value} if part and isinstance(entry, dict) else value}
    path = tmp_path_factory.getbasetemp() / "anything.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    try:
        load_profile(path)
        refused = ""
    except ProfileError as error:
        refused = str(error)
    assert "\n" not in refused
    assert refused or SCHEMA.is_valid(written)


def test_the_schema_lets_a_board_say_what_differs() -> None:
    SCHEMA.validate(yaml.safe_load(board()))


# ---------------------------------------------------------------------------------------------- adding a chip


def test_a_chip_is_added_by_the_file_that_contributing_shows(tmp_path: Path) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    written = guide.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "example.yaml").write_text(written, encoding="utf-8")
    SCHEMA.validate(yaml.safe_load(written))
    example = load_profile(tmp_path / "example.yaml")
    assert (example.name, example.cores, neurons(example)) == ("example", 16, 4096)
    assert example["neurons_per_core"].where == "example.yaml: neurons_per_core"
    assert {limit.assumed for limit in example} == {True, False}
