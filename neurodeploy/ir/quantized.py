"""What is to run, in the chip's integers: what is placed, written, emulated and run in Lava."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError
from neurodeploy.ir.arrays import ByValue, check_range, freeze
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.graph import LayerGraph, Population
from neurodeploy.targets.loihi.arithmetic import (
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


class _Integers:
    """What the chip's weights may be: shared by the kinds of synapse below.

    Of one sign they lie within 0..255 in magnitude; of both signs they are even and within -256..254, since the
    chip's lowest weight bit is the sign.
    """

    __slots__ = ()
    weight: NDArray[Any]
    weight_bits: int

    def _check_integers(self, dtype: type) -> None:
        name, weight = type(self).__name__, freeze(self, "weight", np.int64)
        if is_mixed(weight):
            check_range(self, "weight", MIXED_MIN, MIXED_MAX)
            if (weight & 1).any():
                raise NetworkError(f"{name}.weight", "has odd numbers among weights of both signs")
        check_range(self, "weight", -SINGLE_SIGN_MAX if weight.size and weight.max() <= 0 else MIXED_MIN, SINGLE_SIGN_MAX)
        if not max(1, width_of(weight)) <= self.weight_bits <= 9:
            raise NetworkError(f"{name}.weight_bits", f"{self.weight_bits} do not hold weights {width_of(weight)} bits wide")
        freeze(self, "weight", dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedDense(_Integers, DenseWiring):
    """All-to-all integer weights (n_out, n_in), int64.

    Attributes
    ----------
    weight_bits : int
        Width that a weight is stored in, sign included; no less than the integers need.
    """

    weight_bits: int

    def __post_init__(self) -> None:
        self._check_integers(np.int64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedSparse(_Integers, SparseWiring):
    """The synapses that exist, with integer weights (n_synapses,), int16 (there may be many)."""

    weight_bits: int

    def __post_init__(self) -> None:
        self._check_integers(np.int16)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedConv(_Integers, ConvWiring):
    """A convolution with integer weights (out_channels, in_channels / groups, rows, columns), int64."""

    weight_bits: int

    def __post_init__(self) -> None:
        self._check_integers(np.int64)
        self._check()


QuantizedNeuron: TypeAlias = "QuantizedLIF | QuantizedLI"
QuantizedSynapse: TypeAlias = "QuantizedDense | QuantizedSparse | QuantizedConv"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLayer(Population["QuantizedNeuron", "QuantizedSynapse"]):
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

    Raw input x drives it through its bias, ``bias_mantissa = x * weight + bias``, where a simulation is told that its input is
    raw; spikes that are given enter in place of its own.
    """

    neuron: QuantizedLIF
    weight: int
    bias: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedNetwork(LayerGraph[QuantizedLayer]):
    """A spiking network in the chip's integers: what is placed, written, emulated and run in Lava.

    Attributes
    ----------
    encoder : Encoder or None
        The input population, where there is one: it makes spikes of raw input; those that are given enter in its place.
    """

    encoder: Encoder | None = None
