"""Spiking network with float weights: neuron kinds, synapse kinds, layers.

`neurodeploy.ir.quantized` has the same network in a chip's integers. Both follow the chip's recurrence. With a the sum of the
weights of the step's input spikes::

    u <- (1 - current_decay) u + a
    v <- (1 - voltage_decay) v + u + bias
    LIF: a neuron fires where v > threshold, and v <- 0 there
    SubtractiveLIF: a neuron fires n = min(floor(max(v, 0) / threshold), max_spikes) spikes, and v <- v - n threshold
    LI: a neuron never fires; its v is the output
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, check_arguments, unsupported_kind
from neurodeploy.ir.arrays import ByValue, Floats, Integers, check_range, freeze
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, Pair, SparseWiring, convolve_kernels
from neurodeploy.ir.graph import Connection, LayerGraph, Population

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_SPIKES = 255
"""Most spikes of a neuron in a step: records hold them in bytes."""


def check_threshold(neuron: LIF | SubtractiveLIF) -> None:
    """Raise `NetworkError` for a threshold that is not above 0."""
    if not (neuron.threshold > 0).all():
        raise NetworkError(
            f"{type(neuron).__name__}.threshold", f"{neuron.threshold.min()} is not above the reset potential",
            remedy="A neuron at rest would fire at every step; raise v_th above v_reset.",
        )  # fmt: skip


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LIF(ByValue):
    """Leaky integrate-and-fire neurons with a synaptic current, reset to zero.

    Attributes
    ----------
    threshold : array () or (n,)
        Above 0; a neuron fires if v is strictly above it.
    current_decay, voltage_decay : array () or (n,)
        Share lost in a step, 0..1: 1 for a current that lasts one step (LIFBox), 0 for a membrane without leak (IAF).
    rest : array () or (n,)
        Offset of the model's membrane potential: it is v + rest. The recurrence does not use it; outputs do.
    """

    # Lava and Norse fire at v > threshold; lava-dl's slayer trains with v >= threshold.
    threshold: NDArray[np.float64]
    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("threshold", "current_decay", "voltage_decay", "rest"):
            freeze(self, name, np.float64)
        check_range(self, "current_decay", 0.0, 1.0)
        check_range(self, "voltage_decay", 0.0, 1.0)
        check_threshold(self)


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubtractiveLIF(ByValue):
    """Leaky integrate-and-fire neurons whose membrane falls by the threshold with each spike; several spikes a step.

    Attributes
    ----------
    threshold : array () or (n,)
        Above 0; a neuron fires once for each whole threshold in v, v = threshold included.
    current_decay, voltage_decay, rest : array () or (n,)
        As in `LIF`; what is left of v after its spikes decays on.
    max_spikes : array () or (n,), int64
        Most spikes of a neuron in a step, 1..255 (records are bytes); 1 for neurons that fire or do not.
    """

    threshold: NDArray[np.float64]
    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]
    max_spikes: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("threshold", "current_decay", "voltage_decay", "rest"):
            freeze(self, name, np.float64)
        freeze(self, "max_spikes", np.int64)
        check_range(self, "current_decay", 0.0, 1.0)
        check_range(self, "voltage_decay", 0.0, 1.0)
        check_range(self, "max_spikes", 1, MAX_SPIKES)
        check_threshold(self)


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LI(ByValue):
    """Leaky integrators: they never fire, and their membrane potential is the output.

    Attributes
    ----------
    current_decay, voltage_decay, rest : array () or (n,)
        As in `LIF`.
    """

    current_decay: NDArray[np.float64]
    voltage_decay: NDArray[np.float64]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("current_decay", "voltage_decay", "rest"):
            freeze(self, name, np.float64)
        check_range(self, "current_decay", 0.0, 1.0)
        check_range(self, "voltage_decay", 0.0, 1.0)


# Norse multiplies the current by dt * tau_mem_inv on its way to v. Frontends fold that factor into the weights, which is why
# they are in units of v.
@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense(DenseWiring):
    """Dense connectivity with float64 weights (n_out, n_in): what a spike adds to u, in units of v. Zeros are no synapses."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sparse(SparseWiring):
    """Sparse connectivity with float64 weights (n_synapses,), in units of v."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv(ConvWiring):
    """Convolution with float64 weights (out_channels, in_channels / groups, rows, columns), in units of v."""

    def __post_init__(self) -> None:
        freeze(self, "weight", np.float64)
        self._check()


Neuron: TypeAlias = "LIF | SubtractiveLIF | LI"
Synapse: TypeAlias = "Dense | Sparse | Conv"


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer(Population["Neuron", "Synapse"]):
    """A layer with float parameters; attributes as in `Population`.

    Attributes
    ----------
    neuron : LIF | SubtractiveLIF | LI
    connections : tuple of Connection
        Into this layer, at least one.
    bias : array () or (n,), float64
        Added to v at every step.
    """

    def __post_init__(self) -> None:
        freeze(self, "bias", np.float64)
        self._check()


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network(LayerGraph[Layer]):
    """A spiking network with float weights.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of the spikes of one step, without batch and time.
    layers : tuple of Layer
        In topological order: each receives spikes from `INPUT`, from layers before it, or from itself (recurrence).
    timestep_s : float
        Length of a step, in seconds; above 0.
    notes : tuple of str
        Sentences about what the file that it was read from does not tell; not part of its value.
    """

    timestep_s: float
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        # Not super(): slots=True replaces the class, and super() without arguments still refers to the one before.
        LayerGraph.__post_init__(self)
        # False for NaN as well.
        if not 0 < self.timestep_s < np.inf:
            raise NetworkError("network", f"has a timestep of {self.timestep_s} s")


def as_sparse(matrix: csr_matrix) -> Sparse:
    """Synapses of a SciPy matrix (n_out, n_in), which is changed: its entries are sorted, and zeros, which are none, left out."""
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return Sparse(n_in=matrix.shape[1], starts=matrix.indptr, sources=matrix.indices, weight=matrix.data)


def scale_targets(synapse: Synapse, factors: Floats) -> Synapse:
    """Weights onto each neuron times its factor, () or (n_out,); listed one by one where the neurons of a channel differ."""
    if isinstance(synapse, Conv) and not synapse.is_per_channel(factors):
        synapse = as_sparse(synapse.csr())
    return replace(synapse, weight=synapse.weight * synapse.per_weight(factors))


def scale_inputs(conv: Conv | None, gain: Floats) -> Conv | None:
    """Return a convolution of inputs that are scaled by `gain`, () or (n_in,); None where the gain differs within a channel."""
    if conv is None or (gain == 1).all():
        return conv
    if not gain.shape:
        return replace(conv, weight=conv.weight * gain)
    channels = gain.reshape(conv.input_shape[0], -1)
    if (channels != channels[:, :1]).any():
        return None
    f, c = conv.weight.shape[:2]
    # Filter f sees the channels of its group.
    per_group = np.repeat(channels[:, 0].reshape(conv.groups, c), f // conv.groups, axis=0)
    return replace(conv, weight=conv.weight * per_group[:, :, None, None])


def average_window(image: tuple[int, int, int], kernel: Pair, stride: Pair, padding: Pair, share: float) -> Conv:
    """Return average pooling as a depthwise convolution with the weight `share` everywhere."""
    weight = np.full((image[0], 1, *kernel), share)
    return Conv(weight=weight, input_shape=image, stride=stride, padding=padding, groups=image[0])


def conv_then_pool(conv: Synapse, pool: Conv) -> Conv | None:
    """Fold a convolution and the average pooling behind it into one convolution; None where no single window does the same."""
    if not isinstance(conv, Conv) or conv.output_shape != pool.input_shape:
        return None
    # Pools have one kernel for all.
    weight = convolve_kernels(conv.weight, pool.weight[0, 0], conv.dilation, tap_step=conv.stride)
    return _compose(conv, pool, weight, conv.groups)


def pool_then_conv(pool: Conv, conv: Conv) -> Conv | None:
    """Fold average pooling and the convolution behind it into one convolution; None where no single window does the same."""
    # Taps of the convolution, in pixels of the pool's input.
    step = (conv.dilation[0] * pool.stride[0], conv.dilation[1] * pool.stride[1])
    return _compose(pool, conv, convolve_kernels(conv.weight, pool.weight[0, 0], step), conv.groups)


def pool_then_matrix(pool: Conv, matrix: Floats) -> Floats:
    """Fold average pooling and the matrix behind it into one matrix (n_out, pixels): windows share their weight among pixels."""
    (c, rows, columns), (_, height, width) = pool.output_shape, pool.input_shape
    (p, q), (y, x), (k, m) = pool.padding, pool.stride, pool.weight.shape[2:]
    # The padded image, or more where the last window reaches beyond it.
    pixels = np.zeros((len(matrix), c, max(height + 2 * p, (rows - 1) * y + k), max(width + 2 * q, (columns - 1) * x + m)))
    weights = matrix.reshape(len(matrix), c, rows, columns)
    for i, j in np.ndindex(k, m):
        pixels[:, :, i : i + (rows - 1) * y + 1 : y, j : j + (columns - 1) * x + 1 : x] += weights * pool.weight[0, 0, i, j]
    return pixels[:, :, p : p + height, q : q + width].reshape(len(matrix), -1)


def _compose(first: Conv, second: Conv, weight: Floats, groups: int) -> Conv | None:
    """Return the geometry of two windows as one, with the weights that `convolve_kernels` found; None where there is none."""
    # A zero of `second` is a stride of `first` wide.
    padding = [p + q * s for p, q, s in zip(first.padding, second.padding, first.stride, strict=True)]
    for axis in (0, 1):
        stride, window = first.stride[axis], first.dilation[axis] * (first.weight.shape[2 + axis] - 1) + 1
        # The zeros that `second` pads must be what `first` would give further outside, where it sees nothing but padding.
        outside_before = window <= stride + first.padding[axis]
        outside_after = first.output_shape[1 + axis] * stride - first.padding[axis] >= first.input_shape[1 + axis]
        if second.padding[axis] and not (outside_before and outside_after):
            return None
    strides = (first.stride[0] * second.stride[0], first.stride[1] * second.stride[1])
    return Conv(weight=weight, input_shape=first.input_shape, padding=(padding[0], padding[1]), groups=groups, stride=strides)


def threshold_of(neuron: Neuron) -> Floats | None:
    """Threshold above the reset potential; None for neurons that never fire."""
    match neuron:
        case LIF(threshold=threshold) | SubtractiveLIF(threshold=threshold):
            return threshold
        case LI():
            return None
        case _:
            raise unsupported_kind(neuron)


def reset_of(neuron: Neuron) -> str:
    """Return what a spike does to the membrane: ``"to zero"``, ``"by subtraction"``; empty for neurons that never fire."""
    match neuron:
        case LIF():
            return "to zero"
        case SubtractiveLIF():
            return "by subtraction"
        case LI():
            return ""
        case _:
            raise unsupported_kind(neuron)


def max_spikes_of(neuron: Neuron) -> Integers:
    """Return the most spikes of a neuron in a step, () or (n,): 0 for neurons that never fire."""
    match neuron:
        case LIF():
            return np.array(1)
        case SubtractiveLIF(max_spikes=max_spikes):
            return max_spikes
        case LI():
            return np.array(0)
        case _:
            raise unsupported_kind(neuron)


def wiring_of(connection: Connection[Synapse]) -> tuple[object, ...]:
    """What tells the connections into a layer apart, whatever their weights are."""
    synapse = connection.synapse
    # a list may leave out synapses of zero
    shape = () if isinstance(synapse, Sparse) else synapse.weight.shape
    return connection.source, connection.delay_steps, connection.is_fixed, type(synapse), shape


def by_wiring(connections: Iterable[Connection[Synapse]]) -> dict[tuple[object, ...], list[Synapse]]:
    """Synapses of connections by `wiring_of`, in their order where several have the same."""
    found: dict[tuple[object, ...], list[Synapse]] = {}
    for connection in connections:
        found.setdefault(wiring_of(connection), []).append(connection.synapse)
    return found


def nearly_equal(one: Network, other: Network) -> bool:
    """Whether the layers of two networks are the same to single precision; a connection of zeros is none."""
    # a neuron that brings biases may be in one of them alone
    if [layer.name for layer in one if layer.n_neurons > 1] != [layer.name for layer in other if layer.n_neurons > 1]:
        return False
    of_other = {layer.name: layer for layer in other}
    return all(_nearly_equal(layer, of_other[layer.name]) for layer in one if layer.name in of_other)


def _nearly_equal(one: Layer, other: Layer) -> bool:
    numbers = [(one.bias, other.bias), *((getattr(one.neuron, name), getattr(other.neuron, name)) for name in _DECAYS)]
    if not all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in numbers):
        return False
    first, second = by_wiring(one.connections), by_wiring(other.connections)
    for wiring in {*first, *second}:
        for pair in zip_longest(first.get(wiring, ()), second.get(wiring, ())):
            weights = [s.matrix() if isinstance(s, Sparse) else s.weight for s in pair if s is not None]
            a, b = weights if len(weights) == 2 else (weights[0], np.zeros_like(weights[0]))
            atol = 1e-6 * max(float(np.abs(a).max(initial=0.0)), 1e-9)
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-4, atol=atol):
                return False
    return True


_DECAYS = ("current_decay", "voltage_decay")
