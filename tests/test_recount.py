"""No limit is ever broken in silence: every core of every placement recounted, whatever the network and the chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from conftest import examples
from grammar import graphs, quantized_graphs
from hypothesis import assume, given
from paper import in_integers, layer_of
from recount import assert_true_to, broken, recounted
from strategies import limits

from neurodeploy.errors import BudgetError, PlacementError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile, Value
from neurodeploy.ir.network import Network
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
