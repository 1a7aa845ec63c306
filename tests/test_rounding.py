"""What rounding cost a layer, whether its state can overflow, and what is said of both."""

from __future__ import annotations

from math import log2, sqrt

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from paper import in_floats, in_integers, layer_of

from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedNetwork
from neurodeploy.passes.quantize import dequantize, quantization_errors, quantize
from neurodeploy.pipeline.deploy import warnings_of
from neurodeploy.simulation.layer_schedule import largest_states, run_reference
from neurodeploy.simulation.records import RateChange, changed_rates
from neurodeploy.targets.loihi.emulator import run_emulator

TINY = load_profile("tiny")

# ---------------------------------------------------------------------------------------------- what rounding cost


def test_the_errors_of_a_layer_worked_by_hand() -> None:
    """Weights 1, -0.5, 0.001 on a scale of 254 are 254, -127, 0.254: as even numbers 254, -128, 0.

    The errors are 0, 1/254 and 0.001. Threshold 2.001 is 508.254, so 508; decays of 0.3 and 0.1 are 1228.8 and 409.6.
    Worst case: u = 64 * 254 * 4096 / 1229, v = u * 4096 / 410, and a sign.
    """
    network = in_floats([[1.0, -0.5, 0.001]], threshold=2.001, current_decay=0.3, voltage_decay=0.1)
    (error,) = quantization_errors(network, quantize(network, TINY))
    assert error.layer == "only"
    assert error.weight_error == pytest.approx(sqrt(1 / 254**2 + 0.001**2) / sqrt(1 + 0.25 + 0.001**2))
    assert error.threshold_error == pytest.approx(0.254 / 508.254)
    assert error.decay_error == pytest.approx(0.4 / 4096)
    assert error.synapses_lost == 1
    worst = 64 * 254 * 4096 / 1229
    assert error.worst_current_bits == pytest.approx(1 + log2(worst))
    assert error.worst_voltage_bits == pytest.approx(1 + log2(worst * 4096 / 410))
    assert not error.can_overflow
    assert warnings_of((error,)) == ["Layer 'only' lost 1 synapse that rounded to zero."]


def test_a_layer_without_a_weight_has_no_error() -> None:
    network = in_floats([[0.0, 0.0]])
    (error,) = quantization_errors(network, quantize(network, TINY))
    assert (error.weight_error, error.synapses_lost, error.worst_current_bits) == (0.0, 0, 1.0)
    assert warnings_of((error,)) == []


# ---------------------------------------------------------------------------------------------- overflow


def can_overflow(network: QuantizedNetwork) -> bool:
    return any(error.can_overflow for error in quantization_errors(dequantize(network), network))


def overflows(network: QuantizedNetwork, spikes: NDArray[np.uint8]) -> int:
    return sum(run_emulator(network, spikes).overflows.values())


@pytest.mark.parametrize(
    ("weights", "bias", "too_much"),
    [
        ([255] * 498, 4081, False),  # 64 * (255 * 498 + 4081) = 2**23 - 64
        ([255] * 498, 4082, True),
        ([-255] * 498, -4081, False),
        ([-255] * 498, -4082, True),
        ([255] * 514 + [1], 0, False),  # 255 * 514 = 131,070
        ([255] * 514 + [2], 0, True),
        ([-255] * 514 + [-2], 0, True),
    ],
)
def test_overflow_is_foreseen_to_the_last_unit(weights: list[int], bias: int, too_much: bool) -> None:
    network = in_integers(layer_of([weights], bias=bias))
    ones = np.ones((1, len(weights), 3), dtype=np.uint8)
    assert can_overflow(network) is too_much
    assert (overflows(network, ones) > 0) is too_much


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layer_of([[1]], du=0), True),
        (layer_of([[1]], dv=0), True),
        (layer_of([[0]], bias=-1, dv=0), True),
        (layer_of([[1]], vth=5, bias=-1, dv=0), True),
        (layer_of([[0]], du=0, dv=0), False),
    ],
)
def test_what_never_decays_can_always_overflow(layer: QuantizedLayer, expected: bool) -> None:
    assert can_overflow(in_integers(layer)) is expected


def test_a_neuron_that_is_reset_does_not_overflow_by_leaking_too_little() -> None:
    """Without inhibition its membrane stays below threshold and one input; with it, nothing holds it from below."""
    excited, inhibited = (layer_of([[254, second]], vth=400, dv=0) for second in (126, -126))
    assert not can_overflow(in_integers(excited))
    assert can_overflow(in_integers(inhibited))


@st.composite
def loud(draw: st.DrawFn) -> tuple[QuantizedNetwork, NDArray[np.uint8]]:
    """A neuron with large weights and slow decays, driven by one sign of its synapses or all of them, for 150 steps."""
    n_in = draw(st.sampled_from([1, 2, 40, 520]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    full = np.ones((1, n_in), dtype=np.int64)
    weight = draw(st.sampled_from([255 * full, -255 * full, 2 * rng.integers(-127, 128, (1, n_in))]))
    slow = st.sampled_from([0, 1, 10, 100, 4096])
    vth = draw(st.none() | strategies.thresholds)
    network = in_integers(layer_of(weight, vth=vth, du=draw(slow), dv=draw(slow), bias=draw(strategies.biases)))
    driven = draw(st.sampled_from([weight[0] > 0, weight[0] < 0, full[0] > 0]))
    rate = draw(st.sampled_from([0.1, 1.0]))
    spikes = (rng.random((1, n_in, 150)) < rate) & driven[np.newaxis, :, np.newaxis]
    return network, spikes.astype(np.uint8)


@given(job=loud())
def test_whatever_overflows_was_foreseen(job: tuple[QuantizedNetwork, NDArray[np.uint8]]) -> None:
    network, spikes = job
    assert can_overflow(network) or not overflows(network, spikes)


def test_warnings_say_what_could_happen_and_what_did() -> None:
    network = in_integers(layer_of([[255] * 600]))
    errors = quantization_errors(dequantize(network), network)
    could = "Layer 'only' could overflow its 24-bit state: worst case 24 bits"
    assert warnings_of(errors) == [f"{could}."]
    assert warnings_of(errors, {"only": 1234}, "on the test data") == [f"{could}; on the test data it did so 1,234 times."]


@pytest.mark.parametrize("fires", [False, True])
def test_scales_hold_the_states_of_calibration_data(fires: bool) -> None:
    """Slow neurons with many inputs of one sign: on the largest scale their states wrap around."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 1.0, (4, 80)) * np.array([[-1], [-1], [1], [1]])
    network = in_floats(weight, threshold=5.0 if fires else None, current_decay=0.25, voltage_decay=0.0625)
    spikes = np.ones((1, 80, 60), dtype=np.uint8)
    assert overflows(quantize(network, TINY), spikes)
    largest = largest_states(network, spikes)
    held = quantize(network, TINY, largest_states=largest)
    assert not overflows(held, spikes)
    reference, emulated = run_reference(network, spikes, record="all"), run_emulator(held, spikes, record="all")
    assert np.array_equal(reference.spikes["only"], emulated.spikes["only"])
    if not fires:
        v = emulated.v["only"] / (64 * held.output.scale)
        assert np.abs(v - reference.v["only"]).max() < 0.02 * largest["only"]
    # the margin is a factor of 1.5: states twice as large as those that were measured wrap around
    assert overflows(quantize(network, TINY, largest_states={"only": largest["only"] / 2}), spikes)


# ---------------------------------------------------------------------------------------------- silent and saturated


def test_layers_that_rounding_silenced_or_saturated_are_named() -> None:
    before = {"silenced": 0.02, "saturated": 0.4, "quieter": 0.4, "louder": 0.4, "always silent": 0.0, "always loud": 0.95}
    after = {"silenced": 0.0, "saturated": 0.91, "quieter": 0.001, "louder": 0.89, "always silent": 0.0, "always loud": 1.0}
    assert changed_rates(before, after) == (
        RateChange(layer="silenced", before=0.02, after=0.0),
        RateChange(layer="saturated", before=0.4, after=0.91),
    )
    silenced, saturated = map(str, changed_rates(before, after))
    assert silenced == "Layer 'silenced' went silent by quantising: 0.0200 spikes a neuron and step before, 0.0000 after"
    assert saturated == "Layer 'saturated' went saturated by quantising: 0.4000 spikes a neuron and step before, 0.9100 after"
