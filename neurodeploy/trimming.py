"""Neurons that change nothing are taken out of a network: their memory is free, and the others are told apart by fewer bits.

A neuron that no synapse leaves is heard by nobody; one that no synapse reaches, without a bias to lift it, never fires. Either
may have been the last reason for another to stay, so the search goes on until nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from neurodeploy.graph import Connection
from neurodeploy.network import Dense, Layer, Network, Synapse

Masks = Mapping[str, NDArray[np.bool_]]


def live_neurons(network: Network) -> Masks:
    """The neurons that are needed, array (n,) of bool for each layer that can do without some.

    The last layer stays whole, as does any that a convolution or listed synapses lead to or from; of the others at least one
    neuron stays.
    """
    alive = {layer.name: np.ones(layer.n_neurons, dtype=np.bool_) for layer in network if _is_trimmable(layer, network)}
    while True:
        after = {name: _needed(network[name], network, alive) for name in alive}
        if all(np.array_equal(after[name], mask) for name, mask in alive.items()):
            return alive
        alive = after


def without_neurons(network: Network, kept: Masks) -> Network:
    """The network with only the neurons that `kept` names in its layers, and their synapses; other layers stay whole."""
    return replace(network, layers=tuple(_trimmed(layer, kept) for layer in network))


def _is_trimmable(layer: Layer, network: Network) -> bool:
    synapses = [c.synapse for c in layer.connections] + [c.synapse for _, c in network.targets(layer.name)]
    return layer is not network.output and len(layer.shape) == 1 and all(isinstance(s, Dense) for s in synapses)


def _needed(layer: Layer, network: Network, alive: Masks) -> NDArray[np.bool_]:
    fires = np.broadcast_to(layer.bias > 0, layer.n_neurons).copy()
    for connection in layer.connections:
        from_alive = alive.get(connection.source, np.ones(connection.synapse.n_in, dtype=np.bool_))
        fires |= (connection.synapse.weight[:, from_alive] != 0).any(axis=1)
    heard = np.zeros(layer.n_neurons, dtype=np.bool_)
    for target, connection in network.targets(layer.name):
        onto_alive = alive.get(target.name, np.ones(target.n_neurons, dtype=np.bool_))
        heard |= (connection.synapse.weight[onto_alive] != 0).any(axis=0)
    needed = alive[layer.name] & fires & heard
    if not needed.any():
        needed[0] = True
    return needed


def _trimmed(layer: Layer, kept: Masks) -> Layer:
    rows = kept.get(layer.name)
    connections: list[Connection[Synapse]] = []
    for connection in layer.connections:
        synapse, columns = connection.synapse, kept.get(connection.source)
        if isinstance(synapse, Dense):
            weight = synapse.weight if rows is None else synapse.weight[rows]
            synapse = Dense(weight=weight if columns is None else weight[:, columns])
        connections.append(replace(connection, synapse=synapse))
    if rows is None:
        return replace(layer, connections=tuple(connections))
    values = {field.name: getattr(layer.neuron, field.name) for field in fields(layer.neuron)}
    neuron = replace(layer.neuron, **{name: value[rows] if value.shape else value for name, value in values.items()})
    bias = layer.bias[rows] if layer.bias.shape else layer.bias
    return replace(layer, shape=(int(rows.sum()),), neuron=neuron, connections=tuple(connections), bias=bias)
