"""Input population: the first layer of a network, driven by raw input through its biases instead of by graded spikes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from neurodeploy.errors import NetworkError, unsupported_kind
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedConv,
    QuantizedDense,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSynapse,
)
from neurodeploy.targets import arithmetic_named


def with_input_population(network: QuantizedNetwork) -> QuantizedNetwork:
    """The network with its first layer as its input population, for chips whose spikes carry no numbers.

    ``simulate(..., raw=True)`` on the result gives, spike for spike, what ``graded=True`` gives on `network`: a current that
    lasts one step is a bias. A model that was trained on intensities and begins with neurons can so run on a chip without graded
    spikes. The population belongs to the input: it is written to network files, but neither counted nor placed. Place the
    original network.

    Raises
    ------
    NetworkError
        Its first layer is more than an input population can be.
    """
    first, *others = network.layers
    # The register of a decay of 1, after which nothing of a current is left.
    forgets_all = arithmetic_named(network.target).decay_registers(np.ones(()))
    one_input = len(first.connections) == 1 and not first.connections[0].delay_steps
    weight = one_to_one_weight(first.connections[0].synapse) if one_input else None
    feeds_others = any(layer is not first for layer, _ in network.targets(INPUT))
    neuron: QuantizedLIF | None = None
    match first.neuron:
        case QuantizedLIF(vth=vth, du=du, dv=dv):
            is_uniform = all((numbers == numbers.flat[0]).all() for numbers in (vth, dv, first.bias))
            if is_uniform and (du == forgets_all).all():
                neuron = QuantizedLIF(**{name: np.array(getattr(first.neuron, name).flat[0]) for name in ("vth", "du", "dv")})
        case QuantizedLI():
            pass
        case _:
            raise unsupported_kind(first.neuron)
    if weight is None or feeds_others or not others or neuron is None:
        raise NetworkError(
            f"layer {first.name!r}", "is more than an input population can be",
            remedy="It has to receive the input one to one by one weight, to forget currents in a step "
            f"(du of {int(forgets_all)}), to have one threshold, one decay and one bias, and nothing else may receive the input.",
        )  # fmt: skip
    encoder = Encoder(neuron=neuron, weight=weight, bias=int(first.bias.flat[0]))

    def moved(connection: Any) -> Any:
        return replace(connection, source=INPUT) if connection.source == first.name else connection

    # The spikes of the population are the network's input now.
    layers = tuple(replace(layer, connections=tuple(map(moved, layer.connections))) for layer in others)
    return replace(network, input_shape=first.shape, layers=layers, encoder=encoder)


def one_to_one_weight(synapse: QuantizedSynapse) -> int | None:
    """Return the weight by which each neuron receives the input of its own index; None for any other wiring."""
    match synapse:
        case QuantizedConv():
            # A 1 x 1 depthwise convolution multiplies each pixel.
            sides = (synapse.weight.shape, synapse.stride, synapse.padding)
            one_to_one, values = sides == ((synapse.groups, 1, 1, 1), (1, 1), (0, 0)), synapse.weight.ravel()
        case QuantizedSparse():
            each = np.arange(synapse.n_in)
            one_to_one = np.array_equal(synapse.sources, each) and np.array_equal(synapse.starts, np.arange(synapse.n_in + 1))
            values = synapse.weight
        case QuantizedDense():
            values = np.diagonal(synapse.weight)
            one_to_one = synapse.n_in == synapse.n_out and np.array_equal(synapse.weight, np.diag(values))
        case _:
            raise unsupported_kind(synapse)
    return int(values[0]) if one_to_one and (values == values[0]).all() else None
