"""What is to run, in the chip's integers: what is placed, written, emulated and run in Lava."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError
from neurodeploy.fixedpoint import (
    BIAS_MAX,
    BIAS_MIN,
    DECAY_UNITY,
    MIXED_MAX,
    MIXED_MIN,
    SINGLE_SIGN_MAX,
    THRESHOLD_MAX,
    is_mixed,
    width_of,
)
from neurodeploy.network import Chain, Population
from neurodeploy.nouns import ByValue, check_range, freeze


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLIF(ByValue):
    """`LIF` in the chip's registers: mantissa vth in 0..2**17-1, decays du and dv in 0..4096; each () or (n,), int64."""

    vth: NDArray[np.int64]
    du: NDArray[np.int64]
    dv: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("vth", "du", "dv"):
            freeze(self, name, np.int64)
        check_range(self, "vth", 0, THRESHOLD_MAX)
        check_range(self, "du", 0, DECAY_UNITY)
        check_range(self, "dv", 0, DECAY_UNITY)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLI(ByValue):
    """`LI` in the chip's registers: decays du and dv in 0..4096, each () or (n,), int64."""

    du: NDArray[np.int64]
    dv: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("du", "dv"):
            freeze(self, name, np.int64)
        check_range(self, "du", 0, DECAY_UNITY)
        check_range(self, "dv", 0, DECAY_UNITY)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedDense(ByValue):
    """All-to-all integer weights (n_out, n_in), int64.

    Of one sign they lie within 0..255 in magnitude; of both signs they are even and within -256..254, since the
    chip's lowest weight bit is the sign.

    Attributes
    ----------
    weight_bits : int
        Width that a weight is stored in, sign included; no less than the integers need.
    """

    weight: NDArray[np.int64]
    weight_bits: int

    def __post_init__(self) -> None:
        weight = freeze(self, "weight", np.int64)
        if weight.ndim != 2:
            raise NetworkError("QuantizedDense.weight", f"has shape {weight.shape}, not (n_out, n_in)")
        if is_mixed(weight):
            check_range(self, "weight", MIXED_MIN, MIXED_MAX)
            if (weight & 1).any():
                raise NetworkError("QuantizedDense.weight", "has odd numbers among weights of both signs")
        check_range(self, "weight", -SINGLE_SIGN_MAX if weight.size and weight.max() <= 0 else MIXED_MIN, SINGLE_SIGN_MAX)
        if not max(1, width_of(weight)) <= self.weight_bits <= 9:
            raise NetworkError(
                "QuantizedDense.weight_bits", f"{self.weight_bits} do not hold weights {width_of(weight)} bits wide"
            )


QuantizedNeuron: TypeAlias = "QuantizedLIF | QuantizedLI"
QuantizedSynapse: TypeAlias = "QuantizedDense"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLayer(Population["QuantizedLIF | QuantizedLI", QuantizedDense]):
    """A population in the chip's integers.

    Attributes
    ----------
    bias : array () or (n,), int64
        Mantissa in -4096..4095, shifted left by six bits and added to v at every step.
    scale : array () or (n,), float64
        What one float unit of v is in weight units: v_chip = 64 * scale * v_float. 0 where nobody knows (a foreign file).
    """

    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        freeze(self, "bias", np.int64)
        freeze(self, "scale", np.float64)
        check_range(self, "bias", BIAS_MIN, BIAS_MAX)
        if self.scale.shape not in ((), (self.n_neurons,)) or (self.scale < 0).any():
            raise NetworkError(f"layer {self.name!r}", "needs a scale of at least zero, one or one a neuron")
        self._check()

    @property
    def weight_bits(self) -> int:
        """Widest of the layer's connections."""
        return max(c.synapse.weight_bits for c in self.connections)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder(ByValue):
    """A spiking population that stands between a file's raw input and the first layer (a netx ``input`` layer).

    Raw input x drives it through its bias: ``bias_mantissa = x * weight + bias``. Simulations here begin with
    the spikes, so they enter in place of this population's own.
    """

    neuron: QuantizedLIF
    weight: int
    bias: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedNetwork(Chain[QuantizedLayer]):
    """A spiking network in the chip's integers: what is placed, written, emulated and run in Lava.

    Attributes
    ----------
    encoder : Encoder or None
        The input population of a file that has one; spikes enter in its place.
    """

    encoder: Encoder | None = None
