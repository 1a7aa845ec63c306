"""The emulator's inner loops, compiled: spikes add up behind synapses, neurons answer. All in whole numbers.

Numba turns each into machine code when it is first called and keeps that on disk. Loops run over neighbouring neurons, and
write to few arrays, so that they become vector instructions. They let go of Python's lock: parts of a batch run at once.

Spikes are rows of bytes, 0 or 1, as many as eight divides; the last of them may be nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from neurodeploy.fixedpoint import MANTISSA_SHIFT, STATE_MAX

Array = NDArray[Any]
F = TypeVar("F", bound="Callable[..., Any]")

BLOCK = 2048
"""So many neurons at a time stay in the first-level cache."""
ROWS_AT_ONCE = 8
"""Rows of weights that are added in one go."""
SPIKES_IN_16_BITS = 120
"""Weights of so many spikes add up within 16 bits: no weight is beyond +-256."""


def compiled(function: F) -> F:
    """Machine code for `function`, kept on disk where there is a place for it."""
    try:
        result: F = numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # neither beside the source nor in the user's folder
        result = numba.njit(function, nogil=True)
    return result


# ---------------------------------------------------------------------------------------------- spikes


@compiled
def who_fired(row: Array, eight: Array, found: Array) -> int:
    """How many fired, and in `found` who; `eight` is the row, eight neurons to a number."""
    n = 0
    for k in range(eight.shape[0]):
        if eight[k] != 0:
            for i in range(8 * k, 8 * k + 8):
                found[n] = i
                n += row[i] != 0
    return n


# ---------------------------------------------------------------------------------------------- synapses


@compiled
def add_rows(spikes: Array, table: Array, arriving: Array) -> None:
    """Add the row of weights of everybody who fires; `table` (n_in + 1, n_out), int16, ends with a row of zeros."""
    eights, nobody = spikes.view(np.uint64), table.shape[0] - 1
    found = np.empty(spikes.shape[1] + ROWS_AT_ONCE, np.uint32)
    sums = np.zeros(table.shape[1], np.int16)
    for r in range(spikes.shape[0]):
        n = who_fired(spikes[r], eights[r], found)
        while n % ROWS_AT_ONCE != 0:
            found[n] = nobody
            n += 1
        for first in range(0, n, SPIKES_IN_16_BITS):
            for k in range(first, min(first + SPIKES_IN_16_BITS, n), ROWS_AT_ONCE):
                _add_eight(sums, table, found[k : k + ROWS_AT_ONCE])
            _empty(sums, arriving[r])


@compiled
def _add_eight(sums: Array, table: Array, who: Array) -> None:
    a, b, c, d = table[who[0]], table[who[1]], table[who[2]], table[who[3]]
    e, f, g, h = table[who[4]], table[who[5]], table[who[6]], table[who[7]]
    for j in range(sums.shape[0]):
        half = np.int16(np.int16(a[j] + b[j]) + np.int16(c[j] + d[j]))
        other = np.int16(np.int16(e[j] + f[j]) + np.int16(g[j] + h[j]))
        sums[j] = np.int16(sums[j] + np.int16(half + other))


@compiled
def _empty(sums: Array, into: Array) -> None:
    for j in range(sums.shape[0]):
        into[j] = np.int32(into[j] + sums[j])
    sums[:] = 0


@compiled
def add_lists(spikes: Array, starts: Array, targets: Array, weights: Array, arriving: Array) -> None:
    """Add the weights of everybody who fires, synapse by synapse: those of neuron i are starts[i]..starts[i + 1] - 1."""
    eights = spikes.view(np.uint64)
    found = np.empty(spikes.shape[1] + 1, np.uint32)
    for r in range(spikes.shape[0]):
        into = arriving[r]
        for k in range(who_fired(spikes[r], eights[r], found)):
            for s in range(starts[found[k]], starts[found[k] + 1]):
                into[targets[s]] = np.int32(into[targets[s]] + weights[s])


@compiled
def add_windows(spikes: Array, place: Array, rows: Array, columns: Array, table: Array, sums: Array, arriving: Array) -> None:
    """Add a convolution's weights wherever a window stands on somebody who fires.

    `place` has channel, row and column of every input neuron. `rows` and `columns` list for each row (or column) of the image
    the runs of windows that see it: their number, then for each the first window, the first of the window's own rows, and how
    many there are; rows stand alone. `table` has the weights (channels, rows, columns, out channels of a group), `sums` (pixels,
    out channels) zeros to work in.
    """
    eights = spikes.view(np.uint64)
    height, width, n_channels, channels = table.shape[1], table.shape[2], table.shape[3], sums.shape[1]
    per_group, n_columns = table.shape[0] * n_channels // channels, columns[-1, 0]
    weights, at_pixels = table.reshape(-1), sums.reshape(-1)
    found = np.empty(spikes.shape[1] + 1, np.uint32)
    for r in range(spikes.shape[0]):
        for k in range(who_fired(spikes[r], eights[r], found)):
            c, y, x = place[found[k], 0], place[found[k], 1], place[found[k], 2]
            first = c // per_group * n_channels
            for a in range(1, 3 * rows[y, 0], 3):
                for b in range(1, 3 * columns[x, 0], 3):
                    into = (rows[y, a] * n_columns + columns[x, b]) * channels + first
                    out_of = ((c * height + rows[y, a + 1]) * width + columns[x, b + 1]) * n_channels
                    n = columns[x, b + 2] * n_channels
                    _add(at_pixels[into : into + n], weights[out_of : out_of + n])
        _turn(sums, arriving[r])


@compiled
def _add(sums: Array, weights: Array) -> None:
    for j in range(sums.shape[0]):
        sums[j] += weights[j]


@compiled
def _turn(sums: Array, into: Array) -> None:
    """Add sums (pixels, channels) to an image, channel by channel, and put them back to zero."""
    pixels, channels = sums.shape
    for first in range(0, pixels, 64):
        for f in range(channels):
            for p in range(first, min(first + 64, pixels)):
                into[f * pixels + p] = np.int32(into[f * pixels + p] + sums[p, f])
    sums[:] = 0


# ---------------------------------------------------------------------------------------------- neurons


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

    `arriving` (n_steps, batch, n) is in weight units; `registers` (4, n) are what a step keeps of u and of v in 4096ths, the
    bias and the threshold. `membranes` is filled where it has room. The states go back to rest before step `first_rest` and
    every `rest` steps from there on, unless `rest` is 0. Arithmetic as in `neurodeploy.fixedpoint`.
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
