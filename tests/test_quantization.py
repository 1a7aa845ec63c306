"""Floats to the chip's integers: how far rounding goes, and what it keeps exactly."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import strategies
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from paper import in_floats, in_integers, layer_of

from neurodeploy.errors import QuantizeError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import LIF, Network
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedLIF, QuantizedNetwork
from neurodeploy.passes.quantize import dequantize, quantize
from neurodeploy.simulation.layer_schedule import run_reference
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.loihi.target import THRESHOLD_MAX, as_lava_reads, width_of

TINY = load_profile("tiny")
WIDTHS = st.sampled_from([2, 3, 4, 5, 6, 8])


def quantized_or_rejected(network: Network, bits: int) -> QuantizedNetwork:
    """The integers; examples in which a threshold drowns beside the weights are not what is tested."""
    try:
        return quantize(network, TINY, bits=bits)
    except QuantizeError:
        assume(False)
        raise


# ---------------------------------------------------------------------------------------------- how far rounding goes


@given(network=strategies.networks(), bits=WIDTHS)
def test_every_number_is_rounded_by_half_a_step_at_most(network: Network, bits: int) -> None:
    """A step is 1; of weights of both signs 2, for the chip's lowest bit is then the sign."""
    for layer, integers in zip(network, quantized_or_rejected(network, bits), strict=True):
        scale = np.broadcast_to(integers.scale, layer.n_neurons)
        half = 1.0 if layer.weight.min() < 0 < layer.weight.max() else 0.5
        assert np.abs(integers.weight - layer.weight * scale[:, np.newaxis]).max() <= half * (1 + 1e-9)
        assert np.abs(integers.bias - layer.bias * scale).max() <= 0.5 * (1 + 1e-9)
        assert np.abs(integers.neuron.du - 4096 * layer.neuron.current_decay).max() <= 0.5
        assert np.abs(integers.neuron.dv - 4096 * layer.neuron.voltage_decay).max() <= 0.5
        if isinstance(layer.neuron, LIF):
            assert np.abs(integers.neuron.vth - layer.neuron.threshold * scale).max() <= 0.5 * (1 + 1e-9)


@given(network=strategies.networks(), bits=WIDTHS)
def test_the_integers_take_no_more_bits_than_asked_for(network: Network, bits: int) -> None:
    for integers in quantized_or_rejected(network, bits):
        assert width_of(integers.weight) <= integers.weight_bits == bits


@given(network=strategies.networks())
def test_there_and_back_is_close(network: Network) -> None:
    there = quantized_or_rejected(network, 8)
    back = dequantize(there, network.timestep_s)
    assert (back.input_shape, back.timestep_s) == (network.input_shape, network.timestep_s)
    for before, after, integers in zip(network, back, there, strict=True):
        assert (before.name, before.shape, type(before.neuron)) == (after.name, after.shape, type(after.neuron))
        unit = 1 / np.broadcast_to(integers.scale, before.n_neurons)
        assert (np.abs(after.weight - before.weight) < 1.001 * unit[:, np.newaxis]).all()
        assert (np.abs(after.bias - before.bias) < 0.501 * unit).all()
        np.testing.assert_allclose(after.neuron.voltage_decay, before.neuron.voltage_decay, atol=1 / 8192)


@pytest.mark.parametrize(
    ("weight", "bits", "integers"),
    [
        ([[1.0, -0.25]], 8, [[254, -64]]),
        ([[0.5, -1.0]], 8, [[128, -254]]),  # 127 lies between two even numbers: twice 63.5, rounded to twice 64
        ([[0.2, 1.0]], 8, [[51, 255]]),
        ([[-0.2, -1.0]], 8, [[-51, -255]]),
        ([[7.0, -3.5]], 4, [[14, -8]]),
        ([[3.0, 1.0]], 2, [[3, 1]]),
        ([[1.0, -1.0]], 2, [[2, -2]]),
        ([[1e-30, 3e-30]], 8, [[85, 255]]),
        ([[0.0, 0.0]], 8, [[0, 0]]),
    ],
)
def test_the_largest_weight_takes_the_largest_integer(weight: list[list[float]], bits: int, integers: list[list[int]]) -> None:
    assert quantize(in_floats(weight), TINY, bits=bits).output.weight.tolist() == integers


@given(
    weight=npst.arrays(np.float64, (2, 3), elements=st.floats(0, 4, width=16)),
    threshold=npst.arrays(np.float64, 2, elements=st.floats(1e-3, 1e9)),
    bias=npst.arrays(np.float64, 2, elements=st.floats(-1e9, 1e9)),
)
def test_the_scale_gives_way_to_thresholds_and_biases(
    weight: NDArray[np.float64], threshold: NDArray[np.float64], bias: NDArray[np.float64]
) -> None:
    integers = quantized_or_rejected(in_floats(weight, threshold=threshold, bias=bias), 8).output
    assert isinstance(integers.neuron, QuantizedLIF)
    reached = (
        np.abs(integers.weight).max() >= 254,
        integers.neuron.vth == THRESHOLD_MAX,
        integers.bias.max() == 4095,
        integers.bias.min() == -4096,
    )
    assert any(reached)


@given(weight=npst.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=st.floats(-1, 1)), bits=WIDTHS)
def test_lava_reads_every_layer_as_it_was_meant(weight: NDArray[np.float64], bits: int) -> None:
    """And a layer that had a weight keeps one, whatever Lava would make of the first rounding."""
    assume(np.abs(weight).max() > 1e-300)
    integers = quantize(in_floats(weight), TINY, bits=bits).output.weight
    assert integers.any()
    np.testing.assert_array_equal(as_lava_reads(integers), integers)


def test_a_positive_weight_too_small_to_keep_does_not_cost_the_others() -> None:
    """As of both signs -1 would be -2, which Lava reads as -1 beside a zero; left alone, it is of one sign, and odd."""
    assert quantize(in_floats([[1e-9, -1.0, 0.0]]), TINY, bits=2).output.weight.tolist() == [[0, -1, 0]]


# ---------------------------------------------------------------------------------------------- what stays exact


@st.composite
def full_scale_networks(draw: st.DrawFn, decays: st.SearchStrategy[int]) -> QuantizedNetwork:
    """Chains that use their widths to the end, of neurons whose float thresholds differ by powers of two."""
    sides = draw(st.lists(st.integers(2, 5), min_size=2, max_size=4))
    reads = draw(st.booleans())
    layers: list[QuantizedLayer] = []
    for depth, (n_in, n) in enumerate(pairwise(sides), start=2):
        weight = draw(npst.arrays(np.int64, (n, n_in), elements=st.integers(-127, 127))) * 2
        weight[0, :2] = 254, -254
        readout = reads and depth == len(sides)
        powers = draw(npst.arrays(np.int64, () if readout else (n,), elements=st.integers(-3, 3)))
        layers.append(
            layer_of(
                weight,
                name=f"layer{depth}",
                source=layers[-1].name if layers else INPUT,
                vth=None if readout else draw(st.integers(1, 1000) | st.just(THRESHOLD_MAX)),
                du=draw(strategies.one_or_each(n, decays)),
                dv=draw(strategies.one_or_each(n, decays)),
                bias=draw(npst.arrays(np.int64, (n,), elements=strategies.biases)),
                scale=2.0**powers,
            )
        )
    return in_integers(*layers)


@given(integers=full_scale_networks(strategies.decays))
def test_what_the_chip_can_hold_comes_back_as_it_was(integers: QuantizedNetwork) -> None:
    assert quantize(dequantize(integers), TINY) == integers


@given(integers=full_scale_networks(st.sampled_from([0, 4096])), data=st.data())
def test_one_threshold_for_all_neurons_changes_no_spike(integers: QuantizedNetwork, data: st.DataObject) -> None:
    """In floats each neuron has its own. All is exact here: decays forget all or nothing, so nothing is cut off."""
    network = dequantize(integers)
    spikes = data.draw(strategies.spikes_into(network, max_steps=8))
    floats, chip = run_reference(network, spikes, record="all"), run_emulator(quantize(network, TINY), spikes, record="all")
    for layer in network:
        np.testing.assert_array_equal(floats.spikes[layer.name], chip.spikes[layer.name])


def test_thresholds_that_differ_become_one() -> None:
    """The second neuron, with a quarter of the threshold, gets four times the weights and the bias."""
    integers = quantize(in_floats([[1.0, -2.0], [1.0, 0.5]], threshold=[2.0, 0.5], bias=[0.5, 0.25]), TINY).output
    assert integers.weight.tolist() == [[64, -128], [254, 128]]  # 63.5 and 127 to even numbers
    assert (integers.neuron.vth.shape, int(integers.neuron.vth)) == ((), 127)
    assert integers.bias.tolist() == [32, 64]
    assert integers.scale.tolist() == [63.5, 254.0]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bits", [0, 1, 7, 9, -8])
def test_a_width_that_the_chip_does_not_have(bits: int) -> None:
    message = rf"^layer 'only': weights of {bits} bits do not exist on tiny \(tiny\.yaml: weight_bits\)\. Choose from 2, 3"
    with pytest.raises(QuantizeError, match=message):
        quantize(in_floats([[1.0]]), TINY, bits=bits)


def test_each_layer_may_have_a_width_of_its_own() -> None:
    assert quantize(in_floats([[1.0, -1.0]]), TINY, bits={"only": 4}).output.weight.max() == 14
    assert quantize(in_floats([[1.0, -1.0]]), TINY, bits={"another": 4}).output.weight.max() == 254
    with pytest.raises(QuantizeError, match="layer 'only': weights of 7 bits do not exist"):
        quantize(in_floats([[1.0]]), TINY, bits={"only": 7})


@pytest.mark.parametrize(("weight", "bias", "largest"), [(1000.0, 0.0, "1e[+]03"), (1.0, -1e6, "1e[+]06")])
def test_a_threshold_that_drowns_is_refused(weight: float, bias: float, largest: str) -> None:
    loss = rf"its threshold 0\.001 rounds to zero next to weights or biases of up to {largest}"
    message = rf"^layer 'only': {loss} \(Loihi register widths"
    with pytest.raises(QuantizeError, match=message):
        quantize(in_floats([[weight]], threshold=0.001, bias=bias), TINY)


def test_integers_of_unknown_scale_stand_for_nothing() -> None:
    foreign = in_integers(layer_of([[3]], name="foreign", vth=5, scale=0.0))
    with pytest.raises(QuantizeError, match=r"^layer 'foreign': has no scale, so its integers cannot be turned into floats\.$"):
        dequantize(foreign)
