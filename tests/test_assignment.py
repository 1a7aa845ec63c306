"""Which core takes a layer that cannot be cut: against trying every way to match layers to cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from paper import in_integers, layer_of

from neurodeploy.errors import PlacementError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import LIF, Conv, Layer, Network
from neurodeploy.mapping.place import assign_layers, lay_out, place
from neurodeploy.resources.usage import limited_resources

MakeChip = Callable[..., HardwareProfile]
DYNAPCNN, XYLO = load_profile("dynapcnn"), replace(load_profile("xylo"), target=None)  # counted only, whatever Xylo's neurons are


def fitting(needs: Any, chip: HardwareProfile, cores: tuple[int, ...]) -> int:
    """Layers that the cores which they were given hold, each alone."""
    return sum(
        all(need <= chip.capacity(name, core) for name, need in zip(limited_resources(chip), of_layer, strict=True))
        for of_layer, core in zip(needs, cores, strict=True)
    )


@examples(100)
@given(data=st.data())
def test_if_there_is_a_core_for_every_layer_each_gets_one(make_chip: MakeChip, data: st.DataObject) -> None:
    neurons, memory = (data.draw(st.lists(st.integers(1, 9), min_size=4, max_size=4)) for _ in range(2))
    chip = make_chip(
        cores_per_chip=4, neurons_per_core=tuple(neurons), synapse_memory_bits_per_core=tuple(memory), slices_per_core=1,
        cores_per_layer=1, input_axons_per_core=None, output_axons_per_core=None,
    )  # fmt: skip
    of_a_layer = st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(1))
    assert limited_resources(chip) == ("neurons", "synapse_memory_bits", "slices")
    needs = np.array(data.draw(st.lists(of_a_layer, min_size=1, max_size=4)))
    best = max(fitting(needs, chip, cores) for cores in permutations(range(4), len(needs)))
    found = tuple(assign_layers(needs, chip).tolist())
    assert len(set(found)) == len(needs)
    if best == len(needs):
        assert fitting(needs, chip, found) == best


def pyramid(channels: list[int], side: int) -> Network:
    """Convolutions of 3 x 3 that halve the image each time."""
    layers: list[Layer] = []
    shape = (1, side, side)
    for depth, (n_in, n_out) in enumerate(zip([1, *channels], channels, strict=False)):
        conv = Conv(weight=np.ones((n_out, n_in, 3, 3)), input_shape=shape, stride=(2, 2), padding=(1, 1))
        shape = conv.output_shape
        layers.append(Layer(
            name=f"conv{depth}", shape=shape, bias=np.array(0.0),
            neuron=LIF(threshold=np.array(1.0), current_decay=np.array(1.0), voltage_decay=np.array(0.1), rest=np.array(0.0)),
            connections=(Connection(source=layers[-1].name if layers else "input", synapse=conv),),
        ))  # fmt: skip
    return Network(input_shape=(1, side, side), layers=tuple(layers), timestep_s=0.001)


def test_dynapcnn_gives_images_its_cores_for_neurons_and_kernels_its_cores_for_weights() -> None:
    """On paper, in Ki words: 64 neurons and 16 of kernel on cores 0 to 2, 32 and 32 on 3 and 4, 16 and 64 on 5 and 6.

    conv0: 16 x 64 x 64 neurons, 64 Ki; kernel 1 * 16 * 16 words. conv1: 64 x 32 x 32, 64 Ki; 16 * 16 * 64, 16 Ki. conv2:
    64 x 16 x 16, 16 Ki; 64 * 16 * 64, 64 Ki. conv3: 128 x 8 x 8, 8 Ki; 64 * 16 * 128, 128 Ki, more than any core has.
    """
    placement = lay_out(pyramid([16, 64, 64], 128), DYNAPCNN)
    assert placement.fits
    stands = {part.layer: part.core for part in placement.slices}
    assert {stands["conv0"], stands["conv1"]} < {0, 1, 2}
    assert stands["conv2"] in (5, 6)
    needs = {part.layer: (part.usage.neuron_memory_bits, part.usage.synapse_memory_bits) for part in placement.slices}
    assert needs == {"conv0": (16 << 16, 8 << 8), "conv1": (16 << 16, 8 << 14), "conv2": (16 << 14, 8 << 16)}
    (overrun,) = lay_out(pyramid([16, 64, 64, 128], 128), DYNAPCNN).overruns()
    assert (overrun.layer, overrun.resource, overrun.need, overrun.limit) == ("conv3", "synapse_memory_bits", 8 << 17, 8 << 16)
    assert overrun.source == "dynapcnn.yaml: synapse_memory_bits_per_core"


def test_nine_layers_fill_dynapcnn_and_a_tenth_is_one_core_too_many() -> None:
    nine = lay_out(pyramid([4] * 9, 16), DYNAPCNN)
    assert nine.fits
    assert nine.cores == tuple(range(9))
    ten = lay_out(pyramid([4] * 10, 16), DYNAPCNN)
    assert [overrun.resource for overrun in ten.overruns()] == ["cores"]


def test_on_xylo_hidden_layers_share_a_core_and_the_readout_has_the_other() -> None:
    network = in_integers(
        layer_of(np.ones((60, 16)), name="first", vth=1),
        layer_of(np.ones((40, 60)), name="second", source="first", vth=1),
        layer_of(np.ones((8, 40)), name="readout", source="second", vth=1),
    )
    placement = place(network, XYLO)
    assert {part.layer: part.core for part in placement.slices} == {"first": 0, "second": 0, "readout": 1}


def test_more_readouts_than_xylo_has_stand_among_the_hidden_neurons() -> None:
    network = in_integers(
        layer_of(np.ones((60, 16)), name="hidden", vth=1), layer_of(np.ones((9, 60)), name="readout", source="hidden", vth=1)
    )
    assert {part.core for part in place(network, XYLO).slices} == {0}


def test_a_layer_that_no_core_holds_is_named() -> None:
    network = in_integers(layer_of(np.ones((1001, 16)), name="hidden", vth=1))
    with pytest.raises(
        PlacementError, match=r"^layer 'hidden': 1,001 neurons on core 0 > 1,000 .* xylo keeps a layer on one core"
    ):
        place(network, XYLO)
