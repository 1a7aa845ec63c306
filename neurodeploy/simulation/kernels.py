"""How a loop becomes machine code: Numba compiles it when it is first called, and keeps that on disk.

How input, which comes with time last, is turned into rows of spikes, one a step and sample.

How spikes pass synapses neuron by neuron: rows of weights, or lists of those that exist.

How spikes pass few synapses in many rows at once: for every synapse that exists, the loop runs over rows.

Indices are unsigned: those that could wrap keep a loop from becoming vector instructions.

How spikes pass a convolution one by one: each adds weights to the windows that see it.

How spikes pass a convolution as patterns: what eight places of its window add up to is looked up, not added up.

Several channels share a number of 64 bits, so one addition is theirs together. Loops run over all pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

# -------------------- machine_code

Array = NDArray[Any]
F = TypeVar("F", bound="Callable[..., Any]")


def compiled(function: F) -> F:
    """Machine code for `function`, kept on disk where there is a place for it.

    Nothing looks out for divisions by zero: loops that could raise an error are not turned into vector instructions.
    """
    try:
        result: F = numba.njit(function, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # neither beside the source nor in the user's folder
        result = numba.njit(function, nogil=True, error_model="numpy")
    return result


# -------------------- simulation.kernels.inputs


BLOCK = np.uint64(1024)
"""So many inputs at a time, with all their steps, stay in the first-level cache."""


@compiled
def turn(given: Array, start: int, into: Array) -> None:
    """Fill `into` (steps, batch, n or more) with the steps of `given` (batch, n, all steps) from `start` on."""
    n, n_steps, flat = np.uint64(given.shape[1]), np.uint64(given.shape[2]), given.reshape(-1)  # unsigned: no index wraps
    for b in range(into.shape[1]):
        for first in range(np.uint64(0), n, BLOCK):
            last = min(first + BLOCK, n)
            for t in range(into.shape[0]):
                row, sample = into[t, b], np.uint64(b) * n * n_steps + np.uint64(start + t)
                for i in range(first, last):
                    row[i] = flat[sample + i * n_steps]


# -------------------- simulation.kernels.synapses


ROWS_AT_ONCE = 8
"""Rows of weights that are added in one go."""
SPIKES_IN_16_BITS = 120
"""Weights of so many spikes add up within 16 bits: no weight is beyond +-256."""


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


# -------------------- simulation.kernels.columns


ROWS = 512
"""So many rows are worked on together: what one input fires in them is read in one go."""
SYNAPSES = 8
"""Synapses of a target that are added in one go; its list is as long as this divides, weights of zero filling it up."""
TARGETS = np.uint64(16)
"""Sums of so many targets are put together before they are added to the rows that they belong to."""
LANES = 32
"""Rows stand beside each other in as many places as this divides: for fewer rows there is nothing to gain."""

NONE, ONE = np.uint64(0), np.uint64(1)


@compiled
def add_columns(spikes: Array, starts: Array, sources: Array, weights: Array, sums: Array, arriving: Array) -> None:
    """Add weights target by target: those of target t are starts[t]..starts[t + 1] - 1 (uint64), with their `sources` (uint32).

    `sums` (TARGETS * ROWS,) is to work in, of a type that holds each target's.
    """
    n_rows, n_out, given, into = np.uint64(len(spikes)), np.uint64(len(starts) - 1), spikes.reshape(-1), arriving.reshape(-1)
    n_in = np.uint64(spikes.shape[1])
    columns = np.zeros(spikes.shape[1] * ROWS, np.uint8)
    for first in range(NONE, n_rows, np.uint64(ROWS)):
        n = min(np.uint64(ROWS), n_rows - first)
        wide = (n + np.uint64(LANES - 1)) // np.uint64(LANES) * np.uint64(LANES)
        _stand(given[first * n_in : (first + n) * n_in], n_in, n, wide, columns)
        for target in range(NONE, n_out, TARGETS):
            some = min(TARGETS, n_out - target)
            for t in range(some):
                _add_up(
                    sums[t * wide : (t + ONE) * wide], columns, sources, weights, starts[target + t], starts[target + t + ONE]
                )
            for r in range(n):
                place = (first + r) * n_out + target
                for t in range(some):
                    into[place + t] = np.int32(into[place + t] + sums[t * wide + r])


@compiled
def _stand(rows: Array, n_in: Any, n: Any, wide: Any, columns: Array) -> None:
    """Put what an input fires in all rows side by side."""
    for i in range(n_in):
        for r in range(n):
            columns[i * wide + r] = rows[r * n_in + i]


@compiled
def _add_up(sums: Array, columns: Array, sources: Array, weights: Array, start: Any, stop: Any) -> None:
    """The sums of a target: eight synapses add up within 16 bits."""
    wide = np.uint64(sums.shape[0])
    for j in range(wide):
        sums[j] = 0
    for k in range(start, stop, np.uint64(SYNAPSES)):
        a, b, c, d = sources[k] * wide, sources[k + 1] * wide, sources[k + 2] * wide, sources[k + 3] * wide
        e, f, g, h = sources[k + 4] * wide, sources[k + 5] * wide, sources[k + 6] * wide, sources[k + 7] * wide
        of_a, of_b, of_c, of_d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        of_e, of_f, of_g, of_h = weights[k + 4], weights[k + 5], weights[k + 6], weights[k + 7]
        for j in range(wide):
            ab = np.int16(np.int16(columns[a + j] * of_a) + np.int16(columns[b + j] * of_b))
            cd = np.int16(np.int16(columns[c + j] * of_c) + np.int16(columns[d + j] * of_d))
            ef = np.int16(np.int16(columns[e + j] * of_e) + np.int16(columns[f + j] * of_f))
            gh = np.int16(np.int16(columns[g + j] * of_g) + np.int16(columns[h + j] * of_h))
            sums[j] += np.int16(np.int16(ab + cd) + np.int16(ef + gh))


# -------------------- simulation.kernels.windows


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


# -------------------- simulation.kernels.patterns


PLACES = 8
"""Places of a window that make up a pattern: as many as a byte has bits."""
AT_ONCE = 4
"""Patterns that are looked up in one go; there are as many in a group as this divides, the last of them empty."""


class Lookup(NamedTuple):
    """A convolution as tables; `neurodeploy.simulation.kernel_dispatch` makes it, and says what is exact about it.

    The padded image is parted by stride into images of its own, so that neighbouring windows see neighbours: image[c, a, b, y, x]
    has the channel's row y * stride + a and column x * stride + b. Windows are numbered along its rows, as wide as these are.
    """

    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    image_shape: tuple[int, int, int, int, int]
    places: Array
    """(patterns, 8) int64: where in the image window 0 has them; -1 for none."""
    table: Array
    """(words, patterns of a group, 256) uint64: what each pattern adds to the channels of a word."""
    first_pattern: Array
    """(words,) int64"""
    start: Array
    """(words,) uint64: where sums begin, high enough that none goes below zero."""
    word: Array
    """(out channels,) int64: which has its sum ..."""
    shift: Array
    """... (out channels,) uint64: from which bit on ..."""
    mask: np.uint64
    """... and its bits, moved down there."""
    less: Array
    """(out channels,) int32: the channel's part of `start`."""


@compiled
def add_patterns(spikes: Array, lookup: Lookup, arriving: Array) -> None:
    """Add a convolution's weights, all windows at once."""
    c, s, t, rows, columns = lookup.image_shape
    n_windows = lookup.output_shape[1] * columns
    image = np.zeros((c * s * t * rows + 1) * columns, np.uint8)
    dealt = np.empty((t, spikes.shape[1] // t + 1), np.uint8)
    codes = np.zeros((lookup.places.shape[0], n_windows), np.uint8)
    sums = np.empty((lookup.table.shape[0], n_windows), np.uint64)
    for r in range(spikes.shape[0]):
        _part(spikes[r], dealt, image, lookup)
        _encode(image, lookup.places, codes)
        for w in range(sums.shape[0]):
            sums[w] = lookup.start[w]
            first = lookup.first_pattern[w]
            for q in range(0, lookup.table.shape[1], AT_ONCE):
                _look_up(sums[w], lookup.table[w, q : q + AT_ONCE], codes[first + q : first + q + AT_ONCE])
        _unpack(sums, lookup, columns, arriving[r])


@compiled
def _part(row: Array, dealt: Array, image: Array, lookup: Lookup) -> None:
    """Lay a row of spikes out as the parted image; what is padding stays zero."""
    _, s, t, rows, columns = lookup.image_shape
    channels, height, width = lookup.input_shape
    above, left = lookup.padding
    _deal(row, dealt)
    cards = dealt.reshape(-1)
    for c in range(channels):
        for y in range(min(height, rows * s - above)):
            line = ((c * s + (y + above) % s) * t * rows + (y + above) // s) * columns
            for b in range(t):
                skipped = max(0, (left - b + t - 1) // t)
                x = skipped * t + b - left
                n = min(columns - skipped, (width - x + t - 1) // t)
                if n > 0:
                    into, place = line + b * rows * columns + skipped, (c * height + y) * width + x
                    out_of = place % t * dealt.shape[1] + place // t
                    image[into : into + n] = cards[out_of : out_of + n]


@compiled
def _deal(row: Array, dealt: Array) -> None:
    """Every so many places apart, from each beginning; said in full where that makes vector instructions."""
    hands, n = dealt.shape[0], row.shape[0]
    if hands == 1:
        dealt[0, :n] = row
    elif hands == 2:
        for k in range(n // 2):
            dealt[0, k] = row[2 * k]
            dealt[1, k] = row[2 * k + 1]
    else:
        for b in range(hands):
            for k in range((n - b + hands - 1) // hands):
                dealt[b, k] = row[b + hands * k]


@compiled
def _encode(image: Array, places: Array, codes: Array) -> None:
    """The pattern of every window, a bit for a place."""
    n = codes.shape[1]
    for q in range(codes.shape[0]):
        code = codes[q]
        code[:] = 0
        for k in range(PLACES):
            if places[q, k] >= 0:
                seen = image[places[q, k] : places[q, k] + n]
                for p in range(n):
                    code[p] = np.uint8(code[p] | np.uint8(seen[p] << k))


@compiled
def _look_up(sums: Array, table: Array, codes: Array) -> None:
    a, b, c, d = table[0], table[1], table[2], table[3]
    i, j, k, m = codes[0], codes[1], codes[2], codes[3]
    for p in range(sums.shape[0]):
        sums[p] += (a[i[p]] + b[j[p]]) + (c[k[p]] + d[m[p]])


@compiled
def _unpack(sums: Array, lookup: Lookup, columns: int, into: Array) -> None:
    """Add each channel's part of the sums to its image."""
    channels, height, width = lookup.output_shape
    for f in range(channels):
        shift, less = lookup.shift[f], lookup.less[f]
        for y in range(height):
            of = sums[lookup.word[f], y * columns : y * columns + width]
            line = into[(f * height + y) * width : (f * height + y + 1) * width]
            for x in range(width):
                line[x] = np.int32(line[x] + np.int32(np.int32((of[x] >> shift) & lookup.mask) - less))
