"""Floats to integers and back where layers hear many: one scale a layer, whatever the wiring."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from grammar import graph_jobs, graphs
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, QuantizeError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network
from neurodeploy.ir.quantized import QuantizedConv, QuantizedNetwork
from neurodeploy.passes.quantize import dequantize, quantization_errors, quantize
from neurodeploy.targets.loihi.emulator import run_emulator

TINY = load_profile("tiny")
WIDTHS = st.sampled_from([2, 3, 4, 5, 6, 8])


def quantized_or_rejected(network: Network, bits: int = 8) -> QuantizedNetwork:
    """The integers; examples in which a threshold drowns beside the weights are not what is tested."""
    try:
        return quantize(network, TINY, bits=bits)
    except QuantizeError:
        assume(False)
        raise


def wiring(synapse: Any) -> dict[str, Any]:
    return {f.name: getattr(synapse, f.name) for f in fields(synapse) if f.name not in ("weight", "weight_bits")}


@given(network=graphs(), bits=WIDTHS)
def test_every_number_is_rounded_by_half_a_step_at_most(network: Network, bits: int) -> None:
    for layer, integers in zip(network, quantized_or_rejected(network, bits), strict=True):
        for before, after in zip(layer.connections, integers.connections, strict=True):
            weight = before.synapse.weight
            half = 1.0 if weight.size and weight.min() < 0 < weight.max() else 0.5
            error = after.synapse.weight - weight * after.synapse.per_weight(integers.scale)
            assert np.abs(error).max(initial=0.0) <= half * (1 + 1e-9)
        assert np.abs(integers.bias - layer.bias * integers.scale).max() <= 0.5 * (1 + 1e-9)
        if isinstance(layer.neuron, LIF):
            assert np.abs(integers.neuron.vth - layer.neuron.threshold * integers.scale).max() <= 0.5 * (1 + 1e-9)


@given(network=graphs())
def test_the_wiring_stays_there_and_back(network: Network) -> None:
    there = quantized_or_rejected(network)
    for before, integers, after in zip(network, there, dequantize(there), strict=True):
        assert (before.name, before.shape, type(before.neuron)) == (after.name, after.shape, type(after.neuron))
        for a, b, c in zip(before.connections, integers.connections, after.connections, strict=True):
            assert (a.source, a.delay_steps) == (b.source, b.delay_steps) == (c.source, c.delay_steps)
            assert type(a.synapse) is type(c.synapse)
            assert type(b.synapse).__name__ == f"Quantized{type(a.synapse).__name__}"
            for key, value in wiring(a.synapse).items():
                assert np.array_equal(value, wiring(b.synapse)[key])
                assert np.array_equal(value, wiring(c.synapse)[key])
            unit = 1 / c.synapse.per_weight(integers.scale)
            assert (np.abs(c.synapse.weight - a.synapse.weight) < 1.001 * unit).all()


def layer_on(neuron: LIF | LI, *connections: Connection[Any]) -> Network:
    conv = connections[0].synapse
    layer = Layer(name="only", shape=conv.output_shape, neuron=neuron, connections=connections, bias=np.zeros(()))
    return Network(input_shape=conv.input_shape, layers=(layer,), timestep_s=1e-3)


def lif(threshold: Any) -> LIF:
    return LIF(threshold=np.array(threshold), current_decay=np.ones(()), voltage_decay=np.ones(()), rest=np.zeros(()))


IMAGE = Connection(source=INPUT, synapse=Conv(weight=np.array([[[[1.0]]], [[[-0.5]]]]), input_shape=(1, 1, 2)))


def test_connections_share_the_scale_of_the_largest_weight_among_them() -> None:
    """4 of one sign becomes 255; so 1 and -0.5, of both signs, become 63.75 and -31.875: 64 and -32, for they are even."""
    back = Connection(source="only", synapse=Dense(weight=np.full((4, 4), 4.0)), delay_steps=2)
    only = quantize(layer_on(lif(1.0), IMAGE, back), TINY).output
    assert [c.synapse.weight.ravel()[:2].tolist() for c in only.connections] == [[64, -32], [255, 255]]
    assert (float(only.scale), int(only.neuron.vth)) == (63.75, 64)


def test_thresholds_that_differ_between_channels_become_one_and_within_a_channel_stay() -> None:
    between = quantize(layer_on(lif([1.0, 1.0, 0.25, 0.25]), IMAGE), TINY).output
    assert between.connections[0].synapse.weight.ravel().tolist() == [128, -254]  # 1 and -0.5 * 4, on a scale of 127
    assert (int(between.neuron.vth), between.scale.tolist()) == (127, [127.0, 127.0, 508.0, 508.0])
    within = quantize(layer_on(lif([1.0, 0.5, 0.25, 0.25]), IMAGE), TINY).output
    assert within.connections[0].synapse.weight.ravel().tolist() == [254, -128]
    assert (within.neuron.vth.tolist(), float(within.scale)) == ([254, 127, 64, 64], 254.0)


def test_a_threshold_that_drowns_among_others_is_refused() -> None:
    message = r"^layer 'only': its threshold 0\.001 rounds to zero next to weights or biases of up to 1 "
    with pytest.raises(QuantizeError, match=message):
        quantize(layer_on(lif([1.0, 0.001, 0.25, 0.25]), IMAGE), TINY)


def test_weights_that_a_channel_has_in_common_stand_on_one_scale() -> None:
    only = quantize(layer_on(lif(1.0), IMAGE), TINY).output
    uneven = QuantizedNetwork(input_shape=(1, 1, 2), layers=(replace(only, scale=np.array([1.0, 2.0, 3.0, 3.0])),))
    with pytest.raises(NetworkError, match=r"^QuantizedConv: needs one scale a channel, because the neurons of a channel share"):
        dequantize(uneven)


def test_a_lost_weight_of_a_convolution_counts_wherever_its_window_stands() -> None:
    conv = Conv(weight=np.array([[[[1.0, 0.001]]]]), input_shape=(1, 3, 4), padding=(0, 1))
    network = layer_on(lif(1.0), Connection(source=INPUT, synapse=conv))
    quantized = quantize(network, TINY)
    assert isinstance(quantized.output.connections[0].synapse, QuantizedConv)
    (error,) = quantization_errors(network, quantized)
    assert error.synapses_lost == 3 * 4  # five windows a row, of which the last has that weight on the padding
    assert error.weight_error == pytest.approx(0.001, rel=1e-3)


@given(job=graph_jobs)
def test_whatever_overflows_was_foreseen(job: tuple[QuantizedNetwork, NDArray[np.uint8]]) -> None:
    drawn, spikes = job
    network = replace(drawn, layers=tuple(replace(layer, scale=np.ones(())) for layer in drawn))
    overflows = run_emulator(network, spikes).overflows
    for error in quantization_errors(dequantize(network), network):
        assert error.can_overflow or not overflows[error.layer]
