"""How neurons answer to what arrives."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurodeploy.fixedpoint import MANTISSA_SHIFT, STATE_MAX
from neurodeploy.machine_code import Array, compiled

BLOCK = 2048
"""So many neurons at a time stay in the first-level cache."""


@compiled
def answer(
    arriving: Array,
    u: Array,
    v: Array,
    registers: Array,
    fired: Array,
    membranes: Array,
    counts: Array,
    first_rest: int,
    rest: int,
    start: int,
    stop: int,
) -> int:
    """Move neurons start..stop - 1 on by some steps; how often currents wrapped and membranes saturated in them.

    `arriving` (n_steps, batch, n) is in weight units, and zeros are left in it. `registers` (4, n) are what a step keeps of u and
    of v in 4096ths, the bias and the threshold. `membranes` is filled where it has room. The states go back to rest before step
    `first_rest` and every `rest` steps from there on, unless `rest` is 0. Arithmetic as in `neurodeploy.fixedpoint`.
    """
    n_steps, batch = arriving.shape[:2]
    overflows = 0
    for b in range(batch):
        for first in range(start, stop, BLOCK):
            here = slice(first, min(first + BLOCK, stop))
            of_u, of_v, bias, threshold = registers[0, here], registers[1, here], registers[2, here], registers[3, here]
            for t in range(n_steps):
                if rest and t >= first_rest and (t - first_rest) % rest == 0:
                    u[b, here] = 0
                    v[b, here] = 0
                overflows += _hear(u[b, here], arriving[t, b, here], of_u)
                overflows += _leak(v[b, here], u[b, here], of_v, bias)
                _fire(v[b, here], threshold, fired[t, b, here], counts[b, here])
                if membranes.shape[0]:
                    membranes[t, b, here] = v[b, here]
    return overflows


@compiled
def _decayed(state: Any, kept: Any) -> Any:
    """Towards zero, ``|state| * kept >> 12``, in two halves of 12 bits: no product leaves 32 bits, and nothing branches."""
    sign = np.int32(state >> 31)
    size = np.int32(np.int32(state ^ sign) - sign)
    high, low = np.int32(size >> 12), np.int32(size & 4095)
    rest = np.int32(np.int32(high * kept) + np.int32(np.int32(low * kept) >> 12))
    return np.int32(np.int32(rest ^ sign) - sign)


@compiled
def _hear(u: Array, arriving: Array, kept: Array) -> Any:
    wraps = np.int32(0)
    for j in range(u.shape[0]):
        current = np.int32(_decayed(u[j], kept[j]) + np.int32(arriving[j] << MANTISSA_SHIFT))
        turn = np.int32(np.int32(current > STATE_MAX) - np.int32(current <= -STATE_MAX))
        wraps = np.int32(wraps + np.int32(turn * turn))
        u[j] = np.int32(current - np.int32(turn * np.int32(2 * STATE_MAX)))
        arriving[j] = 0
    return wraps


@compiled
def _leak(v: Array, u: Array, kept: Array, bias: Array) -> Any:
    stops = np.int32(0)
    for j in range(v.shape[0]):
        membrane = np.int32(np.int32(_decayed(v[j], kept[j]) + u[j]) + bias[j])
        within = np.int32(min(max(membrane, np.int32(1 - STATE_MAX)), np.int32(STATE_MAX - 1)))
        stops = np.int32(stops + np.int32(within != membrane))
        v[j] = within
    return stops


@compiled
def _fire(v: Array, threshold: Array, fired: Array, counts: Array) -> None:
    for j in range(v.shape[0]):
        fired[j] = v[j] > threshold[j]
        v[j] = 0 if v[j] > threshold[j] else v[j]
    for j in range(v.shape[0]):
        counts[j] = np.int32(counts[j] + fired[j])
