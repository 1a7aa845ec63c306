"""No limit is ever broken in silence: every core of every placement recounted, whatever the network and the chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from conftest import examples, with_values
from grammar import graphs, quantized_graphs
from hypothesis import assume, given
from numpy.typing import NDArray
from paper import in_integers, layer_of
from recount import assert_true_to, broken, recounted
from strategies import limits

import neurodeploy as nd
from neurodeploy.errors import BudgetError, PlacementError
from neurodeploy.hardware.loading import load_profile, profile_paths
from neurodeploy.hardware.profile import HardwareProfile, Value
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LIF, Conv, Dense, Layer, Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.place import lay_out, place

MakeChip = Callable[..., HardwareProfile]


@examples(150)
@given(network=quantized_graphs() | graphs(), numbers=limits())
def test_every_core_of_a_placement_is_as_recounted_from_the_integers_alone(
    make_chip: MakeChip, network: QuantizedNetwork | Network, numbers: dict[str, Value | None]
) -> None:
    placement = lay_out(network, make_chip(**numbers))
    assert_true_to(network, placement)


def images_and_loops() -> Network:
    """Two convolutions with few, equal and missing weights, recurrent neurons that read both, and a readout that fires."""
    rng = np.random.default_rng(0)

    def layer(name: str, shape: tuple[int, ...], *connected: tuple[str, Conv | Dense]) -> Layer:
        neuron = LIF(
            threshold=rng.choice([1.0, 1.5], size=np.prod(shape)), current_decay=np.array(0.3), rest=np.array(0.0),
            voltage_decay=rng.choice([0.25, 0.125], size=np.prod(shape)),
        )  # fmt: skip
        connections = tuple(Connection(source=source, synapse=synapse) for source, synapse in connected)
        return Layer(name=name, shape=shape, neuron=neuron, connections=connections, bias=np.array(0.25))

    def weight(*shape: int) -> NDArray[np.float64]:
        return rng.choice([0.0, 0.5, -0.5, 1.0], size=shape)

    first = Conv(weight=weight(4, 2, 3, 3), input_shape=(2, 4, 3), padding=(1, 1))
    second = Conv(weight=weight(2, 2, 3, 2), input_shape=(4, 4, 3), stride=(2, 1), groups=2)
    return Network(
        input_shape=(2, 4, 3), timestep_s=1e-3,
        layers=(
            layer("first", first.output_shape, (INPUT, first)),
            layer("second", second.output_shape, ("first", second)),
            layer("loop", (5,), ("second", Dense(weight=weight(5, second.n_out))), ("loop", Dense(weight=weight(5, 5)))),
            layer("out", (3,), ("loop", Dense(weight=weight(3, 5))), ("first", Dense(weight=weight(3, first.n_out)))),
        ),
    )  # fmt: skip


CHIPS = sorted({load_profile(name)["encodings"].profile for name in profile_paths()})
"""Chips whose boards have their formulas."""


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_counts_convolutions_and_loops_as_recounted_whether_they_fit_or_not(name: str) -> None:
    """Two convolutions, recurrent neurons that read the first, too, and a readout; on the chip, and with small cores."""
    profile = load_profile(name)
    floats = images_and_loops()
    integers = nd.quantize(floats, replace(profile, target=None))  # any neurons: they are counted, not run
    for network in (floats, integers):
        whole = lay_out(network, profile)
        assert_true_to(network, whole)
    used = {resource: max(whole.on_core(core)[resource] for core in whole.cores) for resource in whole.resources}
    small = with_values(profile, **{f"{resource}_per_core": 1 + 6 * most // 10 for resource, most in used.items()})
    for cores in (None, 1):
        placement = lay_out(integers, small, cores=cores)
        assert_true_to(integers, placement)
    assert not placement.fits


def test_a_cut_layer_that_hears_itself(make_chip: MakeChip) -> None:
    """Three neurons of which two fit a core; neuron 0 is heard by 1 and 2, which stand on two cores."""
    itself = layer_of(np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0]]), name="self", source="self", vth=1)
    first = layer_of(np.zeros((3, 1), dtype=int), name="self", vth=1)
    layer = replace(first, connections=first.connections + itself.connections)
    network = QuantizedNetwork(input_shape=(1,), layers=(layer,))
    placement = lay_out(network, make_chip(neurons_per_core=2, output_axons_per_core=1))
    assert_true_to(network, placement)


@examples(15)
@given(network=quantized_graphs(), numbers=limits())
def test_what_is_placed_fits_and_what_does_not_fit_is_refused(
    make_chip: MakeChip, network: QuantizedNetwork, numbers: dict[str, Value | None]
) -> None:
    chip = make_chip(**numbers | {"chips": 2})
    try:
        placement = place(network, chip)
    except PlacementError:
        assert list(broken(network, lay_out(network, chip)))
    else:
        assert_true_to(network, placement)
        assert not list(broken(network, placement))


@given(network=quantized_graphs())
def test_layers_that_cannot_be_cut_are_recounted_too(make_chip: MakeChip, network: QuantizedNetwork) -> None:
    chip = make_chip(
        cores_per_chip=3, cores_per_layer=1, slices_per_core=1, neurons_per_core=(40, 4, 12), weight_bits=tuple(range(1, 10)),
        synapse_memory_bits_per_core=(2000, 4000, 1000), input_axons_per_core=None, output_axons_per_core=None,
    )  # fmt: skip
    try:
        placement = lay_out(network, chip)
    except BudgetError:  # more targets than an index can name
        assume(False)
        raise
    assert_true_to(network, placement)


def test_the_recount_finds_what_is_broken(make_chip: MakeChip) -> None:
    """Three neurons that hear two inputs: 3 neurons, 6 synapses, 2 axons of 3 * 8 + 10 bits in units of 64."""
    network = in_integers(layer_of(np.ones((3, 2)), vth=1))
    placement = lay_out(network, load_profile("tiny"))
    assert recounted(network, placement)[0]["synapse_memory_bits"] == 2 * 64
    assert not list(broken(network, placement))
    whole = lay_out(network, make_chip(slices_per_core=1, cores_per_layer=1, neurons_per_core=2, fan_in_per_neuron=1))
    assert list(broken(network, whole)) == ["3 neurons on core 0", "2 synapses onto a neuron of 'only'"]
    with pytest.raises(
        PlacementError, match=r"tiny keeps a layer on one core: make the layer smaller, or compress the network to a budget"
    ):
        place(network, whole.profile)
    (_, fan_in) = whole.overruns()
    with pytest.raises(PlacementError, match=r"2 synapses onto one neuron > 1 .* Prune its neurons' inputs, or sum them"):
        raise fan_in.error()
