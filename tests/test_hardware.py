"""What a chip offers: numbers that know their source, capacities, and counts that go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
from conftest import with_values

from neurodeploy.errors import ProfileError, RequestError
from neurodeploy.hardware.profile import KEYS, UNLIMITED, HardwareProfile, Limit

Chip = Callable[..., HardwareProfile]


def test_a_limit_knows_its_place_and_what_it_is(tiny: HardwareProfile) -> None:
    limit = tiny["neurons_per_core"]
    assert (limit.where, limit.number, limit.choices, limit.figure) == ("tiny.yaml: neurons_per_core", 64, (64,), 64.0)
    assert tiny["index_bits"].choices == (6, 7, 8)
    assert tiny["encodings"].names == ("dense", "sparse", "convolution")
    assert (tiny["encodings"].choices, limit.names) == ((), ())


@pytest.mark.parametrize("key", ["index_bits", "encodings"])
def test_a_list_of_choices_is_not_one_number(tiny: HardwareProfile, key: str) -> None:
    with pytest.raises(ProfileError, match=rf"^tiny\.yaml: {key}: is not one whole number\.$"):
        _ = tiny[key].number


def test_a_list_is_not_one_figure(tiny: HardwareProfile) -> None:
    with pytest.raises(ProfileError, match=r"^tiny\.yaml: weight_bits: is a list, not one figure\.$"):
        _ = tiny["weight_bits"].figure


def test_a_profile_cannot_be_changed(tiny: HardwareProfile) -> None:
    with pytest.raises(FrozenInstanceError):
        tiny.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        tiny.limits["chips"] = tiny["chips"]  # type: ignore[index]


def test_numbers_stand_in_the_order_of_the_table_of_keys(tiny: HardwareProfile) -> None:
    turned = replace(tiny, limits=dict(reversed(list(tiny.limits.items()))))
    assert [limit.key for limit in turned] == [limit.key for limit in tiny] == [key for key in KEYS if key in tiny]


def test_some_numbers_every_chip_has(tiny: HardwareProfile) -> None:
    with pytest.raises(ProfileError, match=r"^tiny\.yaml: neurons_per_core: missing\. It is neurons of a core, in neurons\.$"):
        with_values(tiny, neurons_per_core=None)


def test_a_number_that_is_asked_for_is_there_or_missed(make_chip: Chip) -> None:
    chip = make_chip(block_header_bits=None)
    assert "block_header_bits" not in chip
    assert (chip.number("block_header_bits", 0), chip.number("memory_unit_bits", 1)) == (0, 64)
    with pytest.raises(ProfileError, match=r"^tiny\.yaml: block_header_bits: is missing\. Add overhead of a block; default 0"):
        _ = chip["block_header_bits"]


def test_a_core_has_what_the_chip_says_or_no_limit(make_chip: Chip) -> None:
    chip = make_chip(input_axons_per_core=None, neurons_per_core=(8, 16, 16, 2))
    assert (chip.capacity("input_axons"), chip.capacity("input_axons", 3)) == (UNLIMITED, UNLIMITED)
    assert chip.capacity("neurons") == chip["neurons_per_core"].number == 16
    assert [chip.capacity("neurons", core) for core in (0, 3, 4, 7)] == [8, 2, 8, 2]
    assert chip.capacity("synapse_memory_bits", 3) == 16_384


def test_cores_differ_where_a_list_says_so(tiny: HardwareProfile, make_chip: Chip) -> None:
    assert not tiny.cores_differ
    assert make_chip(neurons_per_core=(8, 16, 16, 2)).cores_differ


def test_a_list_has_a_number_for_each_core(make_chip: Chip) -> None:
    says = r"^tiny\.yaml: neurons_per_core: has 3 numbers for 4 cores of a chip \(tiny\.yaml: cores_per_chip\)\.$"
    with pytest.raises(ProfileError, match=says):
        make_chip(neurons_per_core=(1, 2, 3))


def test_a_mesh_has_room_for_what_stands_on_it(make_chip: Chip) -> None:
    assert make_chip(cores_per_tile=2, tile_mesh=(2, 1)).cores == 4
    with pytest.raises(ProfileError, match=r"^tiny\.yaml: tile_mesh: has places for 2 of 4 cores \(tiny\.yaml: cores_per_chip\)"):
        make_chip(tile_mesh=(2, 1))
    with pytest.raises(ProfileError, match=r"^tiny\.yaml: chip_mesh: has places for 6 of 8 chips \(tiny\.yaml: chips\)\.$"):
        make_chip(chips=8, chip_mesh=(3, 2))


def test_a_board_has_the_cores_of_all_its_chips(make_chip: Chip) -> None:
    board = make_chip(chips=8, cores_per_chip=120)
    assert board.cores == board.core_count() == 960
    assert (board.core_count(cores=7), board.core_count(chips=2), board.core_count(cores=300, chips=2)) == (7, 240, 240)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"cores": 0},
            r"^cores: 0 is outside 1\.\.8 \(tiny\.yaml: cores_per_chip\)\. Give 1 to 8 cores, or a profile with",
        ),
        ({"cores": 9}, r"^cores: 9 is outside 1\.\.8 "),
        ({"chips": 0}, r"^chips: 0 is outside 1\.\.2 \(tiny\.yaml: chips\)\. Give 1 to 2 chips"),
        ({"chips": 3, "cores": 1}, r"^chips: 3 is outside 1\.\.2 "),
    ],
)
def test_no_network_gets_more_than_there_is(make_chip: Chip, asked: dict[str, int], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        make_chip(chips=2).core_count(**asked)


def test_a_limit_on_a_core_goes_round_the_chips() -> None:
    limit = Limit(key="biases_per_core", value=(1, 2, 3), unit="neurons", source="x", assumed=False, profile="drawn")
    assert [limit.on(core) for core in range(7)] == [1, 2, 3, 1, 2, 3, 1]
