"""A first layer that raw input may drive by its biases: as the population that stands between input and network.

What a population that stands between raw input and the network makes of it: spikes, in the chip's integers.

Its neurons hear nobody: raw input sets their bias at every step. So currents stay at zero, and membranes are all that moves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from neurodeploy.errors import NetworkError
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedConv,
    QuantizedLayer,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSynapse,
)
from neurodeploy.targets.loihi.arithmetic import DECAY_UNITY

# -------------------- driving


def with_input_population(network: QuantizedNetwork) -> QuantizedNetwork:
    """The network with its first layer as its input population, for chips whose spikes carry no numbers.

    ``simulate(..., raw=True)`` then gives, spike for spike, what ``graded=True`` gives of the network as it was: a current that
    lasts one step is a bias. So a model that begins with neurons, and was trained on intensities themselves, runs where graded
    spikes do not exist. The population is the input's: it is written to network files, but neither counted nor placed, so place
    the network as it was.

    Raises
    ------
    NetworkError
        Its first layer is more than an input population can be.
    """
    first, *others = network.layers
    weight = _alike(first.connections[0].synapse) if len(first.connections) == 1 else None
    heard_first_hand = any(layer is not first for layer, _ in network.targets(INPUT))
    if weight is None or first.connections[0].delay_steps or heard_first_hand or not others or not _is_plain(first):
        raise NetworkError(
            f"layer {first.name!r}", "is more than an input population can be",
            remedy="It has to hear the input one to one by one weight, to forget currents in a step (du of 4096), to have one "
            "threshold, one decay and one bias, and to be what alone hears the input.",
        )  # fmt: skip
    assert isinstance(first.neuron, QuantizedLIF)
    neuron = QuantizedLIF(**{name: _one(getattr(first.neuron, name)) for name in ("vth", "du", "dv")})
    encoder = Encoder(neuron=neuron, weight=weight, bias=int(_one(first.bias)))
    layers = tuple(replace(layer, connections=tuple(_moved(c, first.name) for c in layer.connections)) for layer in others)
    return QuantizedNetwork(input_shape=first.shape, layers=layers, encoder=encoder)


def _moved(connection: Any, first: str) -> Any:
    return replace(connection, source=INPUT) if connection.source == first else connection


def _one(numbers: Any) -> Any:
    return np.array(numbers.flat[0])


def _is_plain(layer: QuantizedLayer) -> bool:
    neuron = layer.neuron
    if not isinstance(neuron, QuantizedLIF) or (neuron.du != DECAY_UNITY).any():
        return False
    return all((numbers == numbers.flat[0]).all() for numbers in (neuron.vth, neuron.dv, layer.bias))


def _alike(synapse: QuantizedSynapse) -> int | None:
    """The weight by which neurons hear the input one to one; None where they hear it otherwise."""
    if isinstance(synapse, QuantizedConv):
        sides = (synapse.weight.shape, synapse.stride, synapse.padding)
        one_to_one, values = sides == ((synapse.groups, 1, 1, 1), (1, 1), (0, 0)), synapse.weight.ravel()
    elif isinstance(synapse, QuantizedSparse):
        each = np.arange(synapse.n_in)
        one_to_one = np.array_equal(synapse.sources, each) and np.array_equal(synapse.starts, np.arange(synapse.n_in + 1))
        values = synapse.weight
    else:
        values = np.diagonal(synapse.weight)
        one_to_one = synapse.n_in == synapse.n_out and np.array_equal(synapse.weight, np.diag(values))
    return int(values[0]) if one_to_one and (values == values[0]).all() else None
