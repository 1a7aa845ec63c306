"""What a population that stands between raw input and the network makes of it: spikes, in the chip's integers.

Its neurons hear nobody: raw input sets their bias at every step. So currents stay at zero, and membranes are all that moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.fixedpoint import BIAS_MAX, BIAS_MIN, MANTISSA_SHIFT, Whole, decayed, saturated
from neurodeploy.network import Network
from neurodeploy.quantized import Encoder, QuantizedNetwork


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
        As in `neurodeploy.simulation.emulator.Emulator`.
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
