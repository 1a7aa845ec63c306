"""Neurons that change nothing are taken out of a network: their memory is free, and the others are told apart by fewer bits.

A neuron that no synapse leaves is heard by nobody; one that no synapse reaches, without a bias to lift it, never fires. Either
may have been the last reason for another to stay, so the search goes on until nothing changes. Neurons of an image share their
weights, so there whole channels go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np

from neurodeploy.ir.arrays import Mask
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import Conv, Dense, Layer, Network, Sparse, Synapse

Masks = Mapping[str, Mask]


def trim(network: Network) -> Network:
    """The network without the neurons, or channels, that change nothing; its output is the same.

    The last layer stays whole, as does what `live_neurons` cannot part.
    """
    return without_neurons(network, live_neurons(network))


def live_neurons(network: Network) -> Masks:
    """The neurons that are needed, array (n,) of bool for each layer that can do without some.

    The last layer stays whole, as does any that listed synapses lead to or from, or a convolution in groups of several
    channels; of the others at least one neuron, or channel, stays.
    """
    alive = {name: np.ones(network[name].n_neurons, dtype=np.bool_) for name in trimmable(network)}
    while True:
        after = {name: _needed(network[name], network, alive) for name in alive}
        if all(np.array_equal(after[name], mask) for name, mask in alive.items()):
            return alive
        alive = after


def without_neurons(network: Network, kept: Masks) -> Network:
    """The network with only the neurons that `kept` names in its layers, and their synapses; other layers stay whole.

    Of an image, `kept` names whole channels.
    """
    return replace(network, layers=tuple(_trimmed(layer, kept) for layer in network))


def trimmable(network: Network) -> tuple[str, ...]:
    """The layers that can do without some of their neurons, or channels; `is_depthwise` ties some to their sources."""
    found = {layer.name for layer in network if _is_trimmable(layer, network)}
    ties = [(layer.name, c.source) for layer in network for c in layer.connections if is_depthwise(c.synapse)]
    while loose := {name for tie in ties if (tie[0] in found) != (tie[1] in found) for name in tie if name in found}:
        found -= loose
    return tuple(layer.name for layer in network if layer.name in found)


def is_depthwise(synapse: Synapse) -> bool:
    """Whether each channel hears the one channel of its own number, as in pooling: they stay, and go, together."""
    return isinstance(synapse, Conv) and 1 < synapse.groups == synapse.weight.shape[0] == synapse.input_shape[0]


def by_channel(mask: Mask, layer: Layer) -> Mask:
    """(units,): which channels of an image, or neurons of a row, have a neuron in a mask (n,)."""
    found: Mask = mask.reshape(layer.shape[0], -1).any(axis=1)
    return found


def _is_trimmable(layer: Layer, network: Network) -> bool:
    into, out_of = [c.synapse for c in layer.connections], [c.synapse for _, c in network.targets(layer.name)]
    alike = all(isinstance(synapse, Dense if len(layer.shape) == 1 else (Conv, Dense)) for synapse in into)
    return layer is not network.output and alike and all(_is_separable(synapse) for synapse in (*into, *out_of))


def _is_separable(synapse: Synapse) -> bool:
    """Whether it stays what it is without some neurons: a matrix, or a convolution of all channels, or of each by itself."""
    return isinstance(synapse, Dense) or (isinstance(synapse, Conv) and (synapse.groups == 1 or is_depthwise(synapse)))


def _needed(layer: Layer, network: Network, alive: Masks) -> Mask:
    fires = by_channel(np.broadcast_to(layer.bias > 0, layer.n_neurons), layer)
    for connection in layer.connections:
        fires |= _met(connection, layer, None if connection.source == INPUT else alive.get(connection.source)).any(axis=1)
    heard = np.zeros(layer.shape[0], dtype=np.bool_)
    for target, connection in network.targets(layer.name):
        met = _met(connection, target, None)
        onto = by_channel(alive[target.name], target) if target.name in alive else np.ones(len(met), dtype=np.bool_)
        heard |= by_channel(met[onto].any(axis=0), layer) if isinstance(connection.synapse, Dense) else met[onto].any(axis=0)
    needed = by_channel(alive[layer.name], layer) & fires & heard
    if not needed.any():
        needed[0] = True
    return np.repeat(needed, layer.n_neurons // len(needed))


def _met(connection: Connection[Synapse], onto: Layer, alive: Mask | None) -> Mask:
    """(units, units of the source): who has a synapse from whom that is alive; of a matrix, neurons of the source."""
    synapse = connection.synapse
    assert not isinstance(synapse, Sparse)
    met: Mask
    if isinstance(synapse, Dense):
        met = (synapse.weight != 0).reshape(onto.shape[0], -1, synapse.weight.shape[1]).any(axis=1)
        return met if alive is None else met & alive
    met = (synapse.weight != 0).any(axis=(2, 3))
    if synapse.groups > 1:
        met = np.diag(met[:, 0])
    if alive is not None:
        met = met & alive.reshape(synapse.input_shape[0], -1).any(axis=1)
    return met


def _trimmed(layer: Layer, kept: Masks) -> Layer:
    rows = kept.get(layer.name)
    connections: list[Connection[Synapse]] = []
    for connection in layer.connections:
        columns = None if connection.source == INPUT else kept.get(connection.source)
        synapse = _left(connection.synapse, layer, rows, columns)
        connections.append(replace(connection, synapse=synapse))
    if rows is None:
        return replace(layer, connections=tuple(connections))
    values = {field.name: getattr(layer.neuron, field.name) for field in fields(layer.neuron)}
    neuron = replace(layer.neuron, **{name: value[rows] if value.shape else value for name, value in values.items()})
    bias = layer.bias[rows] if layer.bias.shape else layer.bias
    shape = (int(by_channel(rows, layer).sum()), *layer.shape[1:])
    return replace(layer, shape=shape, neuron=neuron, connections=tuple(connections), bias=bias)


def _left(synapse: Synapse, layer: Layer, rows: Mask | None, columns: Mask | None) -> Synapse:
    """What is left of synapses onto a layer's neurons `rows` from a source's neurons `columns`."""
    if isinstance(synapse, Sparse) or (rows is None and columns is None):
        return synapse
    if isinstance(synapse, Dense):
        weight = synapse.weight if rows is None else synapse.weight[rows]
        return Dense(weight=weight if columns is None else weight[:, columns])
    out = np.ones(layer.shape[0], dtype=np.bool_) if rows is None else by_channel(rows, layer)
    channels, height, width = synapse.input_shape
    into = np.ones(channels, dtype=np.bool_) if columns is None else columns.reshape(channels, -1).any(axis=1)
    weight, n_in = synapse.weight[out], int(into.sum())
    weight, groups = (weight, n_in) if synapse.groups > 1 else (weight[:, into], 1)
    return replace(synapse, weight=weight, input_shape=(n_in, height, width), groups=groups)
