"""Loihi's neuron in integers: decay, wrap, saturation, spike and reset, for populations of a network and for raw input.

One step, bit for bit as Lava's ``AbstractPyLifModelFixed`` (``lava/proc/lif/models.py``; constants in
`neurodeploy.targets.loihi.target`), with u and v of 24 bits and decays of 12::

    u <- wrap(decay(u, du) + 64 input)
    v <- saturate(decay(v, dv) + u + 64 bias)
    a neuron fires where v > 64 vth, and v <- 0 there
    decay(x, d) = sign(x) (|x| (4096 - d) >> 12), towards zero
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError, unsupported_kind
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSigmaDelta,
    QuantizedSubtractiveLIF,
    decaying,
    no_sigma_delta,
)
from neurodeploy.simulation.kernel_dispatch import Engine
from neurodeploy.simulation.kernels import Array, compiled
from neurodeploy.simulation.layer_schedule import PARALLEL_UPDATES, WorkerPool
from neurodeploy.targets.loihi.target import (
    BIAS_MAX,
    BIAS_MIN,
    DECAY_UNITY,
    MANTISSA_SHIFT,
    SIGMA_DELTA_MAX,
    SIGMA_DELTA_SENT,
    SIGMA_DELTA_SHIFT,
    STATE_MAX,
    Whole,
    decayed,
    resets_by_subtraction,
    saturated,
)

# ---------------------------------------------------------------------------------------------- compiled

NEURONS_PER_BLOCK = 2048
"""Neurons that go through all steps together: their states stay in the first-level cache."""


@compiled
def step_compiled(
    inputs: Array,
    u: Array,
    v: Array,
    registers: Array,
    fired: Array,
    membranes: Array,
    counts: Array,
    first_reset: int,
    reset_interval: int,
    start: int,
    stop: int,
) -> int:
    """Advance neurons start..stop - 1 by some steps; return how often currents wrapped and membranes saturated.

    Parameters
    ----------
    inputs : array (n_steps, batch, n), int32
        Weighted spikes, in weight units; cleared.
    u, v, counts : arrays (batch, n), int32
        Current, membrane and number of spikes of each neuron; updated.
    registers : array (4, n), int32
        4096 - du, 4096 - dv, bias and threshold, the last two shifted to the units of v.
    fired : array (n_steps, batch, n or more), uint8
        Filled with 1 where a neuron fires.
    membranes : array (n_steps or 0, batch, n), int32
        Filled with v after each step, unless it has no steps.
    first_reset, reset_interval : int
        States are cleared before step `first_reset` and every `reset_interval` steps from there on; an interval of 0 for never.
    """
    n_steps, batch = inputs.shape[:2]
    overflows = 0
    for b in range(batch):
        # All steps of a block of neurons before the next block: neurons of a layer do not interact within these steps.
        for first in range(start, stop, NEURONS_PER_BLOCK):
            block = slice(first, min(first + NEURONS_PER_BLOCK, stop))
            keep_u, keep_v, bias, threshold = registers[0, block], registers[1, block], registers[2, block], registers[3, block]
            for t in range(n_steps):
                if reset_interval and t >= first_reset and (t - first_reset) % reset_interval == 0:
                    u[b, block] = 0
                    v[b, block] = 0
                overflows += _update_current(u[b, block], inputs[t, b, block], keep_u)
                overflows += _update_membrane(v[b, block], u[b, block], keep_v, bias)
                _fire(v[b, block], threshold, fired[t, b, block], counts[b, block])
                if membranes.shape[0]:
                    membranes[t, b, block] = v[b, block]
    return overflows


@compiled
def _decay(state: Any, keep: Any) -> Any:
    """Multiply by keep / 4096, rounded towards zero: in two halves of 12 bits, so that no product needs more than 32 bits."""
    sign = np.int32(state >> 31)  # 0 or -1: flipping and adding it gives the magnitude without a branch
    size = np.int32(np.int32(state ^ sign) - sign)
    # size * keep >> 12 is high * keep + (low * keep >> 12), because size = 4096 * high + low.
    high, low = np.int32(size >> 12), np.int32(size & 4095)
    kept = np.int32(np.int32(high * keep) + np.int32(np.int32(low * keep) >> 12))
    return np.int32(np.int32(kept ^ sign) - sign)


@compiled
def _update_current(u: Array, inputs: Array, keep: Array) -> Any:
    wraps = np.int32(0)
    for j in range(u.shape[0]):
        current = np.int32(_decay(u[j], keep[j]) + np.int32(inputs[j] << MANTISSA_SHIFT))
        # 1 above the range, -1 below. As in Lava the bounds are not symmetric: 2**23 stays, -2**23 wraps.
        turn = np.int32(np.int32(current > STATE_MAX) - np.int32(current <= -STATE_MAX))
        wraps = np.int32(wraps + np.int32(turn * turn))
        u[j] = np.int32(current - np.int32(turn * np.int32(2 * STATE_MAX)))
        inputs[j] = 0
    return wraps


@compiled
def _update_membrane(v: Array, u: Array, keep: Array, bias: Array) -> Any:
    saturations = np.int32(0)
    for j in range(v.shape[0]):
        membrane = np.int32(np.int32(_decay(v[j], keep[j]) + u[j]) + bias[j])
        # The membrane saturates where the current wraps (proc/lif/models.py: subthr_dynamics).
        within = np.int32(min(max(membrane, np.int32(1 - STATE_MAX)), np.int32(STATE_MAX - 1)))
        saturations = np.int32(saturations + np.int32(within != membrane))
        v[j] = within
    return saturations


@compiled
def _fire(v: Array, threshold: Array, fired: Array, counts: Array) -> None:
    for j in range(v.shape[0]):
        fired[j] = v[j] > threshold[j]
        v[j] = 0 if v[j] > threshold[j] else v[j]
    for j in range(v.shape[0]):  # a loop of its own: bytes and words in one would not be vectorized
        counts[j] = np.int32(counts[j] + fired[j])


# ---------------------------------------------------------------------------------------------- on a torch device


def step_tensors(
    inputs: Any, u: Any, v: Any, registers: Any, fired: Any, membranes: Any, counts: Any,
    first_reset: int, reset_interval: int, start: int, stop: int,
) -> Any:  # fmt: skip
    """Do what `step_compiled` does on torch tensors; the overflows stay on the device.

    Decays go through doubles, which hold the product of a state and a decay (37 bits) exactly.
    """
    (keep_u, keep_v), (bias, threshold) = registers[:2, start:stop].double() / DECAY_UNITY, registers[2:, start:stop]
    inputs, fired, membranes = inputs[..., start:stop], fired[..., start:stop], membranes[..., start:stop]
    u, v, counts = u[:, start:stop], v[:, start:stop], counts[:, start:stop]
    overflows: Any = 0
    for t, weighted in enumerate(inputs):
        if reset_interval and t >= first_reset and (t - first_reset) % reset_interval == 0:
            u.zero_()
            v.zero_()
        # trunc rounds towards zero, as sign(x) * (|x| * keep >> 12) does.
        current = (u * keep_u).trunc_().add_(weighted, alpha=1 << MANTISSA_SHIFT)
        over, under = current > STATE_MAX, current <= -STATE_MAX
        u.copy_(current.add_(over, alpha=-2 * STATE_MAX).add_(under, alpha=2 * STATE_MAX))
        membrane = (v * keep_v).trunc_().add_(u).add_(bias)
        v.copy_(membrane.clamp(1 - STATE_MAX, STATE_MAX - 1))
        overflows = overflows + over.count_nonzero() + under.count_nonzero() + (v != membrane).count_nonzero()
        fires = v > threshold
        fired[t] = fires
        counts += fires
        v.masked_fill_(fires, 0)
        if len(membranes):
            membranes[t] = v
    inputs.zero_()
    return overflows


# ---------------------------------------------------------------------------------------------- populations


def threshold_register(layer: QuantizedLayer) -> Any:
    """Return the threshold of a layer's neurons in the units of v; for those that never fire one that v cannot pass."""
    match layer.neuron:
        case QuantizedLIF(vth=vth):
            return vth << MANTISSA_SHIFT
        case QuantizedSubtractiveLIF():
            raise resets_by_subtraction(layer.name)
        case QuantizedLI():
            return STATE_MAX  # membranes saturate one below
        case QuantizedSigmaDelta():
            raise no_sigma_delta(layer.name, "which have no membrane")
        case _:
            raise unsupported_kind(layer.neuron)


class IntegerNeurons:
    """State of a layer in Loihi's integers, for a batch of samples (a `NeuronState` of the layer schedule).

    Attributes
    ----------
    u, v, counts : arrays (batch, n), int32
        Of the engine.
    overflows : int, or a tensor on a device
        How often a state left its 24 bits.
    """

    def __init__(
        self, layer: QuantizedLayer, batch: int, reset_interval: int, reset_offset: int, engine: Engine, pool: WorkerPool,
        *, on_device: bool,
    ) -> None:  # fmt: skip
        self.layer, neuron, self.pool = layer, decaying(layer.neuron, layer.name), pool
        self._step: Any = step_tensors if on_device else step_compiled
        registers = (DECAY_UNITY - neuron.du, DECAY_UNITY - neuron.dv, layer.bias << MANTISSA_SHIFT, threshold_register(layer))
        stacked = np.stack([np.broadcast_to(r, layer.n_neurons) for r in registers]).astype(np.int32)
        self.registers, self.no_membranes = engine.from_numpy(stacked), engine.zeros((0, 1, 1), np.int32)
        self.u, self.v, self.counts = engine.zeros((3, batch, layer.n_neurons), np.int32)
        self.reset_interval, self.next_reset = reset_interval, reset_offset
        self.overflows: Any = 0  # a tensor on a device: reading it at every block would wait for the device

    def step(self, inputs: Any, fired: Any, v: Any | None) -> None:
        """Advance by the steps of `inputs`; see `step_compiled`."""
        membranes = self.no_membranes if v is None else v
        states, resets = (self.u, self.v, self.registers), (self.next_reset, self.reset_interval)

        def step_range(first: int, last: int) -> Any:
            return self._step(inputs, *states, fired, membranes, self.counts, *resets, first, last)

        parallel = int(np.prod(inputs.shape)) >= PARALLEL_UPDATES
        self.overflows += sum(self.pool.map_ranges(step_range, self.layer.n_neurons, parallel=parallel))
        # Counted from the first step of the next call; % skips the resets within this one.
        if self.reset_interval:
            self.next_reset = (self.next_reset - len(inputs)) % self.reset_interval


# ---------------------------------------------------------------------------------------------- sigma-delta neurons


class SigmaDeltaNeurons:
    """Sigma-delta neurons in Lava's 32 bits (``lava/proc/sdn/models.py``: PyDeltaModelFixed, PySigmaDeltaModelFixed).

    States have 12 fractional bits, of which the lower 6 are not sent. Lava's registers are int32, whatever widths it states: a
    number beyond wraps.

    Attributes
    ----------
    sigma, sent : arrays (n, batch), int64
        Sums of what was received, and numbers sent in the last step.
    overflows : int
        How often a number wrapped.
    """

    def __init__(self, neuron: QuantizedSigmaDelta, bias: Integers, n_neurons: int, batch: int) -> None:
        self.only_sums, self.vth = neuron.only_sums, int(neuron.vth) << SIGMA_DELTA_SHIFT
        self.bias = np.broadcast_to(bias, n_neurons)[:, np.newaxis] << SIGMA_DELTA_SHIFT
        self.sigma, self.sent, self.activation, self.residue = np.zeros((4, n_neurons, batch), dtype=np.int64)
        self.overflows = 0

    def held(self, numbers: Integers, bits: int = 32) -> Integers:
        """Return numbers as a signed register of some bits holds them."""
        half = 1 << (bits - 1)
        within: Integers = ((numbers + half) & ((1 << bits) - 1)) - half
        self.overflows += int(np.count_nonzero(within != numbers))
        return within

    def step(self, inputs: Integers) -> None:
        """Advance a step, in which neurons receive `inputs` (n, batch)."""
        self.sigma = self.held(self.sigma + inputs)
        if self.only_sums:
            self.sent = self.sigma
        else:
            self.send(np.maximum(self.held(self.sigma + self.bias), 0))

    def encode(self, numbers: Integers) -> None:
        """Advance an input population a step, on numbers (n, batch) of `bias_mantissas`."""
        self.send(numbers.astype(np.int64) << SIGMA_DELTA_SHIFT)

    def send(self, activation: Integers) -> None:
        """Send changes of the activation that reach the threshold; those that do not are added to the next."""
        change = self.held(self.held(activation - self.activation) + self.residue)
        # int32 has no magnitude of its lowest number, whose np.abs is itself.
        size = np.where(change == -1 << 31, change, np.abs(change))
        sent = np.where(size >= self.vth, change, 0)
        self.activation, self.residue, self.sent = activation, change - sent, sent >> SIGMA_DELTA_SENT


# ---------------------------------------------------------------------------------------------- raw input


def encoder_of(network: Network | QuantizedNetwork) -> Encoder:
    """Return the network's input population.

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


def bias_mantissas(encoder: Encoder, raw: NDArray[Any]) -> NDArray[np.int32]:
    """Return the numbers that raw input gives an input population, rounded: ``raw * weight + bias``, of the same shape.

    They are bias mantissas of LIF neurons, and what sigma-delta neurons encode the changes of.

    Raises
    ------
    DataError
        Raw input that is not numeric or not finite, or that sets biases beyond their 13 bits (19 bits, of sigma-delta neurons).
    """
    if raw.dtype.kind not in "biuf" or not np.isfinite(raw).all():
        raise DataError("raw input", "holds values that are not finite numbers")
    biases: NDArray[np.float64] = np.rint(raw.astype(np.float64) * encoder.weight + encoder.bias)
    match encoder.neuron:
        case QuantizedLIF():
            low, high, bits = BIAS_MIN, BIAS_MAX, 13
        case QuantizedSigmaDelta():
            # A change is the difference of two numbers, with 12 more bits: half of 32 bits for each of the two.
            low, high, bits = -(SIGMA_DELTA_MAX >> 1), SIGMA_DELTA_MAX >> 1, 19
        case _:
            raise unsupported_kind(encoder.neuron)
    if not low <= biases.min() <= biases.max() <= high:
        raise DataError(
            "raw input", f"sets biases {biases.min():.0f}..{biases.max():.0f} beyond {low}..{high} ({bits} bits)",
            source=f"of x * {encoder.weight} + {encoder.bias}", remedy="Scale it down.",
        )  # fmt: skip
    return biases.astype(np.int32)


class InputPopulation:
    """The input population of a network for a batch of samples, from rest.

    No synapse leads to it: raw input sets its bias at every step. Its currents stay zero, so only membranes are simulated.

    Parameters
    ----------
    reset_interval, reset_offset : int
        As in `neurodeploy.targets.loihi.emulator.Emulator`.
    """

    def __init__(self, encoder: Encoder, *, reset_interval: int = 0, reset_offset: int = 0) -> None:
        self.encoder, self.reset_interval, self.next_reset = encoder, reset_interval, reset_offset
        self._v: Whole | float = 0.0

    def advance(self, biases: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return the spikes (batch, \\*shape, n_steps) that bias mantissas of the same shape cause in the next steps."""
        n_steps = biases.shape[-1]
        match self.encoder.neuron:
            case QuantizedLIF(dv=dv, vth=vth):
                pass
            case QuantizedSigmaDelta():
                raise no_sigma_delta("encoder", "which send numbers and no spikes")
            case _:
                raise unsupported_kind(self.encoder.neuron)
        fired = np.zeros((len(biases), int(np.prod(biases.shape[1:-1])), n_steps), dtype=np.uint8)
        for t, bias in enumerate(np.moveaxis(biases.reshape(fired.shape), -1, 0)):
            if self.reset_interval and t % self.reset_interval == self.next_reset:
                self._v = 0.0
            # No current: u stays 0, so the bias alone drives v.
            v = saturated(decayed(np.broadcast_to(self._v, bias.shape), dv) + (bias << MANTISSA_SHIFT))
            fires = v > vth << MANTISSA_SHIFT
            self._v, fired[..., t] = np.where(fires, 0.0, v), fires
        if self.reset_interval:
            self.next_reset = (self.next_reset - n_steps) % self.reset_interval
        return fired.reshape(biases.shape)
