"""Sizes at which an answer must still come within seconds: boards, chips and networks far larger than those of other tests."""

import time
from pathlib import Path

import numpy as np
import pytest

import neurodeploy as nd
from neurodeploy.errors import ProfileError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.mapping.mesh_arrangement import arrange
from neurodeploy.mapping.traffic import Flow, Mesh


def chip(folder: Path, **entries: str) -> Path:
    """A profile that extends loihi2 with other values."""
    units = {"chips": "chips", "chip_mesh": "chips", "cores_per_chip": "cores", "tile_mesh": "tiles"}
    lines = [f"{key}: {{value: {value}, unit: {units[key]}, assumption: test}}" for key, value in entries.items()]
    path = folder / "huge.yaml"
    path.write_text("\n".join(["name: huge", "description: huge", "extends: loihi2", *lines]), "utf-8")
    return path


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"tile_mesh": "[30000, 30000]"}, r"tile_mesh: 900,000,000 tiles of a chip > 65,536 .*fewer cores and tiles"),
        ({"tile_mesh": "[1000000, 1]"}, r"tile_mesh: is above 65,536, more than any chip has"),
        ({"cores_per_chip": "100000"}, r"cores_per_chip: is above 65,536, more than any chip has"),
        ({"chip_mesh": "[10000, 10000, 100]"}, r"chip_mesh: 10,000,000,000 places for chips > 16,384 .*fewer chips"),
        ({"chip_mesh": "[20000, 1]"}, r"chip_mesh: is above 16,384, more than any board has"),
        (
            {"chips": "16384", "chip_mesh": "[16384, 1]"},
            r"cores_per_chip: 2,097,152 cores of all chips > 1,048,576 .*fewer chips",
        ),
        (
            {"chips": "8192", "chip_mesh": "[8192, 1]", "tile_mesh": "[64, 8]"},
            r"tile_mesh: 4,194,304 tiles of all chips > 1,048,576",
        ),
    ],
)
def test_a_board_of_too_many_parts_is_refused(tmp_path: Path, entries: dict[str, str], match: str) -> None:
    with pytest.raises(ProfileError, match=match):
        load_profile(chip(tmp_path, **entries))


def test_the_largest_machines_are_within_the_bounds_with_a_margin(tmp_path: Path) -> None:
    hala = load_profile("hala_point")
    assert hala.cores == 140_544
    board = load_profile(chip(tmp_path, chips="8000", chip_mesh="[20, 20, 20]"))
    assert board.cores == 8000 * 128 > 7 * hala.cores


def test_few_cores_on_a_board_of_thousands_of_chips_are_arranged_at_once() -> None:
    mesh = Mesh(chips=8000, chip_mesh=(20, 20, 20), cores_per_chip=128, cores_per_tile=4, tile_mesh=(8, 4))
    chain = np.arange(9)
    began = time.process_time()
    found = arrange(Flow(source=chain, target=chain + 1, spikes=np.ones(9)), 10, mesh)
    assert time.process_time() - began < 5  # it took 10 seconds when every core of the board was looked at
    assert sorted(set(found.tolist())) == sorted(found.tolist())
    assert (found < 128).all()


def test_a_corner_of_a_board_has_its_chips_at_their_places() -> None:
    mesh = Mesh(
        chips=43, chip_mesh=(5, 3, 3), cores_per_chip=6, cores_per_tile=2, tile_mesh=(2, 2)
    )  # the last 2 places are empty
    for needed in range(1, 44):
        small, chips = mesh.corner(needed)
        assert small.chips == chips.size >= needed
        cores = np.arange(small.n_cores)
        on_board = chips[cores // 6] * 6 + cores % 6
        np.testing.assert_array_equal(small.points(cores), mesh.points(on_board))


def wide(side: int) -> nd.Network:
    """A convolution of 16 channels on a square image."""
    synapse = nd.Conv(weight=np.random.default_rng(0).normal(size=(16, 1, 3, 3)), input_shape=(1, side, side), padding=(1, 1))
    neuron = nd.LIF(threshold=np.array(1.0), current_decay=np.array(0.5), voltage_decay=np.array(0.5), rest=np.array(0.0))
    layer = nd.Layer(
        name="wide", shape=synapse.output_shape, neuron=neuron, bias=np.array(0.0),
        connections=(Connection(source=INPUT, synapse=synapse),),
    )  # fmt: skip
    return nd.Network(input_shape=(1, side, side), layers=(layer,), timestep_s=0.001)


@pytest.mark.slow
def test_a_hundred_million_neurons_are_inspected_in_a_minute() -> None:
    began = time.process_time()
    seen = nd.inspect(wide(2500), "hala_point")
    assert seen.fits
    assert sum(part.usage.neurons for part in seen.placement.slices) == 100_000_000
    assert time.process_time() - began < 90  # 30 on an idle machine; more than 160 before
