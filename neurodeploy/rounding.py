"""What rounding to the chip's integers cost a network: errors, synapses lost, states that can overflow, layers gone silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurodeploy.fixedpoint import DECAY_UNITY, MANTISSA_SHIFT, STATE_MAX
from neurodeploy.network import LIF, Layer, Network
from neurodeploy.quantized import QuantizedLayer, QuantizedLIF, QuantizedNetwork


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
    back = np.concatenate([(b.weight / b.beside(integers.scale)).ravel() for _, b in pairs])
    power = float(np.sqrt(np.mean(meant**2))) if meant.size else 0.0
    threshold_error = 0.0
    if isinstance(layer.neuron, LIF) and isinstance(integers.neuron, QuantizedLIF):
        threshold_error = float(np.max(np.abs(integers.neuron.vth / integers.scale / layer.neuron.threshold - 1)))
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
    if isinstance(layer.neuron, QuantizedLIF):  # a membrane above threshold is reset, one below zero is not
        negative = (down > 0) | (layer.bias < 0)
        v = np.where(negative, v, np.minimum(v, (layer.neuron.vth << MANTISSA_SHIFT) + v_in))
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
