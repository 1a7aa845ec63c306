"""Networks of any wiring, in floats and in integers, beside the recurrence written out step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from grammar import graph_jobs, graphs
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from paper import layer_of
from strategies import spikes_into

from neurodeploy.errors import SimulationError
from neurodeploy.ir import connectivity as products
from neurodeploy.ir.graph import INPUT, Connection, LayerGraph
from neurodeploy.ir.network import LI, LIF, Conv, Layer, Network
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.simulation import layer_schedule as clock
from neurodeploy.simulation.layer_schedule import run_reference
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.simulate import simulate

# ---------------------------------------------------------------------------------------------- step by step, neuron by neuron


def arriving(network: LayerGraph[Any], fired: dict[str, NDArray[Any]], layer: Any, t: int) -> NDArray[Any]:
    """What reaches a layer at step t of one sample: from itself the spikes of t - 1, from others those of t, less delays."""
    total = np.zeros(layer.n_neurons, dtype=layer.connections[0].synapse.weight.dtype).astype(object)
    for connection in layer.connections:
        then = t - connection.delay_steps - (connection.source == layer.name)
        if then >= 0:
            total = total + connection.synapse.matrix().astype(object) @ fired[connection.source][:, then].astype(object)
    return total


def decay(state: int, share: int) -> int:
    kept = abs(state) * (4096 - share) // 4096
    return kept if state >= 0 else -kept


def wrap(current: int) -> int:
    if current > 2**23:
        return current - 2**24
    return current + 2**24 if current <= -(2**23) else current


def written_out(network: QuantizedNetwork, sample: NDArray[np.uint8]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Spikes and membranes (n, n_steps) of every layer, in Python's own integers."""
    n_steps = sample.shape[-1]
    fired = {INPUT: sample.reshape(-1, n_steps)} | {layer.name: np.zeros((layer.n_neurons, n_steps), int) for layer in network}
    v = {layer.name: np.zeros((layer.n_neurons, n_steps), dtype=int) for layer in network}
    u = {layer.name: [0] * layer.n_neurons for layer in network}
    for t in range(n_steps):
        for layer in network:
            sums = arriving(network, fired, layer, t)
            du, dv, bias = (np.broadcast_to(a, layer.n_neurons) for a in (layer.neuron.du, layer.neuron.dv, layer.bias))
            for k in range(layer.n_neurons):
                u[layer.name][k] = wrap(decay(u[layer.name][k], int(du[k])) + 64 * int(sums[k]))
                before = int(v[layer.name][k, t - 1]) if t else 0
                membrane = decay(before, int(dv[k])) + u[layer.name][k] + 64 * int(bias[k])
                membrane = min(max(membrane, -(2**23) + 1), 2**23 - 1)
                if isinstance(layer.neuron, QuantizedLIF):
                    fires = membrane > 64 * int(np.broadcast_to(layer.neuron.vth, layer.n_neurons)[k])
                    fired[layer.name][k, t], membrane = fires, 0 if fires else membrane
                v[layer.name][k, t] = membrane
    return {layer.name: (fired[layer.name], v[layer.name]) for layer in network}


@pytest.mark.parametrize("pieces", [1 << 23, 20])
@given(job=graph_jobs)
def test_the_emulator_is_the_recurrence_written_out(pieces: int, job: tuple[QuantizedNetwork, NDArray[np.uint8]]) -> None:
    network, spikes = job
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "INPUTS_PER_BLOCK", pieces)
        patch.setattr(products, "PATCH_VALUES", pieces)
        record = run_emulator(network, spikes, record="all")
    for index, sample in enumerate(spikes):
        for name, (fired, v) in written_out(network, sample).items():
            np.testing.assert_array_equal(record.spikes[name][index].reshape(fired.shape), fired)
            np.testing.assert_array_equal(record.v[name][index].reshape(v.shape), v)


def follows(network: Network, sample: NDArray[np.uint8], record: Any, index: int) -> None:
    """Each step of a record follows from the spikes and membranes before it, to rounding."""
    n_steps = sample.shape[-1]
    fired = {INPUT: sample.reshape(-1, n_steps)}
    fired |= {layer.name: record.spikes[layer.name][index].reshape(layer.n_neurons, n_steps) for layer in network}
    for layer in network:
        u, v = np.zeros(layer.n_neurons), np.zeros(layer.n_neurons)
        recorded = record.v[layer.name][index].reshape(layer.n_neurons, n_steps)
        for t in range(n_steps):
            u = (1 - layer.neuron.current_decay) * u + arriving(network, fired, layer, t).astype(float)
            v = (1 - layer.neuron.voltage_decay) * v + u + layer.bias
            if isinstance(layer.neuron, LIF):
                sure = np.abs(v - layer.neuron.threshold) > 1e-9
                np.testing.assert_array_equal(fired[layer.name][sure, t], (v > layer.neuron.threshold)[sure])
                v = np.where(fired[layer.name][:, t] > 0, 0.0, v)
            else:
                assert not fired[layer.name][:, t].any()
            np.testing.assert_allclose(recorded[:, t], v + layer.neuron.rest, atol=1e-9, rtol=1e-9)


@given(network=graphs(), data=st.data())
def test_the_reference_follows_the_recurrence(network: Network, data: st.DataObject) -> None:
    spikes = data.draw(spikes_into(network))
    record = run_reference(network, spikes, record="all")
    for index, sample in enumerate(spikes):
        follows(network, sample, record, index)


# ---------------------------------------------------------------------------------------------- a clock worked on paper

ONE = np.array(1)


def counter(name: str, *connections: Connection[Any]) -> QuantizedLayer:
    """A neuron that forgets at once and passes spikes on: it fires where anything arrives."""
    neuron = QuantizedLIF(vth=np.array(0), du=np.array(4096), dv=np.array(4096))
    return QuantizedLayer(
        name=name, shape=(1,), neuron=neuron, connections=connections, bias=np.array(0), scale=np.array(1.0)
    )  # fmt: skip


def wire(source: str, delay_steps: int = 0, weight: int = 1) -> Connection[Any]:
    synapse = layer_of([[weight]]).connections[0].synapse
    return Connection(source=source, synapse=synapse, delay_steps=delay_steps)


def test_when_spikes_arrive() -> None:
    """A layer hears others at the same step, itself a step later, and both later still by their delays; a skip costs nothing."""
    network = QuantizedNetwork(
        input_shape=(1,),
        layers=(
            counter("straight", wire(INPUT)),
            counter("delayed", wire("straight", 2)),
            counter("echo", wire("delayed"), wire("echo", 1)),
            counter("skip", wire(INPUT), wire("delayed", 1)),
        ),
    )
    record = simulate(network, np.array([[1, 0, 0, 0, 0, 0, 0, 0]]), record="all")
    assert {name: fired[0, 0].tolist() for name, fired in record.spikes.items()} == {
        "straight": [1, 0, 0, 0, 0, 0, 0, 0],
        "delayed": [0, 0, 1, 0, 0, 0, 0, 0],
        "echo": [0, 0, 1, 0, 1, 0, 1, 0],  # of itself it hears what it fired 1 + 1 steps ago
        "skip": [1, 0, 0, 1, 0, 0, 0, 0],
    }


def test_a_layer_that_hears_only_itself_lives_on_its_bias() -> None:
    layer = counter("alone", wire("alone", weight=-2))
    network = QuantizedNetwork(
        input_shape=(1,),
        layers=(
            QuantizedLayer(name="alone", shape=(1,), neuron=layer.neuron, connections=layer.connections, bias=ONE, scale=ONE),
        ),
    )
    assert simulate(network, np.zeros((1, 5))).spikes["alone"].tolist() == [[[1, 0, 1, 0, 1]]]


# ---------------------------------------------------------------------------------------------- convolutions as torch has them


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), ((1, 2), (2, 0), (2, 1), 4)])
def test_a_convolution_is_torchs(stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    rng = np.random.default_rng(0)
    layer = torch.nn.Conv2d(4, 8, (3, 2), stride, padding, dilation, groups, bias=False).double()
    spikes = rng.integers(0, 2, (2, 4, 9, 7, 3)).astype(np.uint8)
    expected = layer(torch.tensor(np.moveaxis(spikes, -1, 0).reshape(-1, 4, 9, 7)).double()).detach().numpy()
    conv = Conv(
        weight=layer.weight.detach().numpy(), input_shape=(4, 9, 7), stride=layer.stride, padding=layer.padding,
        dilation=layer.dilation, groups=groups,
    )  # fmt: skip
    at_once = LI(current_decay=np.array(1.0), voltage_decay=np.array(1.0), rest=np.array(0.0))
    only = Layer(
        name="only",
        shape=conv.output_shape,
        neuron=at_once,
        connections=(Connection(source=INPUT, synapse=conv),),
        bias=np.array(0),
    )
    record = simulate(Network(input_shape=(4, 9, 7), layers=(only,), timestep_s=1e-3), spikes)
    np.testing.assert_allclose(record.v["only"], np.moveaxis(expected.reshape(3, 2, *conv.output_shape), 0, -1), atol=1e-12)


def test_a_convolution_past_lavas_24_bits_is_refused() -> None:
    """32,897 weights of 255 are 2**23 + 127."""
    conv = QuantizedConv(weight=np.full((1, 32_897, 1, 1), 255), input_shape=(32_897, 1, 1), weight_bits=8)
    layer = QuantizedLayer(
        name="wide", shape=(1, 1, 1), neuron=QuantizedLI(du=ONE, dv=ONE), connections=(Connection(source=INPUT, synapse=conv),),
        bias=np.array(0), scale=np.array(1.0),
    )  # fmt: skip
    network = QuantizedNetwork(input_shape=(32_897, 1, 1), layers=(layer,))
    with pytest.raises(SimulationError, match=r"^layer 'wide': its convolution can add up to more than the 24 bits.* fewer wei"):
        run_emulator(network, np.ones((1, 32_897, 1, 1, 1), dtype=np.uint8))


def test_connections_add_up_to_no_more_than_lavas_accumulator() -> None:
    wide = np.full((1, 70_000), 255)
    twice = tuple(layer_of(wide).connections * 2)
    layer = layer_of(wide)
    layer = QuantizedLayer(
        name="wide", shape=(1,), neuron=layer.neuron, connections=twice, bias=np.array(0), scale=np.array(1.0)
    )  # fmt: skip
    with pytest.raises(SimulationError, match=r"^layer 'wide': its weights can add up to more than Lava's 32-bit"):
        run_emulator(QuantizedNetwork(input_shape=(70_000,), layers=(layer,)), np.ones((1, 70_000, 1), dtype=np.uint8))
