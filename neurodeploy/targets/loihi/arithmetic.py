"""How the chip calculates: decay, wrap, saturate, and the weights that its synapses can hold.

The arithmetic is that of Lava 0.10's bit-accurate models (``lava/proc/lif/models.py: AbstractPyLifModelFixed``,
``lava/proc/dense/models.py: AbstractPyDenseModelBitAcc``, ``lava/utils/weightutils.py``), which is exact to Lava;
Loihi 1 silicon agrees where it was compared (Michaelis et al. 2022, Brian2Loihi).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurodeploy.ir.arrays import Integers

Whole = NDArray[np.float64]
"""Whole numbers in double precision: exact below 2**53, and a product of a 24-bit state and a 13-bit decay has 37 bits."""

DECAY_UNITY = 4096
"""A decay of 4096 forgets everything in a step, one of 0 nothing (12-bit registers)."""
STATE_MAX = 1 << 23
"""u and v are signed 24-bit numbers."""
MANTISSA_SHIFT = 6
"""Weights, thresholds and biases enter the state shifted left by six bits."""
THRESHOLD_MAX = (1 << 17) - 1
"""Largest threshold mantissa (17 bits)."""
NEVER_FIRES = 1 << 17
"""A threshold mantissa that a saturated membrane does not pass; Lava's own default for an integrator."""
BIAS_MIN, BIAS_MAX = -4096, 4095
"""Range of the bias mantissa (13 bits, signed)."""
MIXED_MIN, MIXED_MAX = -256, 254
"""Range of weights of both signs: eight bits, one of them the sign, so even numbers."""
SINGLE_SIGN_MAX = 255
"""Largest magnitude of weights that are all of one sign."""


def decayed(state: Whole, decay: Integers | int, out: Whole | None = None) -> Whole:
    """`state` after one step of a decay in 0..4096: ``sign(x) * (|x| * (4096 - decay) >> 12)``, towards zero."""
    kept: Whole = np.multiply(state, (DECAY_UNITY - decay) / DECAY_UNITY, out=out)
    return np.trunc(kept, out=out)


def wrapped(current: Whole) -> Whole:
    """A current past its 24 bits comes round once, as Lava has it: 2**23 itself still stands, -2**23 does not."""
    over = 2 * STATE_MAX
    result: Whole = current - over * (current > STATE_MAX) + over * (current <= -STATE_MAX)
    return result


def saturated(voltage: Whole) -> Whole:
    """A membrane past its 24 bits stays at +-(2**23 - 1)."""
    return np.clip(voltage, -STATE_MAX + 1, STATE_MAX - 1)


def is_mixed(weight: Integers) -> bool:
    """Whether a weight matrix has both signs and so spends a bit of each weight on the sign."""
    return bool(weight.size) and int(weight.min()) < 0 < int(weight.max())


def width_of(weight: Integers) -> int:
    """Fewest bits a weight (sign included) that hold these integers exactly; 0 for none but zeros.

    A matrix of both signs holds even numbers only (the chip's lowest bit is the sign), so ``{-2, 0, 2}`` is 2 bits wide.
    """
    if not weight.any():
        return 0
    step = int(np.gcd.reduce(np.abs(weight), axis=None))
    step &= -step  # the largest power of two that divides every weight
    largest = max(int(weight.max()), -int(weight.min()) - (1 if is_mixed(weight) else 0)) // step
    return max(1, largest.bit_length()) + (1 if is_mixed(weight) else 0)


def as_lava_reads(weight: Integers) -> Integers:
    """The weights with which Lava runs a netx layer that stores `weight`; equal to `weight` where all is well.

    netx derives bits and exponent from the integers (``netx/utils.py: optimize_weight_bits``), Lava's synapse then
    clips and truncates by a sign mode of its own. They disagree where no weight is positive, for example on negative
    powers of two (``[[0, -2]]`` runs as ``[[0, -1]]``) and on odd ones beside a zero (``[[0, -129]]`` runs as zeros).

    Raises
    ------
    OverflowError
        All weights are zero: Lava takes the logarithm of infinity.
    """
    return as_lava_reads_together(weight)[0]


def as_lava_reads_together(*weights: Integers) -> list[Integers]:
    """`as_lava_reads` for matrices of which netx derives bits and exponent together, as it does in a ``dense_rec`` layer."""
    low, high = min(int(weight.min()) for weight in weights), max(int(weight.max()) for weight in weights)
    if low == high == 0:
        raise OverflowError("an all-zero weight matrix has no exponent")
    if (high > MIXED_MAX and low < 0) or (low < MIXED_MIN and high > 0):
        weights = tuple(np.clip(weight, MIXED_MIN, MIXED_MAX) for weight in weights)
        low, high = max(low, MIXED_MIN), min(high, MIXED_MAX)
    signed = 0 if high < 0 or low >= 0 else 1
    if signed:
        scale = min(127 / high if high else np.inf, -128 / low)
    else:
        scale = 255 / high if low >= 0 else -256 / low
    shift = int(np.floor(np.log2(scale))) + signed
    whole = (n for n in range(8, 0, -1) if not any((weight % (1 << n)).any() for weight in weights))
    bits = 8 - shift - (next(whole, 0) - signed)
    if shift < 0:  # past the widest weight: Lava shifts by a negative number, which NumPy answers with 0
        return [np.zeros_like(weight) for weight in weights]
    return [_truncated(weight << shift, bits) >> shift for weight in weights]


def _truncated(weight: Integers, bits: int) -> Integers:
    """Lava's ``clip_weights`` and ``truncate_weights`` for an 8-bit synapse of `bits` bits."""
    mixed = not (weight.min() >= 0 or weight.max() <= 0)
    sign = -1 if not mixed and weight.min() < 0 else 1
    magnitude = np.clip(sign * weight, -256 if mixed else 0, 255)
    drop = 8 - bits + (1 if mixed else 0)
    if drop < 0:  # odd, of zeros and below -128: Lava shifts by a negative number, which NumPy answers with 0
        return np.zeros_like(weight)
    return sign * ((magnitude >> drop) << drop)
