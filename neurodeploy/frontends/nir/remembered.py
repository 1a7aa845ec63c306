"""What NIR has no words for and `write_nir` keeps in the metadata of its nodes: it holds as long as the nodes say the same.

========================  =====================================================================================
of the graph              ``dt`` and ``discretisation``; ``timestep_s`` of the network; ``written_by``
of neurons                ``order`` among the layers; ``shape`` of the population; ``bias``; and ``current_decay``,
                          ``voltage_decay``, ``threshold``, ``rest``, each to its last bit, which a time constant rounds off
of a Linear or Affine     ``synapse``: ``sparse`` where its zeros are no synapses
========================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from neurodeploy.frontends.assembly import Heard
from neurodeploy.frontends.folding import Floats
from neurodeploy.frontends.nir.nodes import Graph, Node
from neurodeploy.graph import Connection
from neurodeploy.network import Dense, Layer, Network, Sparse, Synapse

SPARSE = "sparse"


def remembered(network: Network, heard: Sequence[Heard], graph: Graph) -> Network:
    """The network with what the metadata of a file adds to it."""
    forms = {population.name: population.form for population in heard}
    layers = []
    for layer in network:
        node = graph.nodes.get(layer.name)
        if node is None or layer.name not in forms:  # the neuron that carries biases
            layers.append(layer)
            continue
        names = [term.name for term in forms[layer.name].terms]
        layers.append(_settled(_listed(layer, names, graph), node))
    return replace(network, layers=tuple(layers))


def _listed(layer: Layer, names: Sequence[str], graph: Graph) -> Layer:
    """The layer with the matrices whose zeros are no synapses as lists."""
    connections = list(layer.connections)
    for index, name in enumerate(names):
        synapse = connections[index].synapse
        if name in graph.nodes and graph.nodes[name].metadata.get("synapse") == SPARSE and isinstance(synapse, Dense):
            connections[index] = replace(connections[index], synapse=_sparse(synapse))
    return replace(layer, connections=tuple(connections))


def _sparse(dense: Dense) -> Sparse:
    exist = dense.weight != 0
    starts = np.concatenate([[0], np.cumsum(exist.sum(axis=1))])
    return Sparse(n_in=dense.n_in, starts=starts, sources=np.nonzero(exist)[1], weight=dense.weight[exist])


def _settled(layer: Layer, node: Node) -> Layer:
    """The layer with the numbers that the metadata have in full, where they are those of the node."""
    neuron: Any = layer.neuron
    for field in fields(layer.neuron):
        neuron = replace(neuron, **{field.name: _full(getattr(neuron, field.name), node, field.name, layer.n_neurons)})
    shape = tuple(int(side) for side in np.reshape(node.metadata.get("shape", ()), -1))
    connections: tuple[Connection[Synapse], ...] = layer.connections
    if not shape or int(np.prod(shape)) != layer.n_neurons or any(hasattr(c.synapse, "output_shape") for c in connections):
        shape = layer.shape
    return replace(layer, neuron=neuron, shape=shape, bias=_full(layer.bias, node, "bias", layer.n_neurons))


def _full(value: Floats, node: Node, key: str, n: int) -> Floats:
    kept = np.asarray(node.metadata.get(key, np.nan))
    fits = kept.dtype.kind in "if" and (kept.ndim == 0 or kept.shape == (n,))
    return kept.astype(np.float64) if fits and np.allclose(kept, value, rtol=1e-9, atol=1e-12) else value
