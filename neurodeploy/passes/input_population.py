"""A first layer that raw input may drive by its biases: as the population that stands between input and network.

What a population that stands between raw input and the network makes of it: spikes, in the chip's integers.

Its neurons hear nobody: raw input sets their bias at every step. So currents stay at zero, and membranes are all that moves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, NetworkError, RequestError
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedConv,
    QuantizedLayer,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSynapse,
)
from neurodeploy.targets.loihi.arithmetic import BIAS_MAX, BIAS_MIN, DECAY_UNITY, MANTISSA_SHIFT, Whole, decayed, saturated

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


# -------------------- simulation.input_population


def encoder_of(network: Network | QuantizedNetwork) -> Encoder:
    """The network's input population.

    Raises
    ------
    RequestError
        It has none.
    """
    encoder = network.encoder if isinstance(network, QuantizedNetwork) else None
    if encoder is None:
        raise RequestError(
            "raw", "input needs an input population to drive, and this network has none",
            remedy="Give it an Encoder, or its first layer graded input.",
        )  # fmt: skip
    return encoder


def biases_of(encoder: Encoder, raw: NDArray[Any]) -> NDArray[np.int32]:
    """Bias mantissas that raw input sets, rounded to whole numbers: ``raw * weight + bias``.

    Raises
    ------
    DataError
        Raw input that is no numbers, or that sets biases beyond their 13 bits.
    """
    if raw.dtype.kind not in "biuf" or not np.isfinite(raw).all():
        raise DataError("raw input", "holds what is no finite number")
    biases: NDArray[np.float64] = np.rint(raw.astype(np.float64) * encoder.weight + encoder.bias)
    if not BIAS_MIN <= biases.min() <= biases.max() <= BIAS_MAX:
        raise DataError(
            "raw input", f"sets biases {biases.min():.0f}..{biases.max():.0f} beyond {BIAS_MIN}..{BIAS_MAX} (13 bits)",
            source=f"of x * {encoder.weight} + {encoder.bias}", remedy="Scale it down.",
        )  # fmt: skip
    return biases.astype(np.int32)


class InputPopulation:
    """The input population for a batch of samples, from rest.

    Parameters
    ----------
    reset_interval, reset_offset : int
        As in `neurodeploy.targets.loihi.emulator.Emulator`.
    """

    def __init__(self, encoder: Encoder, *, reset_interval: int = 0, reset_offset: int = 0) -> None:
        self.encoder, self.reset_interval, self.to_reset = encoder, reset_interval, reset_offset
        self._v: Whole | float = 0.0

    def advance(self, biases: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Spikes (batch, \\*shape, n_steps) that the next steps' bias mantissas, of the same shape, drive it to."""
        neuron, n_steps = self.encoder.neuron, biases.shape[-1]
        fired = np.zeros((len(biases), int(np.prod(biases.shape[1:-1])), n_steps), dtype=np.uint8)
        for t, bias in enumerate(np.moveaxis(biases.reshape(fired.shape), -1, 0)):
            if self.reset_interval and t % self.reset_interval == self.to_reset:
                self._v = 0.0
            v = saturated(decayed(np.broadcast_to(self._v, bias.shape), neuron.dv) + (bias << MANTISSA_SHIFT))
            fires = v > neuron.vth << MANTISSA_SHIFT
            self._v, fired[..., t] = np.where(fires, 0.0, v), fires
        if self.reset_interval:
            self.to_reset = (self.to_reset - n_steps) % self.reset_interval
        return fired.reshape(biases.shape)
