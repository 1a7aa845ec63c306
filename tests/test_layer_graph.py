"""Networks as networkx graphs: nodes, edges and their attributes; depths from the longest paths."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, Connection, early_steps, pipeline_depths
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Synapse
from neurodeploy.passes.quantize import quantize

A = np.array
FIRING = LIF(threshold=A(1.0), current_decay=A(0.5), voltage_decay=A(0.25), rest=A(0.0))
READING = LI(current_decay=A(0.5), voltage_decay=A(0.25), rest=A(0.0))


def layer(
    name: str, shape: tuple[int, ...], *sources: tuple[str, Synapse, int], neuron: LIF | LI = FIRING, bias: float = 0.0
) -> Layer:
    connections = tuple(Connection(source=source, synapse=synapse, delay_steps=delay) for source, synapse, delay in sources)
    return Layer(name=name, shape=shape, neuron=neuron, connections=connections, bias=A(bias))


def ones(n_out: int, n_in: int) -> Dense:
    return Dense(weight=np.ones((n_out, n_in)))


@pytest.fixture
def residual() -> Network:
    """A convolution, a recurrent layer, and a readout that receives both and the input, in parts with delays."""
    conv = Conv(weight=np.ones((2, 1, 3, 3)), input_shape=(1, 4, 4), padding=(1, 1))
    half = Dense(weight=np.tile([1.0, 0.0], (3, 16)))
    return Network(
        input_shape=(1, 4, 4),
        timestep_s=1e-3,
        layers=(
            layer("conv", (2, 4, 4), (INPUT, conv, 0)),
            layer("hidden", (3,), ("conv", half, 2), ("hidden", ones(3, 3), 0), bias=0.5),
            layer("out", (5,), ("hidden", ones(5, 3), 0), ("hidden", ones(5, 3), 4), (INPUT, ones(5, 16), 1), neuron=READING),
        ),
    )


def test_a_network_is_a_graph_with_its_shapes_kinds_and_counts(residual: Network) -> None:
    graph = residual.to_networkx()
    assert isinstance(graph, nx.MultiDiGraph)
    assert dict(graph.nodes(data=True)) == {
        INPUT: {"shape": (1, 4, 4), "n_neurons": 16, "neuron": None, "has_bias": False},
        "conv": {"shape": (2, 4, 4), "n_neurons": 32, "neuron": "LIF", "has_bias": False},
        "hidden": {"shape": (3,), "n_neurons": 3, "neuron": "LIF", "has_bias": True},
        "out": {"shape": (5,), "n_neurons": 5, "neuron": "LI", "has_bias": False},
    }
    assert [(a, b, *data.values()) for a, b, data in graph.edges(data=True)] == [
        (INPUT, "conv", "Conv", 2 * 100, 0),
        (INPUT, "out", "Dense", 80, 1),
        ("conv", "hidden", "Dense", 48, 2),
        ("hidden", "hidden", "Dense", 9, 0),
        ("hidden", "out", "Dense", 15, 0),
        ("hidden", "out", "Dense", 15, 4),
    ]
    assert next(iter(graph.edges(data=True)))[2].keys() == {"synapse", "n_synapses", "delay_steps"}
    assert list(nx.selfloop_edges(graph)) == [("hidden", "hidden")]
    assert sum(n for _, _, n in graph.edges(data="n_synapses")) == residual.n_synapses


def test_a_quantised_network_has_the_same_graph_with_its_own_kinds(residual: Network) -> None:
    before, after = residual.to_networkx(), quantize(residual, load_profile("loihi2")).to_networkx()
    assert (list(before), list(before.edges)) == (list(after), list(after.edges))
    assert (after.nodes["out"]["neuron"], after.nodes["hidden"]["has_bias"]) == ("QuantizedLI", True)
    assert [s for _, _, s in after.edges(data="synapse")] == [f"Quantized{s}" for _, _, s in before.edges(data="synapse")]
    assert [d for _, _, d in after.edges(data="delay_steps")] == [0, 1, 2, 0, 0, 4]


def test_depths_are_the_longest_paths_of_the_graph(residual: Network) -> None:
    depths, acyclic = pipeline_depths(residual), nx.DiGraph(residual.to_networkx())
    acyclic.remove_edges_from(list(nx.selfloop_edges(acyclic)))
    longest = {
        name: max(len(path) - 1 for path in nx.all_simple_paths(acyclic, INPUT, name)) for name in acyclic if name != INPUT
    }
    assert depths == {INPUT: 0} | longest == {INPUT: 0, "conv": 1, "hidden": 2, "out": 3}
    assert early_steps(residual) == {"conv": (0,), "hidden": (0, 0), "out": (0, 0, 2)}


@pytest.mark.parametrize("seed", range(5))
def test_depths_of_random_graphs_are_their_longest_paths(seed: int) -> None:
    rng, names = np.random.default_rng(seed), [INPUT]
    layers: list[Layer] = []
    for k in range(7):
        sources = rng.choice(names, size=int(rng.integers(1, len(names) + 1)), replace=False)
        layers.append(layer(f"l{k}", (1,), *((str(source), ones(1, 1), 0) for source in sources)))
        names.append(f"l{k}")
    network = Network(input_shape=(1,), layers=tuple(layers), timestep_s=1e-3)
    expected = {INPUT: 0}
    for each in layers:  # sources come first: one pass relaxes all longest paths
        expected[each.name] = 1 + max(expected[c.source] for c in each.connections)
    assert pipeline_depths(network) == expected
