"""Neurons that change nothing go; what the others do stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from images import MODELS, SAMPLE
from norse.torch import LICell, LIFCell, SequentialState

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import Conv, Dense, Layer, Network
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.passes.dead_neurons import needed_neurons, silent_layers, trim, without_neurons
from neurodeploy.targets.simulate import random_spikes, simulate


def thinned(network: Network, connectivity: float, seed: int) -> Network:
    """The network with few of its synapses, so that some neurons lose all of theirs on one side."""
    generator, layers = np.random.default_rng(seed), []
    for layer in network:
        weight = layer.weight * (generator.random(layer.weight.shape) < connectivity)
        (connection,) = layer.connections
        layers.append(replace(layer, connections=(replace(connection, synapse=Dense(weight=weight)),)))
    return replace(network, layers=tuple(layers))


def test_what_is_left_answers_as_all_did(make_network: Callable[..., Network]) -> None:
    for seed in range(5):
        network = thinned(make_network([30, 40, 40, 5]), 0.04, seed)
        kept = needed_neurons(network)
        left = without_neurons(network, kept)
        assert left["layer1"].n_neurons < 40
        assert left["layer2"].n_neurons < 40
        spikes = random_spikes((30,), n_samples=4, n_steps=20)
        whole, trimmed = simulate(network, spikes, record="all"), simulate(left, spikes, record="all")
        assert np.array_equal(whole.v["layer3"], trimmed.v["layer3"])
        assert np.array_equal(whole.spikes["layer1"][:, kept["layer1"]], trimmed.spikes["layer1"])


def test_layers_that_are_called_silent_never_fire(make_network: Callable[..., Network]) -> None:
    named, active = set(), 0
    for seed in range(12):
        network = thinned(make_network([20, 12, 12, 12, 4]), 0.15, seed)
        loud = np.array(10.0 ** np.random.default_rng(seed).uniform(-1, 3))
        layers = [replace(layer, neuron=replace(layer.neuron, threshold=loud)) for layer in network.layers[:-1]]
        network = replace(network, layers=(*layers, network.output))
        silent = silent_layers(network)
        record = simulate(network, np.ones((1, 20, 60), dtype=np.uint8), record="all")
        for layer in network.layers[:-1]:
            fires = bool(record.spikes[layer.name].any())
            assert not (fires and layer.name in silent), (seed, layer.name, silent)
            active += fires
        named |= {reason.rpartition("'")[2] for reason in silent.values()}
    assert active > 5
    assert {" is silent", "all its input spikes together do not reach a threshold"} <= named


def test_why_a_layer_is_silent(make_network: Callable[..., Network]) -> None:
    network = make_network([3, 4, 4, 2])
    first, *others = network.layers
    (connection,) = first.connections
    dead = replace(first, connections=(replace(connection, synapse=Dense(weight=np.zeros((4, 3)))),))
    assert silent_layers(network) == {}
    assert silent_layers(replace(network, layers=(dead, *others))) == {
        "layer1": "all its weights are zero", "layer2": "its input 'layer1' is silent", "layer3": "its input 'layer2' is silent"
    }  # fmt: skip
    assert "layer1" not in silent_layers(replace(network, layers=(replace(dead, bias=np.array(50.0)), *others)))


def test_a_chain_of_reasons_is_followed(make_network: Callable[..., Network]) -> None:
    """A neuron goes whose only listener is heard by nobody; one that only hears neurons that never fire goes too."""
    network = make_network([3, 3, 3, 2])
    first, second, third = np.eye(3), np.eye(3), np.ones((2, 3))
    third[:, 0] = 0  # the second layer's neuron 0 is heard by nobody, so the first layer's neuron 0 is not needed
    first[1] = 0  # the first layer's neuron 1 hears nobody, so the second layer's neuron 1 never fires
    layers = []
    for layer, weight in zip(network, (first, second, third), strict=True):
        (connection,) = layer.connections
        layers.append(replace(layer, bias=np.zeros(()), connections=(replace(connection, synapse=Dense(weight=weight)),)))
    kept = needed_neurons(replace(network, layers=tuple(layers)))
    assert {name: mask.tolist() for name, mask in kept.items()} == {
        "layer1": [False, False, True],
        "layer2": [False, False, True],
    }


def test_a_bias_is_reason_enough_to_fire_and_one_neuron_always_stays(make_network: Callable[..., Network]) -> None:
    network = make_network([3, 4, 2])
    (connection,) = network["layer1"].connections
    deaf = replace(network["layer1"], connections=(replace(connection, synapse=Dense(weight=np.zeros((4, 3)))),))
    lifted = replace(deaf, bias=np.array([0.0, 1.0, 0.0, 2.0]))
    for layer, alive in ((deaf, [True, False, False, False]), (lifted, [False, True, False, True])):
        kept = needed_neurons(replace(network, layers=(layer, network["layer2"])))
        assert kept["layer1"].tolist() == alive


@pytest.mark.parametrize("name", MODELS)
def test_channels_that_change_nothing_go_and_the_others_answer_as_before(name: str) -> None:
    """Channels that a convolution, or a dense layer behind pools, no longer hears; those of pools go with what they pool."""
    model = MODELS[name]()
    convolutions = [module for module in model if isinstance(module, torch.nn.Conv2d)]
    behind = next(module for module in model if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        convolutions[0].weight.abs_()
        convolutions[1].weight[:, 1::3] = 0
        behind.weight.reshape(len(behind.weight), convolutions[1].out_channels, -1)[:, ::4] = 0
    network = extract(model.eval(), SAMPLE)
    left = trim(network)
    assert left.layers[0].shape[0] == 8  # of 12
    images = [layer.shape[0] for layer in left if len(layer.shape) == 3]
    assert images == ([8, 8, 12] if name == "normalised" else [8, convolutions[1].out_channels * 3 // 4])
    spikes = random_spikes((1, 8, 8), n_samples=3, n_steps=10)
    whole, trimmed = simulate(network, spikes, record="all"), simulate(left, spikes, record="all")
    assert np.allclose(whole.v[network.output.name], trimmed.v[network.output.name])
    assert whole.spikes[network.layers[0].name].any()


def test_channels_go_with_the_synapses_that_bring_their_biases() -> None:
    model = SequentialState(
        torch.nn.Conv2d(1, 6, 3), LIFCell(), torch.nn.Conv2d(6, 4, 3), LIFCell(), torch.nn.Flatten(),
        torch.nn.Linear(64, 3, bias=False), LICell(),
    )  # fmt: skip
    with torch.no_grad():
        for convolution in (model[0], model[2]):
            convolution.weight.abs_()
            convolution.bias.fill_(0.7)
        model[2].weight[:, 1::2] = 0
    network = extract(model, SAMPLE)
    left = trim(network)
    assert [layer.shape for layer in left] == [(1,), (3, 6, 6), (4, 4, 4), (3,)]
    assert [c.synapse.weight.shape for c in left["layer0"].connections if c.source == "bias"] == [(3 * 36, 1)]
    spikes = random_spikes((1, 8, 8), n_samples=3, n_steps=10)
    whole, trimmed = simulate(network, spikes, record="all"), simulate(left, spikes, record="all")
    assert np.allclose(whole.v[network.output.name], trimmed.v[network.output.name])
    assert whole.spikes["layer2"].any()


def test_neurons_that_only_a_silent_loop_drives_go(make_network: Callable[..., Network]) -> None:
    """Neurons 0 and 1 drive each other and nothing drives them; 2 reaches only a loop that nobody reads; 3 stays."""
    network = make_network([3, 5, 2])
    into, loop, out = np.zeros((5, 3)), np.zeros((5, 5)), np.zeros((2, 5))
    into[2] = into[3] = loop[0, 1] = loop[1, 0] = loop[4, 2] = loop[4, 4] = 1.0
    out[:, [0, 1, 3]] = 1.0
    first, last = network.layers
    (connection,) = first.connections
    both = (replace(connection, synapse=Dense(weight=into)), Connection(source="layer1", synapse=Dense(weight=loop)))
    (behind,) = last.connections
    first = replace(first, bias=np.zeros(()), connections=both)
    last = replace(last, connections=(replace(behind, synapse=Dense(weight=out)),))
    network = replace(network, layers=(first, last))
    assert needed_neurons(network)["layer1"].tolist() == [False, False, False, True, False]
    spikes = random_spikes((3,), n_samples=3, n_steps=20)
    whole, trimmed = simulate(network, spikes), simulate(trim(network), spikes)
    assert whole.v["layer2"].any()
    assert np.array_equal(whole.v["layer2"], trimmed.v["layer2"])


def test_a_pool_keeps_the_channels_that_another_layer_takes_from_its_source(make_network: Callable[..., Network]) -> None:
    """Channel 0 reaches the output only past the pool, channel 1 only through it, channel 2 not at all."""
    lif = make_network([3, 4, 2])["layer1"].neuron
    conv = Conv(weight=np.ones((3, 1, 1, 1)), input_shape=(1, 4, 4))
    pool = Conv(weight=np.ones((3, 1, 2, 2)), input_shape=(3, 4, 4), stride=(2, 2), groups=3)
    past, through = np.zeros((2, 48)), np.zeros((2, 12))
    past[:, :16], through[:, 4:8] = 1.0, 1.0
    ends = [Connection(source="conv", synapse=Dense(weight=past)), Connection(source="pool", synapse=Dense(weight=through))]
    parts = [
        ("conv", (3, 4, 4), [Connection(source="input", synapse=conv)]),
        ("pool", (3, 2, 2), [Connection(source="conv", synapse=pool)]),
        ("end", (2,), ends),
    ]
    layers = [
        Layer(name=name, shape=shape, neuron=lif, connections=tuple(into), bias=np.zeros(())) for name, shape, into in parts
    ]
    network = Network(input_shape=(1, 4, 4), layers=tuple(layers), timestep_s=1e-3)
    left = trim(network)
    assert [layer.shape for layer in left] == [(2, 4, 4), (2, 2, 2), (2,)]
    spikes = random_spikes((1, 4, 4), n_samples=3, n_steps=10)
    assert np.allclose(simulate(network, spikes).v["end"], simulate(left, spikes).v["end"])


def test_summands_keep_the_neurons_that_one_of_them_needs(make_network: Callable[..., Network]) -> None:
    """Their synapse lists stay shared. A sum of an image and a vector, whose units differ, stays whole."""
    network = make_network([3, 4, 4, 2])
    a, b, out = network.layers
    (into_b,) = b.connections
    weight = np.ones((4, 4))
    weight[:2] = 0
    b = replace(b, connections=(replace(into_b, synapse=Dense(weight=weight)),))
    shared = np.ones((2, 4))
    shared[:, 3] = 0
    ends = tuple(Connection(source=name, synapse=Dense(weight=shared)) for name in (a.name, b.name))
    network = replace(network, layers=(a, b, replace(out, connections=ends)))
    left = trim(network)
    assert [layer.n_neurons for layer in left] == [4, 4, 2]  # a's last neuron fires b's
    one, other = left.output.connections
    assert one.synapse == other.synapse
    image = replace(network, layers=(replace(a, shape=(1, 2, 2)), *network.layers[1:]))
    assert trim(image) == image


def test_groups_of_channels_stay_whole() -> None:
    model = SequentialState(
        torch.nn.Conv2d(4, 8, 3, groups=2, bias=False), LIFCell(), torch.nn.Flatten(), torch.nn.Linear(32, 3), LICell()
    )
    with torch.no_grad():
        model[3].weight[:, :16] = 0
    network = extract(model, torch.zeros(1, 4, 4, 4))
    assert trim(network) == network


def test_slices_that_lose_all_neurons_leave_their_memory_to_their_core(
    make_network: Callable[..., Network], make_chip: Callable[..., HardwareProfile]
) -> None:
    network = make_network([16, 24, 30])
    budget = share_budget(network, make_chip(neurons_per_core=20, synapse_memory_bits_per_core=4096), cores=3)
    shared = next(parts for parts in budget.by_core() if {part.layer for part in parts} == {"layer1", "layer2"})
    lost = next(part for part in shared if part.layer == "layer1")
    kept = np.ones(24, dtype=np.bool_)
    kept[lost.start : lost.stop] = False
    assert kept.any()
    left = {parts[0].core: parts for parts in budget.of_neurons({"layer1": kept}).by_core()}
    assert [part.layer for part in left[lost.core]] == ["layer2"]
    for parts in budget.by_core():
        before = sum(part.synapse_memory_bits for part in parts)
        assert sum(part.synapse_memory_bits for part in left[parts[0].core]) == before
