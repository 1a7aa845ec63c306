"""Networks in integers: the graph that is placed, written to files, emulated and run on a chip.

The classes check what every integer graph must satisfy: whole numbers, shapes, signs. How wide a register is, and which weights
a synapse can hold, differs from target to target: `Target.check` of `neurodeploy.targets` checks that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, check_arguments, unsupported_kind
from neurodeploy.ir.arrays import ByValue, check_range, freeze
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.graph import LayerGraph, Population
from neurodeploy.ir.network import LI, LIF, MAX_SPIKES, Neuron, SubtractiveLIF

DEFAULT_TARGET = "loihi"
"""Target of networks that are built by hand, and of training without a profile."""
GRADED_BITS = 16
"""Width of a graded spike of sigma-delta neurons, sign included, as netx has it (hdf5.py: get_neuron_params)."""
COUNTING_ONLY = "counting only"
"""`QuantizedNetwork.target` of a network that no target runs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLIF(ByValue):
    """`LIF` in a target's registers: threshold vth, decays du and dv of current and membrane; each () or (n,), int64, >= 0.

    The target defines the meaning of a register: on Loihi, a state with decay d loses the share d / 4096 in a step.
    """

    vth: NDArray[np.int64]
    du: NDArray[np.int64]
    dv: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("vth", "du", "dv"):
            freeze(self, name, np.int64)
            check_range(self, name, 0, np.inf)  # a vth of 0 is valid: such neurons fire as soon as v is positive


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedSubtractiveLIF(ByValue):
    """`SubtractiveLIF` in a target's registers: threshold vth, above 0, decays du and dv, and max_spikes; each () or (n,), int64.

    The target defines the meaning of a register: on Xylo, a state with decay d loses x >> d in a step.
    """

    vth: NDArray[np.int64]
    du: NDArray[np.int64]
    dv: NDArray[np.int64]
    max_spikes: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, least, most in (("vth", 1, np.inf), ("du", 0, np.inf), ("dv", 0, np.inf), ("max_spikes", 1, MAX_SPIKES)):
            freeze(self, name, np.int64)
            check_range(self, name, least, most)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLI(ByValue):
    """`LI` in a target's registers: decays du and dv of current and membrane, each () or (n,), int64, >= 0."""

    du: NDArray[np.int64]
    dv: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("du", "dv"):
            freeze(self, name, np.int64)
            check_range(self, name, 0, np.inf)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedSigmaDelta(ByValue):
    """A neuron that sums the numbers it receives and sends the changes of its activation, as graded spikes (SDNN).

    With 12 fractional bits on Loihi 2: ``sigma += input``, ``a = relu(sigma + bias)``, ``d = a - (sum of all that was sent)``.
    It sends d where ``|d| >= vth``, otherwise nothing. As an `Encoder`, d is of the raw input instead.

    Attributes
    ----------
    vth : array (), int64, >= 0
    only_sums : bool
        Whether it sends sigma at every step instead: the output of a network.
    """

    vth: NDArray[np.int64]
    only_sums: bool = False

    def __post_init__(self) -> None:
        freeze(self, "vth", np.int64)
        check_range(self, "vth", 0, np.inf)
        if self.vth.shape:
            raise NetworkError("QuantizedSigmaDelta.vth", f"has shape {self.vth.shape}: a layer has one threshold")


def no_sigma_delta(where: str, why: str) -> NetworkError:
    """Return the error for sigma-delta neurons where they cannot be."""
    return NetworkError(
        where, f"has sigma-delta neurons, {why}",
        remedy="Networks of them can be inspected, deployed, simulated and verified, from .net files.",
    )  # fmt: skip


class IntegerWeights:
    """Check shared by the integer synapses below: whole numbers that fit their array, and a width of at least one bit."""

    __slots__ = ()  # without it, the slotted dataclasses below would get a __dict__ from here
    weight: NDArray[Any]
    weight_bits: int

    def _check_integers(self, dtype: type[np.signedinteger[Any]]) -> None:
        # First in 64 bits, so that a number too large for `dtype` is refused as out of range, not as no whole number.
        freeze(self, "weight", np.int64)
        check_range(self, "weight", np.iinfo(dtype).min, np.iinfo(dtype).max)
        freeze(self, "weight", dtype)
        if self.weight_bits < 1:
            raise NetworkError(f"{type(self).__name__}.weight_bits", f"{self.weight_bits} do not hold a weight")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedDense(IntegerWeights, DenseWiring):
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
class QuantizedSparse(IntegerWeights, SparseWiring):
    """The synapses that exist, with integer weights (n_synapses,), int16 (there may be many)."""

    weight_bits: int

    def __post_init__(self) -> None:
        self._check_integers(np.int16)  # enough for any weight, at a quarter of the memory
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedConv(IntegerWeights, ConvWiring):
    """A convolution with integer weights (out_channels, in_channels / groups, rows, columns), int64."""

    weight_bits: int

    def __post_init__(self) -> None:
        self._check_integers(np.int64)
        self._check()


QuantizedNeuron: TypeAlias = "QuantizedLIF | QuantizedSubtractiveLIF | QuantizedLI | QuantizedSigmaDelta"
QuantizedSynapse: TypeAlias = "QuantizedDense | QuantizedSparse | QuantizedConv"
DecayingNeuron: TypeAlias = "QuantizedLIF | QuantizedSubtractiveLIF | QuantizedLI"
"""Neurons of spikes without numbers, with a current and a membrane that decay."""


def decaying(neuron: QuantizedNeuron, where: str) -> DecayingNeuron:
    """Return the neuron of a layer where only those with decays can be; raise `NetworkError` for sigma-delta neurons."""
    match neuron:
        case QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedLI():
            return neuron
        case QuantizedSigmaDelta():
            raise no_sigma_delta(where, "whose numbers are another arithmetic")
        case _:
            raise unsupported_kind(neuron)


def sigma_delta(neuron: QuantizedNeuron, where: str) -> QuantizedSigmaDelta:
    """Return the neuron of a layer where only sigma-delta neurons can be; raise `NetworkError` for others."""
    match neuron:
        case QuantizedSigmaDelta():
            return neuron
        case QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedLI():
            raise no_sigma_delta("network", f"but {where!r} has others")
        case _:
            raise unsupported_kind(neuron)


def fires(neuron: Neuron | QuantizedNeuron) -> bool:
    """Whether neurons send spikes, with numbers or without; those that send none have a membrane that is read."""
    match neuron:
        case LIF() | SubtractiveLIF() | QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedSigmaDelta():
            return True
        case LI() | QuantizedLI():
            return False
        case _:
            raise unsupported_kind(neuron)


def is_sigma_delta(network: QuantizedNetwork) -> bool:
    """Whether a network has sigma-delta neurons."""

    def is_one(neuron: QuantizedNeuron) -> bool:
        match neuron:
            case QuantizedSigmaDelta():
                return True
            case QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedLI():
                return False
            case _:
                raise unsupported_kind(neuron)

    encoders = () if network.encoder is None else (network.encoder.neuron,)
    return any(is_one(neuron) for neuron in (*encoders, *(layer.neuron for layer in network)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLayer(Population["QuantizedNeuron", "QuantizedSynapse"]):
    """A layer of neurons in integers, and the connections into it.

    Attributes
    ----------
    bias : array () or (n,), int64
        Added to the membrane at every step, in weight units.
    scale : array () or (n,), float64
        Weight units in one unit of the float network's membrane; 0 where it is unknown (a foreign file). On Loihi, which
        shifts weights left by six bits, v_chip = 64 * scale * v_float.
    """

    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        freeze(self, "bias", np.int64)
        freeze(self, "scale", np.float64)
        if self.scale.shape not in ((), (self.n_neurons,)) or (self.scale < 0).any():
            raise NetworkError(f"layer {self.name!r}", "needs a scale of at least zero, one or one a neuron")
        self._check()

    @property
    def weight_bits(self) -> int:
        """Widest of the layer's connections."""
        return max(c.synapse.weight_bits for c in self.connections)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder(ByValue):
    """A population of neurons between raw input and the first layer: it turns numbers into spikes (a netx ``input`` layer).

    A simulation with raw input x sets its bias at every step, ``bias = x * weight + bias``. A simulation with spikes as input
    leaves it out: the spikes take the place of its own. Sigma-delta neurons encode the changes of ``x * weight + bias``.
    """

    neuron: QuantizedLIF | QuantizedSigmaDelta
    weight: int
    bias: int


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedNetwork(LayerGraph[QuantizedLayer]):
    """A spiking network in the integers of one target: what is placed, written, emulated and run on its chip.

    Attributes
    ----------
    encoder : Encoder or None
        The population that makes spikes of raw input, where there is one.
    target : str
        Name of the target whose arithmetic the integers are for (`neurodeploy.targets`); `COUNTING_ONLY` where no target is
        known: such a network is counted and placed, but neither written nor emulated.
    notes : tuple of str
        Sentences about what the file that it was read from leaves to others; not part of its value.
    """

    encoder: Encoder | None = None
    target: str = DEFAULT_TARGET
    notes: tuple[str, ...] = field(default=(), compare=False)
