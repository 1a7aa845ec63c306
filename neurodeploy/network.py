"""What is to run: layers of neurons and the connections into them, in floats (`Network`) and in the chip's integers.

Both kinds follow one recurrence, the chip's. With a the weighted input spikes of the step::

    u <- (1 - current_decay) u + a
    v <- (1 - voltage_decay) v + u + bias
    an LIF fires where v > threshold, and v <- 0 there; an LI never fires and is read

Nouns with arrays compare by value (`==` on every field, arrays by type, shape and content), do not hash, and
keep their arrays read-only. A noun that exists is legal: it checks itself when it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeAlias, TypeVar

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

INPUT = "input"
"""The name by which connections call the network's input."""


def layer_name(module_path: str) -> str:
    """What the layer of a torch module is called: its dotted path, ``"layer3"`` for a path that is only the number 3."""
    return f"layer{module_path}" if module_path.isdigit() else module_path


class _ByValue:
    """`==` for dataclasses that hold arrays: same type, equal fields, arrays equal in dtype, shape and content."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # equal content may still be large: not for dictionary keys

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return bool(a == b)


def _freeze(noun: Any, name: str, dtype: type) -> NDArray[Any]:
    """Replace a field by a read-only copy of its array, in the dtype that the noun promises."""
    given = np.asarray(getattr(noun, name))
    where = f"{type(noun).__name__}.{name}"
    if given.dtype.kind not in "biuf":
        raise NetworkError(where, f"holds {given.dtype}, not numbers")
    if not np.isfinite(given).all():
        raise NetworkError(where, "is not finite")
    with np.errstate(invalid="ignore"):
        array: NDArray[Any] = given.astype(dtype)
    if not np.array_equal(array, given):
        raise NetworkError(where, "is not whole numbers")
    array.flags.writeable = False
    object.__setattr__(noun, name, array)
    return array


def _check_range(noun: Any, name: str, low: float, high: float) -> None:
    array = getattr(noun, name)
    if array.size and (array.min() < low or array.max() > high):
        worst = array.min() if array.min() < low else array.max()
        raise NetworkError(f"{type(noun).__name__}.{name}", f"{worst} is outside {low}..{high}")


# ---------------------------------------------------------------------------------------------- floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LIF(_ByValue):
    """Leaky integrate-and-fire with a current, reset to zero; floats, each a scalar or one value a neuron.

    Attributes
    ----------
    threshold : array () or (n,)
        Above zero; the neuron fires strictly above it.
    current_decay, voltage_decay : array () or (n,)
        Share forgotten in a step, 0..1; 1 for a current that lasts one step (LIFBox), 0 for a membrane without leak (IAF).
    rest : array () or (n,)
        What the model's own membrane potential is more than v: 0 here is `rest` there.
    """

    threshold: NDArray[np.float64]
    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("threshold", "current_decay", "voltage_decay", "rest"):
            _freeze(self, name, np.float64)
        _check_range(self, "current_decay", 0.0, 1.0)
        _check_range(self, "voltage_decay", 0.0, 1.0)
        if not (self.threshold > 0).all():
            raise NetworkError(
                "LIF.threshold", f"{self.threshold.min()} is not above the reset potential",
                remedy="A neuron at rest would fire at every step; raise v_th above v_reset.",
            )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LI(_ByValue):
    """Leaky integrator: an LIF that never fires and whose membrane is read."""

    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("current_decay", "voltage_decay", "rest"):
            _freeze(self, name, np.float64)
        _check_range(self, "current_decay", 0.0, 1.0)
        _check_range(self, "voltage_decay", 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense(_ByValue):
    """All-to-all weights (n_out, n_in), float64, in units of v a spike; a zero is a synapse that does not exist."""

    weight: NDArray[np.float64]

    def __post_init__(self) -> None:
        if _freeze(self, "weight", np.float64).ndim != 2:
            raise NetworkError("Dense.weight", f"has shape {self.weight.shape}, not (n_out, n_in)")


# ---------------------------------------------------------------------------------------------- integers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLIF(_ByValue):
    """`LIF` in the chip's registers: mantissa vth in 0..2**17-1, decays du and dv in 0..4096; each () or (n,), int64."""

    vth: NDArray[np.int64]
    du: NDArray[np.int64]
    dv: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("vth", "du", "dv"):
            _freeze(self, name, np.int64)
        _check_range(self, "vth", 0, THRESHOLD_MAX)
        _check_range(self, "du", 0, DECAY_UNITY)
        _check_range(self, "dv", 0, DECAY_UNITY)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLI(_ByValue):
    """`LI` in the chip's registers: decays du and dv in 0..4096, each () or (n,), int64."""

    du: NDArray[np.int64]
    dv: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("du", "dv"):
            _freeze(self, name, np.int64)
        _check_range(self, "du", 0, DECAY_UNITY)
        _check_range(self, "dv", 0, DECAY_UNITY)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedDense(_ByValue):
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
        weight = _freeze(self, "weight", np.int64)
        if weight.ndim != 2:
            raise NetworkError("QuantizedDense.weight", f"has shape {weight.shape}, not (n_out, n_in)")
        if is_mixed(weight):
            _check_range(self, "weight", MIXED_MIN, MIXED_MAX)
            if (weight & 1).any():
                raise NetworkError("QuantizedDense.weight", "has odd numbers among weights of both signs")
        _check_range(self, "weight", -SINGLE_SIGN_MAX if weight.size and weight.max() <= 0 else MIXED_MIN, SINGLE_SIGN_MAX)
        if not max(1, width_of(weight)) <= self.weight_bits <= 9:
            raise NetworkError(
                "QuantizedDense.weight_bits", f"{self.weight_bits} do not hold weights {width_of(weight)} bits wide"
            )


# ---------------------------------------------------------------------------------------------- layers

Neuron: TypeAlias = "LIF | LI"
Synapse: TypeAlias = "Dense"
QuantizedNeuron: TypeAlias = "QuantizedLIF | QuantizedLI"
QuantizedSynapse: TypeAlias = "QuantizedDense"

S = TypeVar("S", Dense, QuantizedDense)
N = TypeVar("N", "LIF | LI", "QuantizedLIF | QuantizedLI")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connection(_ByValue, Generic[S]):
    """Synapses from one population into the layer that holds this connection.

    Attributes
    ----------
    source : str
        Name of the layer that the spikes come from, or `INPUT`.
    synapse : Dense | QuantizedDense
    delay_steps : int
        Synaptic delay beyond the one step that every synapse takes on the chip; 0 today.
    """

    source: str
    synapse: S
    delay_steps: int = 0

    def __post_init__(self) -> None:
        if self.delay_steps != 0:
            raise NetworkError(f"connection from {self.source!r}", f"has a delay of {self.delay_steps} steps: not supported yet")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer(_ByValue, Generic[N, S]):
    """A population of neurons and the connections into it; `Layer` in floats, `QuantizedLayer` in integers."""

    name: str
    shape: tuple[int, ...]
    neuron: N
    connections: tuple[Connection[S], ...]
    bias: NDArray[Any]

    @property
    def n_neurons(self) -> int:
        return int(np.prod(self.shape))

    @property
    def weight(self) -> NDArray[Any]:
        """The matrix (n_neurons, n_in) of a layer with a single connection."""
        if len(self.connections) != 1:
            raise NetworkError(f"layer {self.name!r}", f"has {len(self.connections)} connections, not one matrix")
        return self.connections[0].synapse.weight

    @property
    def n_synapses(self) -> int:
        return sum(int(np.count_nonzero(c.synapse.weight)) for c in self.connections)

    @property
    def connectivity(self) -> float:
        """Share of the weights that are not zero, 0..1."""
        return self.n_synapses / sum(c.synapse.weight.size for c in self.connections)

    def _check(self) -> None:
        if not self.name or self.name == INPUT or "/" in self.name:
            raise NetworkError(f"layer {self.name!r}", "needs a name of its own, without a slash")
        if not self.shape or any(side < 1 for side in self.shape):
            raise NetworkError(f"layer {self.name!r}", f"has shape {self.shape}: every side must be at least 1")
        if not self.connections:
            raise NetworkError(f"layer {self.name!r}", "has no connection into it")
        per_neuron = {"bias": self.bias} | {f.name: getattr(self.neuron, f.name) for f in fields(self.neuron)}
        for name, array in per_neuron.items():
            if array.shape not in ((), (self.n_neurons,)):
                raise NetworkError(f"layer {self.name!r}", f"{name} has shape {array.shape}, not () or ({self.n_neurons},)")
        for connection in self.connections:
            rows = connection.synapse.weight.shape[0]
            if rows != self.n_neurons:
                raise NetworkError(f"layer {self.name!r}", f"has {self.n_neurons} neurons but weights for {rows}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer(_Layer["LIF | LI", Dense]):
    """A population in floats.

    Attributes
    ----------
    name : str
        Unique in its network; not ``"input"``.
    shape : tuple of int
    neuron : LIF | LI
    connections : tuple of Connection
        At least one.
    bias : array () or (n,), float64
        Added to v at every step.
    """

    def __post_init__(self) -> None:
        _freeze(self, "bias", np.float64)
        self._check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLayer(_Layer["QuantizedLIF | QuantizedLI", QuantizedDense]):
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
        _freeze(self, "bias", np.int64)
        _freeze(self, "scale", np.float64)
        _check_range(self, "bias", BIAS_MIN, BIAS_MAX)
        if self.scale.shape not in ((), (self.n_neurons,)) or (self.scale < 0).any():
            raise NetworkError(f"layer {self.name!r}", "needs a scale of at least zero, one or one a neuron")
        self._check()

    @property
    def weight_bits(self) -> int:
        """Widest of the layer's connections."""
        return max(c.synapse.weight_bits for c in self.connections)


L = TypeVar("L", Layer, QuantizedLayer)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Network(_ByValue, Generic[L]):
    """Layers in the order in which spikes pass them."""

    input_shape: tuple[int, ...]
    layers: tuple[L, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise NetworkError("network", "has no layer")
        if not self.input_shape or any(side < 1 for side in self.input_shape):
            raise NetworkError("network", f"has input shape {self.input_shape}: every side must be at least 1")
        sizes = {INPUT: self.n_inputs}
        for layer in self.layers:
            if layer.name in sizes:
                raise NetworkError(f"layer {layer.name!r}", "stands twice in the network")
            previous = next(reversed(sizes))
            for connection in layer.connections:
                if connection.source != previous or len(layer.connections) > 1:
                    raise NetworkError(
                        f"layer {layer.name!r}", f"takes spikes from {connection.source!r}, not only from {previous!r}",
                        remedy="Only chains are supported yet: no skips, no recurrence.",
                    )  # fmt: skip
                n_in = connection.synapse.weight.shape[1]
                if n_in != sizes[connection.source]:
                    raise NetworkError(
                        f"layer {layer.name!r}",
                        f"expects {n_in} inputs, but {connection.source!r} has {sizes[connection.source]}",
                    )
            sizes[layer.name] = layer.n_neurons

    @property
    def n_inputs(self) -> int:
        return int(np.prod(self.input_shape))

    @property
    def n_neurons(self) -> int:
        return sum(layer.n_neurons for layer in self.layers)

    @property
    def n_synapses(self) -> int:
        return sum(layer.n_synapses for layer in self.layers)

    @property
    def output(self) -> L:
        """The last layer."""
        return self.layers[-1]

    @property
    def connectivity(self) -> float:
        """Share of all weights that are not zero, 0..1."""
        return self.n_synapses / sum(c.synapse.weight.size for layer in self.layers for c in layer.connections)

    def __iter__(self) -> Iterator[L]:
        return iter(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network(_Network[Layer]):
    """A spiking network in floats.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of the spikes of one step, without batch and time.
    layers : tuple of Layer
        A chain: each layer takes its spikes from the one before, the first from `INPUT`.
    timestep_s : float
        Length of a step, in seconds.
    """

    timestep_s: float

    def __post_init__(self) -> None:
        _Network.__post_init__(self)
        if not 0 < self.timestep_s < np.inf:
            raise NetworkError("network", f"has a timestep of {self.timestep_s} s")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder(_ByValue):
    """A spiking population that stands between a file's raw input and the first layer (a netx ``input`` layer).

    Raw input x drives it through its bias: ``bias_mantissa = x * weight + bias``. Simulations here begin with
    the spikes, so they enter in place of this population's own.
    """

    neuron: QuantizedLIF
    weight: int
    bias: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedNetwork(_Network[QuantizedLayer]):
    """A spiking network in the chip's integers: what is placed, written, emulated and run in Lava.

    Attributes
    ----------
    encoder : Encoder or None
        The input population of a file that has one; spikes enter in its place.
    """

    encoder: Encoder | None = None
