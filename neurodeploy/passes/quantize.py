"""Quantisation: a network in floats rounded to a target's integers, back to floats, and what the rounding cost.

The target defines the integers (`neurodeploy.targets.Arithmetic`); this pass finds the scale of each layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import QuantizeError, check_arguments, counted, unsupported_kind
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, check_memory
from neurodeploy.ir.connectivity import is_convolution, is_dense
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Neuron, Sparse, SubtractiveLIF, Synapse, max_spikes_of
from neurodeploy.ir.quantized import (
    COUNTING_ONLY,
    DecayingNeuron,
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSparse,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
    decaying,
)
from neurodeploy.targets import (
    Arithmetic,
    arithmetic_named,
    arithmetic_of,
    check_profile,
    check_resets,
    check_weight_bits,
    default_weight_bits,
)

if TYPE_CHECKING:
    import torch  # the training loss rounds tensors; a network that is only quantised needs no torch

Weights = TypeVar("Weights", Floats, "torch.Tensor")

# ---------------------------------------------------------------------------------------------- floats to integers

STATE_MARGIN = 1.5
"""Factor that the scale leaves between the largest state that was seen and the end of its register: other data go further."""


NARROW_BITS = 4
"""Widths up to which many weights round to zero."""


def narrow_width_notes(network: Network | QuantizedNetwork, bits: int) -> tuple[str, ...]:
    """A sentence that floats are counted, where rounding to so few bits takes synapses away."""
    if isinstance(network, QuantizedNetwork) or bits > NARROW_BITS:
        return ()
    return (f"Counted before rounding: `deploy` does not count the synapses that {counted(bits, 'bit')} round to zero.",)


def check_rounding_memory(network: Network) -> None:
    """Raise `NetworkError` if memory does not suffice to round the largest layer."""
    weights = {layer.name: sum(connection.synapse.weight.size for connection in layer.connections) for layer in network}
    name, n = max(weights.items(), key=lambda item: item[1])
    check_memory(f"layer {name!r}", f"to round {n:,} weights", n * 56)  # its peak


@check_arguments
def quantize(
    network: Network, profile: Chip, *, bits: int | Mapping[str, int] | None = None,
    largest_states: Mapping[str, float] | None = None, scales_of: Network | None = None,
) -> QuantizedNetwork:  # fmt: skip
    """Round a network to the integers of a profile's target, each layer on a scale shared by all connections into it.

    The largest weight of a layer takes the largest integer of its width; threshold and bias follow on the same scale. Where they
    would leave their registers, the scale is reduced. Thresholds that differ within a layer are brought to one by scaling each
    neuron's weights and bias, which changes no spike; where a convolution shares weights between such neurons, they stay.

    On Loihi, connections with weights of both signs get even numbers of at most 2 * (2**(bits - 1) - 1), those of one sign
    numbers of at most 2**bits - 1, and decays become multiples of 1/4096. For a profile without a target the integers serve for
    counting only: weights have the profile's widths, and nothing else is rounded noticeably.

    Parameters
    ----------
    bits : int or mapping of layer name to int, optional
        Width of a weight, sign included; the widest that chip and target have by default, also for layers not in the mapping.
    largest_states : mapping of layer name to float, optional
        Largest size of u or v of a layer's neurons on calibration data (`neurodeploy.simulation.layer_schedule.largest_states`).
        The layer's scale is reduced where `STATE_MARGIN` times that would leave the target's registers. A layer that is not
        in it has the largest scale that its weights allow, on which its states may overflow.
    scales_of : Network, optional
        The network with more neurons, whose weights set the scales: the one that was trained, with rounding in its loss.

    Raises
    ------
    QuantizeError
        A width that the chip does not have, or a threshold, bias or decay that its registers cannot hold on any scale.
    """
    profile = load_profile(profile)
    arithmetic = arithmetic_of(profile)
    check_rounding_memory(network)
    check_resets(network, arithmetic)
    network, scales_of = arithmetic.adapted(network), scales_of and arithmetic.adapted(scales_of)
    default = default_weight_bits(profile) if bits is None or isinstance(bits, Mapping) else bits
    rounded = []
    for layer in network:
        trained = None if scales_of is None else scales_of[layer.name]
        width = bits.get(layer.name, default) if isinstance(bits, Mapping) else default
        check_weight_bits(profile, width, f"layer {layer.name!r}")
        rounded.append(_quantized(layer, trained, width, profile, arithmetic, (largest_states or {}).get(layer.name, 0.0)))
    quantized = QuantizedNetwork(input_shape=network.input_shape, layers=tuple(rounded), target=arithmetic.name)
    largest = {name: STATE_MARGIN * state * float(quantized[name].scale.max()) for name, state in (largest_states or {}).items()}
    quantized = arithmetic.finished(quantized, largest)
    arithmetic.check(quantized)
    check_profile(quantized, profile)
    return quantized


def _quantized(
    layer: Layer, trained: Layer | None, width: int, profile: HardwareProfile, arithmetic: Arithmetic, largest_state: float
) -> QuantizedLayer:  # fmt: skip
    weights, bias, threshold, factor = _on_common_threshold(layer, arithmetic)
    if trained is None:
        scale = weight_scale(weights, bias, threshold, width, profile, arithmetic)
    else:
        scaled, of_trained, threshold_of_trained, _ = _on_common_threshold(trained, arithmetic)
        # the loss rounds all connections of a layer together: their signs, too
        together = np.concatenate([weight.ravel() for weight in scaled])
        scale = weight_scale([together], of_trained, threshold_of_trained, width, profile, arithmetic)
    scale = limited_scale(scale, state_scale(largest_state * float(factor.max()), profile), threshold)
    integers = [_rounded(weight, scale, arithmetic) for weight in weights]
    if is_dense(layer.connections[0].synapse) and len(weights) == 1:
        # Rounding can leave weights that the target reads as others. A weight that was rounded to zero stays zero, so that a
        # sign that is gone costs the other weights no bit and does not come back.
        kept = np.where(integers[0] != 0, weights[0], 0.0)
        while not np.array_equal(arithmetic.as_run(integers[0]), integers[0]):
            largest = int(np.abs(integers[0]).max())
            scale *= (largest - 1) / largest  # the largest weight falls by about one
            integers[0] = _rounded(kept, scale, arithmetic)
    vth = threshold_mantissa(np.zeros(()) if threshold is None else threshold, scale, arithmetic)  # a readout has none
    if threshold is not None and vth.min() < 1:
        largest = max(np.abs(numbers).max(initial=0.0) for numbers in [*weights, bias])
        raise QuantizeError(
            f"layer {layer.name!r}",
            f"its threshold {threshold.min():.3g} rounds to zero next to weights or biases of up to {largest:.3g}",
            source=arithmetic.registers.source, remedy="Bring its weights and thresholds nearer to each other.",
        )  # fmt: skip
    decays = {
        "du": arithmetic.decay_registers(layer.neuron.current_decay), "dv": arithmetic.decay_registers(layer.neuron.voltage_decay)
    }  # fmt: skip
    neuron: QuantizedNeuron
    match layer.neuron:
        case LIF():
            neuron = QuantizedLIF(vth=vth, **decays)
        case SubtractiveLIF(max_spikes=max_spikes):
            neuron = QuantizedSubtractiveLIF(vth=vth, max_spikes=max_spikes, **decays)
        case LI():
            neuron = QuantizedLI(**decays)
        case _:
            raise unsupported_kind(layer.neuron)
    return QuantizedLayer(
        name=layer.name,
        shape=layer.shape,
        neuron=neuron,
        connections=tuple(
            Connection(source=c.source, synapse=_in_integers(c.synapse, weight, width), delay_steps=c.delay_steps)
            for c, weight in zip(layer.connections, integers, strict=True)
        ),
        bias=arithmetic.round_state(bias * scale),
        scale=np.asarray(scale * factor),
    )


def _on_common_threshold(layer: Layer, arithmetic: Arithmetic) -> tuple[list[Floats], Floats, Floats | None, Floats]:
    """Weights of each connection, biases and threshold after scaling each neuron by its factor; and the factors.

    Weights are divided by the target's `current_gain`.
    """
    factor, threshold = _with_common_threshold(layer)
    weight_factor = factor / arithmetic.current_gain(arithmetic.decay_registers(layer.neuron.current_decay))
    weights: list[Floats] = [c.synapse.weight * c.synapse.per_weight(weight_factor) for c in layer.connections]
    return weights, layer.bias * factor, threshold, factor


def _with_common_threshold(layer: Layer) -> tuple[Floats, Floats | None]:
    """Return factors for each neuron's weights and bias, and thresholds: one for all, unless a convolution forbids it."""
    match layer.neuron:
        case LI():
            return np.ones(()), None
        case LIF(threshold=thresholds) | SubtractiveLIF(threshold=thresholds):
            by_channel = np.broadcast_to(thresholds, layer.n_neurons).reshape(layer.shape[0], -1)
            if any(is_convolution(c.synapse) for c in layer.connections) and (by_channel != by_channel[:, :1]).any():
                return np.ones(()), thresholds  # neurons of a channel share their weights, which have one scale only
            # u and v are linear in weights and bias, so a neuron may be scaled by itself, threshold included.
            return thresholds.max() / thresholds, thresholds.max()
        case _:
            raise unsupported_kind(layer.neuron)


def weight_scale(
    weights: list[Floats], bias: Floats, threshold: Floats | None, width: int, profile: HardwareProfile, arithmetic: Arithmetic
) -> float:
    """Return the largest scale, in weight units per unit of the membrane, on which no register of a layer overflows."""
    registers = arithmetic.registers
    limits = [
        mantissa_scale(float(np.abs(weight).max()), width, is_mixed=_both_signs(weight), arithmetic=arithmetic)
        for weight in weights
        if weight.any()
    ]
    if threshold is not None:
        # A profile may state a narrower register than its target.
        bits = min(registers.threshold_bits, profile.number("threshold_bits", registers.threshold_bits))
        limits.append(((1 << bits) - 1) / float(threshold.max()))
    for worst, register in ((bias.max(initial=0.0), registers.bias_max), (-bias.min(initial=0.0), -registers.bias_min)):
        if worst > 0:
            limits.append(register / float(worst))
    return min(limits, default=1.0)  # nothing but zeros: any scale will do


# What follows also rounds for the training loss (`neurodeploy.compression.bit_width`): the chip gets what was trained.


def state_scale(largest_state: float, profile: HardwareProfile) -> float:
    """Return the largest scale on which a state of this size fits its register with `STATE_MARGIN`; infinite for a size of 0."""
    registers = arithmetic_of(profile).registers
    bits = min(profile.number("state_bits", UNLIMITED), registers.current_bits, registers.membrane_bits)
    # a state is counted in smaller units than weights, and has a sign
    return (1 << (bits - 1 - registers.weight_exponent)) / (STATE_MARGIN * largest_state) if largest_state > 0 else math.inf


def limited_scale(scale: float, limit: float, threshold: Floats | float | None) -> float:
    """Return a scale of at most `limit`; reduced, it makes a threshold whole, so that rounding again changes nothing."""
    largest = 0.0 if threshold is None else float(np.max(threshold))
    if scale <= limit or limit * largest < 1:
        return min(scale, limit)
    return math.floor(limit * largest + 1e-6) / largest  # not one less where it is whole already


def mantissa_scale(
    largest: float, bits: int, *, is_mixed: bool, threshold: float | None = None, arithmetic: Arithmetic | None = None
) -> float:
    """Return mantissa units per unit of weight: the largest weight takes the largest mantissa, if the threshold allows.

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
    arithmetic : Arithmetic, optional
        That of the default target, where none is given.
    """
    arithmetic = arithmetic or arithmetic_named()
    scale = arithmetic.weight_step(is_mixed=is_mixed) * arithmetic.most_steps(bits, is_mixed=is_mixed) / largest
    return scale if threshold is None else min(scale, arithmetic.registers.threshold_max / threshold)


def weight_steps(weight: Weights, scale: float, *, is_mixed: bool, arithmetic: Arithmetic | None = None) -> Weights:
    """Round weights to whole steps between mantissas (`Arithmetic.weight_step` units each), ties to even."""
    # numpy.ndarray.round and torch.round both take ties to even: the loss sees the integers that the chip gets.
    return (weight * (scale / (arithmetic or arithmetic_named()).weight_step(is_mixed=is_mixed))).round()


def threshold_mantissa(threshold: Floats | float, scale: float, arithmetic: Arithmetic | None = None) -> Integers:
    """Round thresholds to mantissas at the scale of the weights into the same neurons."""
    return (arithmetic or arithmetic_named()).round_state(np.asarray(threshold * scale))


def _rounded(weight: Floats, scale: float, arithmetic: Arithmetic) -> Integers:
    is_mixed = _both_signs(weight)
    steps = weight_steps(weight, scale, is_mixed=is_mixed, arithmetic=arithmetic).astype(np.int64)
    return np.asarray(arithmetic.weight_step(is_mixed=is_mixed) * steps)


def _both_signs(weight: Floats) -> bool:
    return bool((weight < 0).any() and (weight > 0).any())


def quantized_kind(synapse: Synapse) -> Any:
    """Return the class of a synapse's integers; it has the same wiring, and `weight_bits` besides."""
    match synapse:
        case Dense():
            return QuantizedDense
        case Sparse():
            return QuantizedSparse
        case Conv():
            return QuantizedConv
        case _:
            raise unsupported_kind(synapse)


def _in_integers(synapse: Synapse, weight: Integers, bits: int) -> QuantizedSynapse:
    wiring: dict[str, Any] = {f.name: getattr(synapse, f.name) for f in fields(synapse) if f.name != "weight"}
    integers: QuantizedSynapse = quantized_kind(synapse)(weight=weight, weight_bits=bits, **wiring)
    return integers


# ---------------------------------------------------------------------------------------------- integers to floats


@check_arguments
def dequantize(network: QuantizedNetwork, timestep_s: float = 1e-3) -> Network:
    """Return the floats that the integers stand for: the network after rounding, before the chip's arithmetic.

    Raises
    ------
    QuantizeError
        A layer without a scale (from a file that does not state it).
    """
    arithmetic = arithmetic_named(network.target)
    layers = []
    for layer in network:
        neuron = decaying(layer.neuron, f"layer {layer.name!r}")
        if not (layer.scale > 0).all():
            raise QuantizeError(f"layer {layer.name!r}", "has no scale, so its integers cannot be turned into floats")
        gain = layer.scale / arithmetic.current_gain(neuron.du)
        layers.append(
            Layer(
                name=layer.name,
                shape=layer.shape,
                neuron=_neuron_in_floats(neuron, layer.scale, arithmetic),
                connections=tuple(
                    Connection(source=c.source, synapse=_in_floats(c.synapse, gain), delay_steps=c.delay_steps)
                    for c in layer.connections
                ),
                bias=layer.bias / layer.scale,
            )
        )
    return Network(input_shape=network.input_shape, layers=tuple(layers), timestep_s=timestep_s)


def with_rounded_weights(network: Network, quantized: QuantizedNetwork) -> Network:
    """Return the network in floats with the rounded weights; thresholds, decays and biases stay as they were."""
    rounded = dequantize(quantized, network.timestep_s)
    layers = tuple(replace(layer, connections=rounded[layer.name].connections) for layer in network)
    return replace(network, layers=layers)


def _neuron_in_floats(neuron: DecayingNeuron, scale: Floats, arithmetic: Arithmetic) -> Neuron:
    match neuron:
        case QuantizedLIF(vth=vth, du=du, dv=dv):
            above = np.maximum(vth, 0.5)  # a threshold of 0 fires above 0; half a unit is less than the smallest weight
            return LIF(
                threshold=above / scale, current_decay=arithmetic.decay_shares(du), voltage_decay=arithmetic.decay_shares(dv),
                rest=np.zeros(()),
            )  # fmt: skip
        case QuantizedSubtractiveLIF(vth=vth, du=du, dv=dv, max_spikes=max_spikes):
            return SubtractiveLIF(
                threshold=vth / scale, current_decay=arithmetic.decay_shares(du), voltage_decay=arithmetic.decay_shares(dv),
                rest=np.zeros(()), max_spikes=max_spikes,
            )  # fmt: skip
        case QuantizedLI(du=du, dv=dv):
            return LI(current_decay=arithmetic.decay_shares(du), voltage_decay=arithmetic.decay_shares(dv), rest=np.zeros(()))
        case _:
            raise unsupported_kind(neuron)


def _in_floats(synapse: QuantizedSynapse, scale: Floats) -> Synapse:
    weight = synapse.weight / synapse.per_weight(scale)
    match synapse:
        case QuantizedDense():
            return Dense(weight=weight)
        case QuantizedSparse(n_in=n_in, starts=starts, sources=sources):
            return Sparse(n_in=n_in, starts=starts, sources=sources, weight=weight)
        case QuantizedConv(input_shape=input_shape, stride=stride, padding=padding, dilation=dilation, groups=groups):
            return Conv(weight=weight, input_shape=input_shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
        case _:
            raise unsupported_kind(synapse)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """Rounding errors of a layer, and the widths that its state could need.

    Attributes
    ----------
    weight_error : float
        Root mean square of the rounding error over that of the weights.
    threshold_error, decay_error : float
        Largest relative error of a threshold; largest absolute error of a decay.
    synapses_lost : int
        Synapses whose weights were not zero and are now; a convolution's count at every position of its window.
    worst_current_bits, worst_voltage_bits : float
        Bits that u and v would need if every synapse of one sign carried a spike at every step.
    state_bits : int
        Bits that the target's registers have for u and v, the narrower of the two.
    most_spikes : (int, int)
        Most spikes of a neuron in a step, in the model and on the chip.
    """

    layer: str
    weight_error: float
    threshold_error: float
    decay_error: float
    synapses_lost: int
    worst_current_bits: float
    worst_voltage_bits: float
    state_bits: int = 24
    most_spikes: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        return (
            f"{self.layer}: weights {self.weight_error:.2%}, thresholds {self.threshold_error:.2%}, decays {self.decay_error:.5f}"
        )

    @property
    def can_overflow(self) -> bool:
        """Whether the worst input makes u or v leave its register."""
        return max(self.worst_current_bits, self.worst_voltage_bits) >= self.state_bits


@check_arguments
def quantization_errors(network: Network, quantized: QuantizedNetwork) -> tuple[LayerError, ...]:
    """Return the rounding errors of each layer, and how many bits its state could need."""
    arithmetic = arithmetic_named(quantized.target)
    registers, errors, adapted = arithmetic.registers, [], arithmetic.adapted(network)
    for original, layer, integers in zip(network, adapted, quantized, strict=True):
        neuron = decaying(integers.neuron, f"layer {integers.name!r}")
        gain = integers.scale / arithmetic.current_gain(neuron.du)
        pairs = [(a.synapse, b.synapse) for a, b in zip(layer.connections, integers.connections, strict=True)]
        meant = np.concatenate([a.weight.ravel() for a, _ in pairs])
        back = np.concatenate([(b.weight / b.per_weight(gain)).ravel() for _, b in pairs])
        power = float(np.sqrt(np.mean(meant**2))) if meant.size else 0.0
        match layer.neuron, neuron:
            case (LIF(threshold=threshold), QuantizedLIF(vth=vth)) | (
                SubtractiveLIF(threshold=threshold),
                QuantizedSubtractiveLIF(vth=vth),
            ):
                threshold_error = float(np.max(np.abs(vth / integers.scale / threshold - 1)))
            case LI(), QuantizedLI():
                threshold_error = 0.0
            case _:
                kinds = f"{type(layer.neuron).__name__} and {type(neuron).__name__}"
                raise QuantizeError(f"layer {layer.name!r}", f"has neurons of kinds {kinds}, which do not belong together")
        decays = [
            np.abs(arithmetic.decay_shares(neuron.du) - original.neuron.current_decay).max(),
            np.abs(arithmetic.decay_shares(neuron.dv) - original.neuron.voltage_decay).max(),
        ]
        # integers for counting have fictitious thresholds and registers: nothing to compare, nothing that overflows
        runs = quantized.target != COUNTING_ONLY
        current, voltage = worst_state_bits(integers, arithmetic) if runs else (0.0, 0.0)
        errors.append(LayerError(
            layer=layer.name,
            weight_error=float(np.sqrt(np.mean((back - meant) ** 2))) / power if power else 0.0,
            threshold_error=threshold_error if runs else 0.0,
            decay_error=float(max(decays)),
            synapses_lost=sum(int(b.total((a.weight != 0) & (b.weight == 0)).sum()) for a, b in pairs),
            worst_current_bits=current,
            worst_voltage_bits=voltage,
            state_bits=min(registers.current_bits, registers.membrane_bits),
            most_spikes=(int(max_spikes_of(original.neuron).max()), int(max_spikes_of(layer.neuron).max())),
        ))  # fmt: skip
    return tuple(errors)


def worst_state_bits(layer: QuantizedLayer, arithmetic: Arithmetic) -> tuple[float, float]:
    """Return the signed bits that u and v need in the steady state of the worst input; 64 where a sum has no decay."""
    registers, shift, neuron = arithmetic.registers, arithmetic.registers.weight_exponent, decaying(layer.neuron, layer.name)
    synapses = [connection.synapse for connection in layer.connections]
    up = np.sum([s.total(s.weight.astype(np.int64).clip(min=0)) for s in synapses], axis=0)
    down = np.sum([s.total(-s.weight.astype(np.int64).clip(max=0)) for s in synapses], axis=0)
    drive = np.maximum(up, down) << shift
    with np.errstate(divide="ignore", invalid="ignore"):
        # A constant drive settles at drive / decay.
        u = np.where(drive > 0, drive / arithmetic.decay_shares(neuron.du), 0.0)
        # u wraps, so v receives no more than its register holds.
        v_in = np.minimum(u, 1 << (registers.current_bits - 1)) + (np.abs(layer.bias) << shift)
        v = np.where(v_in > 0, v_in / arithmetic.decay_shares(neuron.dv), 0.0)
    match neuron:
        case (
            QuantizedLIF(vth=vth) | QuantizedSubtractiveLIF(vth=vth)
        ):  # a membrane above threshold is reset, one below zero is not
            negative = (down > 0) | (layer.bias < 0)
            v = np.where(negative, v, np.minimum(v, (vth << shift) + v_in))
        case QuantizedLI():
            pass
        case _:
            raise unsupported_kind(neuron)
    return _bits(u), _bits(v)


def _bits(state: NDArray[np.float64]) -> float:
    worst = float(np.max(state, initial=1.0))
    return min(64.0, 1.0 + float(np.log2(max(worst, 1.0))))  # one bit for the sign
