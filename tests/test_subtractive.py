"""Neurons that reset by subtraction: the reference simulates them, and what does not know them refuses them by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import neurodeploy as nd
from neurodeploy.errors import NetworkError, NetxError, QuantizeError
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import Dense, Layer, Network, SubtractiveLIF, max_spikes_of, reset_of, threshold_of
from neurodeploy.ir.quantized import QuantizedDense, QuantizedLayer, QuantizedNetwork, QuantizedSubtractiveLIF
from neurodeploy.mapping.delay_balancing import Balance, balanced
from neurodeploy.passes.dead_neurons import silent_layers
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.forward import run_model


def subtractive(threshold: float = 1.0, current: float = 0.5, voltage: float = 0.25, most: Any = 31) -> SubtractiveLIF:
    return SubtractiveLIF(
        threshold=np.array(threshold), current_decay=np.array(current), voltage_decay=np.array(voltage), rest=np.zeros(()),
        max_spikes=np.array(most),
    )  # fmt: skip


def network_of(weights: list[Any], neuron: SubtractiveLIF | None = None) -> Network:
    layers, source = [], INPUT
    for k, weight in enumerate(weights):
        connection = Connection(source=source, synapse=Dense(weight=np.asarray(weight, dtype=float)))
        source = f"layer{k}"
        layers.append(Layer(
            name=source, shape=(len(weight),), neuron=neuron or subtractive(), connections=(connection,), bias=np.zeros(())
        ))  # fmt: skip
    return Network(input_shape=(np.shape(weights[0])[1],), layers=tuple(layers), timestep_s=1e-3)


NETWORK = network_of([[[0.9, 2.6], [-1.2, 0.7], [7.3, 0.1]], [[0.4, 0.9, -0.1]]])
SPIKES = (np.random.default_rng(0).random((3, 2, 30)) < 0.5).astype(np.uint8)


def test_the_reference_fires_once_for_each_whole_threshold() -> None:
    """Against the recurrence, written out for one neuron after the other."""
    record = nd.simulate(NETWORK, SPIKES, record="all")
    for sample in range(len(SPIKES)):
        u, v = ([0.0] * 4 for _ in range(2))
        for t in range(SPIKES.shape[-1]):
            hidden: list[int] = []
            for j, row in enumerate([*NETWORK.layers[0].weight, NETWORK.layers[1].weight[0]]):
                source = SPIKES[sample, :, t] if j < 3 else np.array(hidden)
                u[j] = 0.5 * u[j] + float(row @ source)
                v[j] = 0.75 * v[j] + u[j]
                fired = min(int(max(v[j], 0.0) // 1.0), 31)
                v[j] -= fired
                name, neuron = ("layer0", j) if j < 3 else ("layer1", 0)
                assert record.spikes[name][sample, neuron, t] == fired
                assert record.v[name][sample, neuron, t] == pytest.approx(v[j], abs=1e-9)
                hidden.append(fired)
    assert record.spikes["layer0"].max() > 5
    assert record.spikes["layer0"].dtype == np.uint8


def test_spikes_of_a_step_are_at_most_max_spikes() -> None:
    neuron = subtractive(voltage=0.0, current=1.0, most=[1, 3])
    record = nd.simulate(network_of([[[5.0], [5.0]]], neuron), np.array([[[1, 0, 0, 0, 0, 0]]]))
    np.testing.assert_array_equal(record.spikes["layer0"][0], [[1, 1, 1, 1, 1, 0], [3, 2, 0, 0, 0, 0]])


def test_what_is_asked_of_a_neuron() -> None:
    neuron = subtractive(threshold=0.3, most=7)
    assert (float(threshold_of(neuron)), reset_of(neuron), int(max_spikes_of(neuron))) == (0.3, "by subtraction", 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("threshold", 0.0), ("max_spikes", 0), ("max_spikes", 256), ("max_spikes", 1.5)])
def test_numbers_that_make_no_neuron_are_refused(field: str, value: float) -> None:
    with pytest.raises(NetworkError, match=rf"^SubtractiveLIF\.{field}: "):
        replace(subtractive(), **{field: np.array(value)})


def test_several_spikes_a_step_wake_a_layer_that_one_would_not() -> None:
    """What a source can fire in a step multiplies its weights."""
    weights: list[Any] = [[[40.0]], [[0.1]]]
    memoryless = {"current": 1.0, "voltage": 1.0}
    assert "layer1" in silent_layers(network_of(weights, subtractive(most=9, **memoryless)))
    assert silent_layers(network_of(weights, subtractive(most=10, **memoryless))) == {}
    assert nd.simulate(network_of(weights, subtractive(most=10, **memoryless)), np.ones((1, 1, 2))).spikes["layer1"].all()


# ---------------------------------------------------------------------------------------------- refused by name


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_loihi_refuses_them(chip: str, tmp_path: Path) -> None:
    message = r"^layer 'layer0': resets by subtraction, and neurons of target 'loihi' to zero .* in the model, and train it so\.$"
    with pytest.raises(QuantizeError, match=message):
        nd.quantize(NETWORK, nd.load_profile(chip))
    seen = nd.inspect(NETWORK, nd.load_profile(chip))
    assert not seen.fits
    assert re.match(message, str(seen.unwritable))
    assert seen.compressible == "Compressible: no, for that reason."
    data, options = DataSplit([(torch.ones(2, 2), torch.tensor([0, 0]))] * 2, [], (2,), 1), nd.FitOptions(epochs_dense=1)
    with pytest.raises(QuantizeError, match=message):
        nd.compress(NETWORK, None, chip, data, options, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_integers_of_them_are_none_of_loihis(tmp_path: Path) -> None:
    neuron = QuantizedSubtractiveLIF(vth=np.array(9), du=np.array(1), dv=np.array(2), max_spikes=np.array(31))
    connection = Connection(source=INPUT, synapse=QuantizedDense(weight=np.array([[4]]), weight_bits=8))
    layer = QuantizedLayer(
        name="only", shape=(1,), neuron=neuron, connections=(connection,), bias=np.zeros(()), scale=np.array(1.0)
    )  # fmt: skip
    network = QuantizedNetwork(input_shape=(1,), layers=(layer,))
    with pytest.raises(NetworkError, match=r"resets by subtraction, and Lava's LIF to a value"):
        nd.simulate(network, SPIKES[:, :1])
    with pytest.raises(NetxError, match=r"resets by subtraction, and Lava's LIF to a value"):
        nd.write_netx(network, tmp_path / "model.net")


def test_a_relay_repeats_all_spikes_of_a_step() -> None:
    last = replace(NETWORK.layers[1], name="layer2", connections=(
        Connection(source="layer1", synapse=Dense(weight=np.ones((1, 1)))),
        Connection(source="layer0", synapse=Dense(weight=np.ones((1, 3)))),
    ))  # fmt: skip
    network = replace(NETWORK, layers=(*NETWORK.layers, last))
    choice = Balance(
        source="layer0", steps=1, targets=("layer2",), by="relays", synapses_cost=None, relays_cost=None
    )  # fmt: skip
    relayed = balanced(network, (choice,))
    assert any("relay" in layer.name for layer in relayed)
    for name in ("layer1", "layer2"):
        ours, theirs = (nd.simulate(one, SPIKES, record="all").spikes[name] for one in (relayed, network))
        np.testing.assert_array_equal(ours, theirs)
    assert nd.simulate(network, SPIKES, record="all").spikes["layer0"].max() > 1


def test_training_sees_the_spikes_of_the_reference() -> None:
    """Forward it is the reference; backward every weight behind a neuron near its threshold gets a gradient."""
    model = nd.TrainableNetwork(NETWORK)
    output = run_model(model, torch.from_numpy(SPIKES).float().movedim(-1, 1))
    expected = nd.simulate(NETWORK, SPIKES).spikes["layer1"]
    np.testing.assert_array_equal(output.detach().numpy().transpose(1, 2, 0), expected)
    assert expected.max() > 1
    output.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
