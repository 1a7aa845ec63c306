"""How spikes pass a convolution as patterns: what eight places of its window add up to is looked up, not added up.

Several channels share a number of 64 bits, so one addition is theirs together. Loops run over all pixels of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neurodeploy.machine_code import Array, compiled

PLACES = 8
"""Places of a window that make up a pattern: as many as a byte has bits."""
AT_ONCE = 4
"""Patterns that are looked up in one go; there are as many in a group as this divides, the last of them empty."""


class Lookup(NamedTuple):
    """A convolution as tables; `neurodeploy.simulation.patterns` makes it, and says what is exact about it.

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
