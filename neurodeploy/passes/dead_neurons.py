"""Removal of dead neurons: those that never fire, or whose spikes reach no output.

A neuron can fire only if a path of synapses leads to it from the input or from a neuron with a positive bias; it matters only if
a path leads from it to the output. Everything else is removed: its memory is free, and the output stays the same. Neurons of an
image share their weights, so only whole channels are removed there. A *unit* below is a neuron of a row or a channel of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import combinations

import numpy as np

from neurodeploy.errors import NetworkError, check_arguments, unsupported_kind
from neurodeploy.ir.arrays import Mask
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import (
    LI,
    LIF,
    Conv,
    Dense,
    Layer,
    Network,
    Sparse,
    SubtractiveLIF,
    Synapse,
    max_spikes_of,
    reset_of,
    threshold_of,
)
from neurodeploy.ir.quantized import QuantizedNetwork, is_sigma_delta
from neurodeploy.passes.quantize import dequantize

Masks = Mapping[str, Mask]
"""Neurons that are kept, array (n,) of bool, by layer."""


@check_arguments
def trim(network: Network) -> Network:
    """Return the network without dead neurons or channels; its output is the same.

    The last layer stays whole, as do all that `trimmable` leaves out.
    """
    return without_neurons(network, needed_neurons(network))


def needed_neurons(network: Network) -> Masks:
    """Return masks of the neurons that can fire and reach the output, for each layer of `trimmable`.

    At least one neuron, or channel, of each layer stays. Layers tied by a depthwise convolution, or by a sum of their spikes,
    keep the same channels.
    """
    names, masks = trimmable(network), {}
    links = [
        (connection.source, _unit_synapses(connection, layer, network), layer.name)
        for layer in network for connection in layer.connections if not {layer.name, connection.source}.isdisjoint(names)
    ]  # fmt: skip
    fires = _reached({name: _fires_alone(network[name]) for name in names}, links)
    backwards = [(target, synapses.T, source) for source, synapses, target in reversed(links)]
    matters = _reached({name: np.zeros(network[name].shape[0], dtype=np.bool_) for name in names}, backwards)
    for tied in _ties(network, names):
        units = np.any([fires[name] & matters[name] for name in tied], axis=0)
        if not units.any():
            units[0] = True  # a layer has at least one neuron
        # Channels come first in an image, so the neurons of a unit are contiguous.
        masks.update({name: np.repeat(units, network[name].n_neurons // len(units)) for name in tied})
    return {name: masks[name] for name in names}


def _reached(found: dict[str, Mask], links: Sequence[tuple[str, Mask, str]]) -> Masks:
    """Units that those found reach; links are (source, synapses by target and source unit, target)."""
    has_grown = True
    while has_grown:
        has_grown = False
        for source, synapses, target in links:
            if target in found and not found[target].all():
                # a layer that stays whole is taken to fire and to matter
                units = found[target] | (synapses[:, found[source]] if source in found else synapses).any(axis=1)
                has_grown |= bool((units != found[target]).any())
                found[target] = units
    return found


def in_floats(network: Network | QuantizedNetwork) -> Network:
    """The network in floats; layers of a file that does not state their scale, in the chip's own numbers."""
    if isinstance(network, Network):
        return network
    layers = (replace(layer, scale=np.where(layer.scale > 0, layer.scale, 1.0)) for layer in network)
    return dequantize(replace(network, layers=tuple(layers)))


def silent_layers(network: Network | QuantizedNetwork) -> dict[str, str]:
    """Return the layers whose neurons never fire, and readouts that nothing reaches, whatever the input is; and why.

    A neuron that receives spikes alone gets at most the sum of its positive weights in a step, times the spikes that their source
    can fire in one. Numbers of the input may have any
    size and sign, so any synapse from there counts; so may graded spikes, and no layer of sigma-delta neurons is called silent.
    """
    if isinstance(network, QuantizedNetwork):
        return {} if is_sigma_delta(network) else silent_layers(in_floats(network))
    spikes_of = {layer.name: int(np.max(max_spikes_of(layer.neuron))) for layer in network}
    found: dict[str, str] = {}
    for layer in network:
        active = [c for c in layer.connections if c.source not in found and c.synapse.weight.any()]
        if not active:
            sources = sorted({repr(c.source) for c in layer.connections if c.source in found})
            found[layer.name] = f"its input {', '.join(sources)} is silent" if sources else "all its weights are zero"
            if (layer.bias <= 0).all() or threshold_of(layer.neuron) is None:
                continue
            del found[layer.name]
        threshold = threshold_of(layer.neuron)
        if threshold is None or any(c.source == INPUT for c in active):
            continue
        most = sum(
            (spikes_of[c.source] * c.synapse.total(np.maximum(c.synapse.weight, 0.0)) for c in active),
            start=np.zeros(layer.n_neurons),
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            # the states to which the largest input leads, step after step; a state that forgets nothing grows without end
            current = np.where(most > 0, most / layer.neuron.current_decay, 0.0) + layer.bias
            membrane = np.where(current > 0, current / layer.neuron.voltage_decay, current)
        # neurons that reset by subtraction fire at their threshold, too
        if (membrane < threshold).all() or (reset_of(layer.neuron) == "to zero" and (membrane <= threshold).all()):
            found[layer.name] = "all its input spikes together do not reach a threshold"
    return found


def without_neurons(network: Network, kept: Masks) -> Network:
    """Return the network with only the neurons of the masks, and their synapses; layers without a mask stay whole.

    A mask of an image names whole channels.
    """
    return replace(network, layers=tuple(_trimmed(layer, kept) for layer in network))


def trimmable(network: Network) -> tuple[str, ...]:
    """Return the layers that can lose neurons, or channels.

    These are all but the last layer and those next to synapse lists or to grouped convolutions, which name their neurons one by
    one. Of layers tied by a depthwise convolution or a sum of their spikes, either all are included or none.
    """
    found = {layer.name for layer in network if _is_trimmable(layer, network)}
    for tied in _ties(network, [layer.name for layer in network]):
        # a sum may be of an image and of a vector, whose units differ
        if not tied <= found or len({network[name].shape[0] for name in tied}) > 1:
            found -= tied
    return tuple(layer.name for layer in network if layer.name in found)


def is_depthwise(synapse: Synapse) -> bool:
    """Return whether each channel takes spikes from the one channel of its own number, as in pooling."""
    match synapse:
        case Conv():
            return 1 < synapse.groups == synapse.weight.shape[0] == synapse.input_shape[0]
        case Dense() | Sparse():
            return False
        case _:
            raise unsupported_kind(synapse)


def unit_mask(mask: Mask, layer: Layer) -> Mask:
    """Return which units of a layer, array (units,), have a neuron in a mask (n,)."""
    found: Mask = mask.reshape(layer.shape[0], -1).any(axis=1)
    return found


def tied_layers(network: Network) -> tuple[tuple[str, ...], ...]:
    """Return the layers that keep the same channels as one another, in the network's order; most are alone."""
    names = [layer.name for layer in network]
    groups = [tuple(sorted(group, key=names.index)) for group in _ties(network, names) if INPUT not in group]
    return tuple(sorted(groups, key=lambda group: names.index(group[0])))


def _ties(network: Network, names: Sequence[str]) -> list[set[str]]:
    """Sets of layers that keep the same channels; most are alone.

    A depthwise convolution joins its two layers. The summands of a sum of spikes are joined, too: they have equal synapses, whose
    lists are shared, and which are one parameter in training.
    """
    sets: dict[str, set[str]] = {name: {name} for name in names}

    def join(one: str, other: str) -> None:
        joined = sets.setdefault(one, {one}) | sets.setdefault(other, {other})
        sets.update(dict.fromkeys(joined, joined))

    for name in names:
        for connection in network[name].connections:
            if is_depthwise(connection.synapse):
                join(name, connection.source)
    for layer in network:
        for a, b in combinations(layer.connections, 2):
            if (a.source in sets or b.source in sets) and a.synapse == b.synapse:
                join(a.source, b.source)
    return list({id(one): one for one in sets.values()}.values())


def _is_trimmable(layer: Layer, network: Network) -> bool:
    touching: list[Synapse] = [c.synapse for c in (*layer.connections, *(c for _, c in network.targets(layer.name)))]
    for synapse in touching:
        match synapse:
            case Dense():
                pass
            case Sparse():
                return False
            case Conv():
                if synapse.groups > 1 and not is_depthwise(synapse):
                    return False
            case _:
                raise unsupported_kind(synapse)
    return layer is not network.output


def _fires_alone(layer: Layer) -> Mask:
    """(units,): whether a unit can fire without any spike."""
    match layer.neuron:
        case LIF() | SubtractiveLIF() | LI():  # at rest v is 0 and below the threshold, so only a positive bias lifts it
            return unit_mask(np.broadcast_to(layer.bias > 0, layer.n_neurons), layer)
        case _:
            raise unsupported_kind(layer.neuron)


def _unit_synapses(connection: Connection[Synapse], target: Layer, network: Network) -> Mask:
    """(units of the target, units of the source): where there is a synapse that is not zero."""
    source_units = (network.input_shape if connection.source == INPUT else network[connection.source].shape)[0]
    synapse, exists = connection.synapse, connection.synapse.weight != 0
    match synapse:
        case Dense():
            # (target units, neurons of a unit, source units, neurons of a unit).
            by_unit: Mask = exists.reshape(target.shape[0], -1, source_units, synapse.n_in // source_units).any(axis=(1, 3))
            return by_unit
        case Conv(groups=1):
            return np.asarray(exists.any(axis=(2, 3)))
        case Conv() if is_depthwise(synapse):
            return np.diag(exists.any(axis=(1, 2, 3)))
        case Sparse() | Conv():
            raise NetworkError(f"layer {target.name!r}", "has synapses that cannot be followed channel by channel")
        case _:
            raise unsupported_kind(synapse)


def _trimmed(layer: Layer, kept: Masks) -> Layer:
    rows = kept.get(layer.name)
    connections: list[Connection[Synapse]] = []
    for connection in layer.connections:
        columns = None if connection.source == INPUT else kept.get(connection.source)
        synapse = connection.synapse if rows is None and columns is None else _cut(connection.synapse, layer, rows, columns)
        connections.append(replace(connection, synapse=synapse))
    if rows is None:
        return replace(layer, connections=tuple(connections))
    # By field, so that a new neuron kind needs no change; arrays () hold for all neurons and stay.
    values = {field.name: getattr(layer.neuron, field.name) for field in fields(layer.neuron)}
    neuron = replace(layer.neuron, **{name: value[rows] if value.shape else value for name, value in values.items()})
    bias = layer.bias[rows] if layer.bias.shape else layer.bias
    shape = (int(unit_mask(rows, layer).sum()), *layer.shape[1:])
    return replace(layer, shape=shape, neuron=neuron, connections=tuple(connections), bias=bias)


def _cut(synapse: Synapse, layer: Layer, rows: Mask | None, columns: Mask | None) -> Synapse:
    """Return the synapses onto a layer's neurons `rows` from its source's neurons `columns`; None for all."""
    match synapse:
        case Dense():
            weight = synapse.weight if rows is None else synapse.weight[rows]
            return Dense(weight=weight if columns is None else weight[:, columns])
        case Sparse():
            matrix = synapse.csr()
            matrix = matrix if rows is None else matrix[rows]
            matrix = matrix if columns is None else matrix[:, columns]
            return Sparse(n_in=matrix.shape[1], starts=matrix.indptr, sources=matrix.indices, weight=matrix.data)
        case Conv():
            out = np.ones(layer.shape[0], dtype=np.bool_) if rows is None else unit_mask(rows, layer)
            channels, height, width = synapse.input_shape
            into = np.ones(channels, dtype=np.bool_) if columns is None else columns.reshape(channels, -1).any(axis=1)
            weight, n_in = synapse.weight[out], int(into.sum())
            # Depthwise: both layers keep the same channels, so `out` has cut the inputs as well.
            weight, groups = (weight, n_in) if synapse.groups > 1 else (weight[:, into], 1)
            return replace(synapse, weight=weight, input_shape=(n_in, height, width), groups=groups)
        case _:
            raise unsupported_kind(synapse)
