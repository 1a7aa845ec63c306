"""Floats to the chip's integers, and back.

What rounding to the chip's integers cost a network: errors, synapses lost, states that can overflow, layers gone silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import QuantizeError, unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Neuron, Sparse, Synapse
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSparse,
    QuantizedSynapse,
)
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS
from neurodeploy.targets.loihi.arithmetic import (
    BIAS_MAX,
    BIAS_MIN,
    DECAY_UNITY,
    MANTISSA_SHIFT,
    STATE_MAX,
    THRESHOLD_MAX,
    as_lava_reads,
)

if TYPE_CHECKING:
    import torch  # the training loss rounds tensors; a network that is only quantised needs no torch

Weights = TypeVar("Weights", NDArray[np.float64], "torch.Tensor")

# -------------------- quantization

_REGISTERS = "Loihi register widths, lava-nc 0.10 proc/lif/models.py"


def quantize(
    network: Network, profile: HardwareProfile, *, bits: int | Mapping[str, int] = DEFAULT_WEIGHT_BITS
) -> QuantizedNetwork:
    """Round a network to the chip's integers, each layer on a scale of its own, which all connections into it share.

    The largest weight of a layer takes the largest integer of its width; threshold and bias follow on the same scale,
    unless they would leave their registers: then the scale gives way. Connections with weights of both signs get even numbers
    of at most 2 * (2**(bits - 1) - 1), those of one sign numbers of at most 2**bits - 1. Thresholds that differ from
    neuron to neuron are brought to one by scaling each neuron's weights and bias, which changes no spike; they stay as they
    are where a convolution has the same weights for them. Decays become multiples of 1/4096.

    Parameters
    ----------
    bits : int or mapping of layer name to int
        Width of a weight, sign included: 2..8, and one that the chip has.

    Raises
    ------
    QuantizeError
        A width that the chip does not have, or a threshold or bias that its registers cannot hold on any scale.
    """
    widths = {layer.name: _width(layer.name, bits, profile) for layer in network}
    layers = tuple(_quantized(layer, widths[layer.name]) for layer in network)
    return QuantizedNetwork(input_shape=network.input_shape, layers=layers)


def _width(name: str, bits: int | Mapping[str, int], profile: HardwareProfile) -> int:
    asked = bits.get(name, DEFAULT_WEIGHT_BITS) if isinstance(bits, Mapping) else bits
    choices = [width for width in profile["weight_bits"].choices if 2 <= width <= 8]
    if asked not in choices:
        raise QuantizeError(
            f"layer {name!r}", f"weights of {asked} bits do not exist on {profile.name}", source=profile["weight_bits"].where,
            remedy=f"Choose from {', '.join(map(str, choices))}.",
        )  # fmt: skip
    return asked


def _quantized(layer: Layer, width: int) -> QuantizedLayer:
    factor, threshold = _brought_to_one_threshold(layer)
    weights = [c.synapse.weight * c.synapse.per_weight(factor) for c in layer.connections]
    bias = layer.bias * factor
    scale = _scale(weights, bias, threshold, width)
    integers = [_rounded(weight, scale) for weight in weights]
    match [c.synapse for c in layer.connections]:
        case [Dense()]:  # what Lava reads from a file as a matrix
            scale, integers[0] = _avoid_misreading(weights[0], scale, integers[0])
    _check_threshold(layer, threshold, scale, [*weights, bias])
    du = _integer(layer.neuron.current_decay * DECAY_UNITY)
    dv = _integer(layer.neuron.voltage_decay * DECAY_UNITY)
    neuron: QuantizedNeuron
    match layer.neuron:
        case LIF():
            assert threshold is not None
            neuron = QuantizedLIF(vth=threshold_mantissa(threshold, scale), du=du, dv=dv)
        case LI():
            neuron = QuantizedLI(du=du, dv=dv)
        case _:
            raise unsupported_kind(layer.neuron)
    return QuantizedLayer(
        name=layer.name,
        shape=layer.shape,
        neuron=neuron,
        connections=tuple(_in_integers(c, weight, width) for c, weight in zip(layer.connections, integers, strict=True)),
        bias=_integer(bias * scale),
        scale=np.asarray(scale * factor),
    )


def _brought_to_one_threshold(layer: Layer) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """What scales each neuron's weights and bias, and the thresholds then: one, where convolutions have weights for each."""
    match layer.neuron:
        case LI():
            return np.ones(()), None
        case LIF(threshold=thresholds):
            pass
        case _:
            raise unsupported_kind(layer.neuron)
    by_channel = np.broadcast_to(thresholds, layer.n_neurons).reshape(layer.shape[0], -1)
    if any(is_convolution(c.synapse) for c in layer.connections) and (by_channel != by_channel[:, :1]).any():
        return np.ones(()), thresholds
    return thresholds.max() / thresholds, thresholds.max()


def _check_threshold(
    layer: Layer, threshold: NDArray[np.float64] | None, scale: float, beside: list[NDArray[np.float64]]
) -> None:
    if threshold is None or round(float(threshold.min()) * scale) >= 1:
        return
    largest = max(np.abs(numbers).max(initial=0.0) for numbers in beside)
    raise QuantizeError(
        f"layer {layer.name!r}", f"its threshold {threshold.min():.3g} is lost beside weights or biases of up to {largest:.3g}",
        source=_REGISTERS, remedy="Bring its weights and thresholds nearer to each other.",
    )  # fmt: skip


def quantized_kind(synapse: Synapse) -> Any:
    """Return the class that holds the same wiring with integer weights."""
    match synapse:
        case Dense():
            return QuantizedDense
        case Sparse():
            return QuantizedSparse
        case Conv():
            return QuantizedConv
        case _:
            raise unsupported_kind(synapse)


def float_kind(synapse: QuantizedSynapse) -> Any:
    """Return the class that holds the same wiring with float weights."""
    match synapse:
        case QuantizedDense():
            return Dense
        case QuantizedSparse():
            return Sparse
        case QuantizedConv():
            return Conv
        case _:
            raise unsupported_kind(synapse)


def _in_integers(connection: Connection[Synapse], weight: NDArray[np.int64], width: int) -> Connection[QuantizedSynapse]:
    """The connection with integers for its weights."""
    synapse, kind = connection.synapse, quantized_kind(connection.synapse)
    wiring = {field.name: getattr(synapse, field.name) for field in fields(synapse) if field.name != "weight"}
    return Connection(
        source=connection.source, synapse=kind(weight=weight, weight_bits=width, **wiring), delay_steps=connection.delay_steps
    )


def _scale(
    weights: list[NDArray[np.float64]], bias: NDArray[np.float64], threshold: NDArray[np.float64] | None, width: int
) -> float:
    """Weight units a float unit of v, one for all connections: the largest that no register overflows on."""
    limits = [
        mantissa_scale(float(np.abs(weight).max()), width, is_mixed=_is_mixed(weight)) for weight in weights if weight.any()
    ]
    if threshold is not None:
        limits.append(THRESHOLD_MAX / float(threshold.max()))
    for worst, register in ((bias.max(initial=0.0), BIAS_MAX), (-bias.min(initial=0.0), -BIAS_MIN)):
        if worst > 0:
            limits.append(register / float(worst))
    return min(limits, default=1.0)


def _is_mixed(weight: NDArray[np.float64]) -> bool:
    return bool((weight < 0).any() and (weight > 0).any())


def mantissa_step(*, is_mixed: bool) -> int:
    """Distance between two weight mantissas: 2 for weights of both signs, since the lowest bit is then the sign, otherwise 1."""
    return 2 if is_mixed else 1


def most_steps(bits: int, *, is_mixed: bool) -> int:
    """Steps from 0 to the largest mantissa of `bits` bits; the range is kept symmetric, so that a sign never costs a step."""
    return (1 << (bits - 1)) - 1 if is_mixed else (1 << bits) - 1


def mantissa_scale(largest: float, bits: int, *, is_mixed: bool, threshold: float | None = None) -> float:
    """Mantissa units per unit of weight: the largest weight takes the largest mantissa, if the threshold's register allows.

    Parameters
    ----------
    largest : float
        Magnitude of the largest weight, above 0.
    bits : int
        Width of a weight, sign included.
    is_mixed : bool
        Whether there are weights of both signs.
    threshold : float, optional
        In the units of the weights; None where the neurons do not fire.
    """
    scale = mantissa_step(is_mixed=is_mixed) * most_steps(bits, is_mixed=is_mixed) / largest
    return scale if threshold is None else min(scale, THRESHOLD_MAX / threshold)


def weight_steps(weight: Weights, scale: float, *, is_mixed: bool) -> Weights:
    """Round weights to whole steps between mantissas (`mantissa_step` units each), ties to even.

    Both `quantize` and the training loss (`compression.bit_width.Grid`) call this: the chip gets the weights that were trained.
    """
    return (weight * (scale / mantissa_step(is_mixed=is_mixed))).round()


def threshold_mantissa(threshold: NDArray[np.float64] | float, scale: float) -> NDArray[np.int64]:
    """Round thresholds to mantissas at the scale of the weights into the same neurons."""
    return _integer(threshold * scale)


def _rounded(weight: NDArray[np.float64], scale: float) -> NDArray[np.int64]:
    is_mixed = _is_mixed(weight)
    integers: NDArray[np.int64] = mantissa_step(is_mixed=is_mixed) * weight_steps(weight, scale, is_mixed=is_mixed).astype(
        np.int64
    )
    return integers


def _avoid_misreading(weight: NDArray[np.float64], scale: float, integers: NDArray[np.int64]) -> tuple[float, NDArray[np.int64]]:
    """Shrink the scale, a step of the largest weight at a time, while Lava would read other weights than these.

    Rounding can leave a matrix of zeros and negative powers of two, which Lava misreads (`as_lava_reads`). What it took
    from the matrix stays out, so that a sign that is lost costs the others no bit and does not come back.
    """
    kept = np.where(integers != 0, weight, 0.0)
    while integers.any() and not np.array_equal(as_lava_reads(integers), integers):
        largest = int(np.abs(integers).max())
        scale *= (largest - 1) / largest
        integers = _rounded(kept, scale)
    return scale, integers


def _integer(value: NDArray[np.float64] | float) -> NDArray[np.int64]:
    return np.asarray(np.rint(value), dtype=np.int64)


def dequantize(network: QuantizedNetwork, timestep_s: float = 1e-3) -> Network:
    """The floats that the integers stand for: what rounding made of the network, before the chip's arithmetic.

    Raises
    ------
    QuantizeError
        A layer without a scale (from a file that does not tell it).
    """
    return Network(input_shape=network.input_shape, layers=tuple(_in_floats(layer) for layer in network), timestep_s=timestep_s)


def _in_floats(layer: QuantizedLayer) -> Layer:
    if not (layer.scale > 0).all():
        raise QuantizeError(f"layer {layer.name!r}", "has no scale: what its integers stand for is not known")
    du, dv = layer.neuron.du / DECAY_UNITY, layer.neuron.dv / DECAY_UNITY
    rest = np.zeros(())
    neuron: Neuron
    match layer.neuron:
        case QuantizedLIF():
            vth = np.maximum(layer.neuron.vth, 0.5)  # a mantissa of 0 fires above 0; half a unit is below the least weight
            neuron = LIF(threshold=vth / layer.scale, current_decay=du, voltage_decay=dv, rest=rest)
        case QuantizedLI():
            neuron = LI(current_decay=du, voltage_decay=dv, rest=rest)
        case _:
            raise unsupported_kind(layer.neuron)
    connections = []
    for c in layer.connections:
        wiring = {f.name: getattr(c.synapse, f.name) for f in fields(c.synapse) if f.name not in ("weight", "weight_bits")}
        weight = c.synapse.weight / c.synapse.per_weight(layer.scale)
        connections.append(
            Connection(source=c.source, synapse=float_kind(c.synapse)(weight=weight, **wiring), delay_steps=c.delay_steps)
        )
    return Layer(name=layer.name, shape=layer.shape, neuron=neuron, connections=tuple(connections), bias=layer.bias / layer.scale)


# -------------------- rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """What rounding did to a layer.

    Attributes
    ----------
    weight_error : float
        Root mean square of the rounding error over that of the weights.
    threshold_error, decay_error : float
        Largest relative error of a threshold; largest absolute error of a decay.
    synapses_lost : int
        Synapses whose weights were not zero and are now; a convolution's count wherever its window stands.
    worst_current_bits, worst_voltage_bits : float
        Bits that u and v would need if every synapse of one sign fired at every step; from 24 on they can overflow.
    """

    layer: str
    weight_error: float
    threshold_error: float
    decay_error: float
    synapses_lost: int
    worst_current_bits: float
    worst_voltage_bits: float

    def __str__(self) -> str:
        return (
            f"{self.layer}: weights {self.weight_error:.2%}, thresholds {self.threshold_error:.2%}, decays {self.decay_error:.5f}"
        )

    @property
    def can_overflow(self) -> bool:
        return max(self.worst_current_bits, self.worst_voltage_bits) >= 24


def quantization_errors(network: Network, quantized: QuantizedNetwork) -> tuple[LayerError, ...]:
    """The float-to-integer error of each layer, and how far its state can go."""
    return tuple(_layer_error(a, b) for a, b in zip(network, quantized, strict=True))


def _layer_error(layer: Layer, integers: QuantizedLayer) -> LayerError:
    pairs = [(a.synapse, b.synapse) for a, b in zip(layer.connections, integers.connections, strict=True)]
    meant = np.concatenate([a.weight.ravel() for a, _ in pairs])
    back = np.concatenate([(b.weight / b.per_weight(integers.scale)).ravel() for _, b in pairs])
    power = float(np.sqrt(np.mean(meant**2))) if meant.size else 0.0
    match layer.neuron, integers.neuron:
        case LIF(threshold=threshold), QuantizedLIF(vth=vth):
            threshold_error = float(np.max(np.abs(vth / integers.scale / threshold - 1)))
        case LI(), QuantizedLI():
            threshold_error = 0.0
        case _:
            raise QuantizeError(
                f"layer {layer.name!r}", f"has {type(layer.neuron).__name__} and {type(integers.neuron).__name__}, no pair",
                remedy="Compare a network with its own quantised form.",
            )  # fmt: skip
    decays = [
        np.abs(integers.neuron.du / DECAY_UNITY - layer.neuron.current_decay).max(),
        np.abs(integers.neuron.dv / DECAY_UNITY - layer.neuron.voltage_decay).max(),
    ]
    current, voltage = _worst_states(integers)
    return LayerError(
        layer=layer.name,
        weight_error=float(np.sqrt(np.mean((back - meant) ** 2))) / power if power else 0.0,
        threshold_error=threshold_error,
        decay_error=float(max(decays)),
        synapses_lost=sum(int(b.total((a.weight != 0) & (b.weight == 0)).sum()) for a, b in pairs),
        worst_current_bits=current,
        worst_voltage_bits=voltage,
    )


def _worst_states(layer: QuantizedLayer) -> tuple[float, float]:
    """Signed bits that u and v need in the steady state of the worst input; infinite sums (no decay) count as 64."""
    synapses = [connection.synapse for connection in layer.connections]
    up = np.sum([s.total(s.weight.astype(np.int64).clip(min=0)) for s in synapses], axis=0)
    down = np.sum([s.total(-s.weight.astype(np.int64).clip(max=0)) for s in synapses], axis=0)
    drive = np.maximum(up, down) << MANTISSA_SHIFT
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(drive > 0, drive * DECAY_UNITY / layer.neuron.du, 0.0)
        v_in = np.minimum(u, STATE_MAX) + (np.abs(layer.bias) << MANTISSA_SHIFT)
        v = np.where(v_in > 0, v_in * DECAY_UNITY / layer.neuron.dv, 0.0)
    match layer.neuron:
        case QuantizedLIF(vth=vth):  # a membrane above threshold is reset, one below zero is not
            negative = (down > 0) | (layer.bias < 0)
            v = np.where(negative, v, np.minimum(v, (vth << MANTISSA_SHIFT) + v_in))
        case QuantizedLI():
            pass
        case _:
            raise unsupported_kind(layer.neuron)
    return _bits(u), _bits(v)


def _bits(state: NDArray[np.float64]) -> float:
    worst = float(np.max(state, initial=1.0))
    return min(64.0, 1.0 + float(np.log2(max(worst, 1.0))))


def warnings_of(errors: tuple[LayerError, ...], overflows: Mapping[str, int] | None = None, of: str = "") -> list[str]:
    """A sentence for each layer whose state can leave its 24 bits, or did, or that lost synapses to rounding.

    Parameters
    ----------
    overflows : mapping of layer to int, optional
        How often the state did leave its 24 bits, where that was measured.
    of : str
        On what it was measured, e.g. ``"on the test data"``.
    """
    said = []
    for error in errors:
        if error.can_overflow:
            bits = max(error.worst_current_bits, error.worst_voltage_bits)
            measured = "" if overflows is None else f"; {of} it did so {overflows[error.layer]:,} times"
            said.append(
                f"layer {error.layer!r} could overflow its 24-bit state: {bits:.0f} bits if all synapses fired always{measured}"
            )
        if error.synapses_lost:
            said.append(f"layer {error.layer!r} lost {error.synapses_lost:,} synapses that rounded to zero")
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class RateChange:
    """A layer that quantising silenced or drove to fire at nearly every step; rates are spikes a neuron and step."""

    layer: str
    before: float
    after: float

    def __str__(self) -> str:
        kind = "silent" if self.after < self.before else "saturated"
        rates = f"{self.before:.4f} spikes a neuron and step before, {self.after:.4f} after"
        return f"layer {self.layer!r} went {kind} by quantising: {rates}"


def changed_rates(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[RateChange, ...]:
    """Layers that went silent (no spike, where there were some) or saturated (above 0.9, from below 0.5) by quantising."""
    return tuple(
        RateChange(layer=name, before=rate, after=after[name])
        for name, rate in before.items()
        if (rate > 0 and after[name] == 0) or (rate < 0.5 and after[name] > 0.9)
    )
