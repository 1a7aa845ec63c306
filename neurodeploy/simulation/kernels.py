"""Compiled inner loops: spikes through synapses, added up in 16 and 32-bit integers.

Spikes are rows (steps x samples, n_in padded to whole words), uint8, 0 or 1; inputs are (rows, n_out), int32. The loops are
written for LLVM's vectorizer: integer types are spelled out, since a sum that widens to 64 bits halves the lanes, and indices
are unsigned where a wrapping index would keep a loop from being vectorized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache
from numpy.typing import NDArray

Array = NDArray[Any]
F = TypeVar("F", bound="Callable[..., Any]")


class CodeCache(FunctionCache):
    """Machine code on disk; a full disk, or one that cannot be read, only costs the time to compile."""

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        with suppress(OSError):
            yield


def compiled(function: F) -> F:
    """Compile `function` with Numba when it is first called, and cache the machine code on disk where that is possible.

    Divisions by zero are not checked (``error_model="numpy"``): a loop that may raise is not vectorized.
    """
    # nogil: threads of one process run kernels at the same time.
    result: Any = numba.njit(function, nogil=True, error_model="numpy")
    with suppress(RuntimeError):  # neither the package's nor the user's cache folder can be written
        result._cache = CodeCache(function)  # type: ignore[no-untyped-call]  # numba has no types
    return cast("F", result)


# ---------------------------------------------------------------------------------------------- input

TRANSPOSE_BLOCK = np.uint64(1024)
"""Inputs that are transposed together: with all their steps they stay in the first-level cache."""


@compiled
def load_steps(spikes: Array, start: int, into: Array) -> None:
    """Fill `into` (steps, batch, n or more) with the steps of `spikes` (batch, n, all steps) from `start` on."""
    n, n_steps, flat = np.uint64(spikes.shape[1]), np.uint64(spikes.shape[2]), spikes.reshape(-1)
    for b in range(into.shape[1]):
        for first in range(np.uint64(0), n, TRANSPOSE_BLOCK):
            last = min(first + TRANSPOSE_BLOCK, n)
            for t in range(into.shape[0]):
                row, sample = into[t, b], np.uint64(b) * n * n_steps + np.uint64(start + t)
                for i in range(first, last):
                    # Time is the last axis of the input, so neighbouring inputs lie n_steps apart.
                    row[i] = flat[sample + i * n_steps]


# ---------------------------------------------------------------------------------------------- row gather and CSC

ROWS_PER_GROUP = 8
"""Rows of weights that are added in one pass over the sums."""
SPIKES_IN_16_BITS = 120  # times 256 is 30,720
"""Weights of so many spikes add up within 16 bits, since no weight is beyond +-256; a multiple of `ROWS_PER_GROUP`."""


@compiled
def active_inputs(row: Array, eight: Array, found: Array) -> int:
    """Count the neurons that fired and write their indices into `found`; `eight` views the row as words of eight neurons."""
    n = 0
    for k in range(eight.shape[0]):
        if eight[k] != 0:
            for i in range(8 * k, 8 * k + 8):
                # Without a branch: every index is written, and stays only if its neuron fired.
                found[n] = i
                n += row[i] != 0
    return n


@compiled
def add_rows(spikes: Array, table: Array, inputs: Array) -> None:
    """Add the weight rows of the neurons that fire; `table` (n_in + 1, n_out), int16, ends with a row of zeros."""
    eights, row_of_zeros = spikes.view(np.uint64), table.shape[0] - 1
    found = np.empty(spikes.shape[1] + ROWS_PER_GROUP, np.uint32)
    sums = np.zeros(table.shape[1], np.int16)
    for r in range(spikes.shape[0]):
        n = active_inputs(spikes[r], eights[r], found)
        while n % ROWS_PER_GROUP != 0:  # so that the loop below adds whole groups
            found[n] = row_of_zeros
            n += 1
        for first in range(0, n, SPIKES_IN_16_BITS):
            for k in range(first, min(first + SPIKES_IN_16_BITS, n), ROWS_PER_GROUP):
                _add_eight(sums, table, found[k : k + ROWS_PER_GROUP])
            _flush(sums, inputs[r])  # before 16 bits can overflow


@compiled
def _add_eight(sums: Array, table: Array, index: Array) -> None:
    """Add eight rows of the table to the sums, as a tree: its additions do not wait for each other."""
    a, b, c, d = table[index[0]], table[index[1]], table[index[2]], table[index[3]]
    e, f, g, h = table[index[4]], table[index[5]], table[index[6]], table[index[7]]
    for j in range(sums.shape[0]):
        half = np.int16(np.int16(a[j] + b[j]) + np.int16(c[j] + d[j]))
        other = np.int16(np.int16(e[j] + f[j]) + np.int16(g[j] + h[j]))
        sums[j] = np.int16(sums[j] + np.int16(half + other))


@compiled
def _flush(sums: Array, into: Array) -> None:
    """Add the 16-bit sums to the row of inputs and clear them."""
    for j in range(sums.shape[0]):
        into[j] = np.int32(into[j] + sums[j])
    sums[:] = 0


@compiled
def add_csc(spikes: Array, starts: Array, targets: Array, weights: Array, inputs: Array) -> None:
    """Add the synapses of the neurons that fire: those of neuron i are starts[i]..starts[i + 1] - 1."""
    eights = spikes.view(np.uint64)
    found = np.empty(spikes.shape[1] + 1, np.uint32)
    for r in range(spikes.shape[0]):
        into = inputs[r]
        for k in range(active_inputs(spikes[r], eights[r], found)):
            for s in range(starts[found[k]], starts[found[k] + 1]):
                into[targets[s]] = np.int32(into[targets[s]] + weights[s])


# ---------------------------------------------------------------------------------------------- CSR

ROWS_PER_BLOCK = 512
"""Rows of spikes that are worked on together: a synapse's source in all of them is one contiguous read."""
SYNAPSES_PER_GROUP = 8
"""Synapses of a target that are added in one pass; lists are padded to a multiple, with weights of zero."""
TARGETS_PER_BLOCK = np.uint64(16)
"""Targets whose sums are collected before they are written to the rows of inputs: one cache line of 16 numbers a row."""
LANES = 32
"""Rows are padded to a multiple of this, the bytes of a vector register: with fewer rows there is nothing to gain."""

# Typed, because Numba turns a sum of signed and unsigned 64-bit integers into a float.
NONE, ONE = np.uint64(0), np.uint64(1)


@compiled
def add_csr(spikes: Array, starts: Array, sources: Array, weights: Array, sums: Array, inputs: Array) -> None:
    """Add synapses target by target: those of target t are starts[t]..starts[t + 1] - 1 (uint64), with their `sources` (uint32).

    `sums` (TARGETS_PER_BLOCK * ROWS_PER_BLOCK,) is scratch memory, of an integer type that holds the input of every target.
    """
    n_rows, n_out, flat, into = np.uint64(len(spikes)), np.uint64(len(starts) - 1), spikes.reshape(-1), inputs.reshape(-1)
    n_in = np.uint64(spikes.shape[1])
    columns = np.zeros(spikes.shape[1] * ROWS_PER_BLOCK, np.uint8)
    for first in range(NONE, n_rows, np.uint64(ROWS_PER_BLOCK)):
        n = min(np.uint64(ROWS_PER_BLOCK), n_rows - first)
        # Whole vectors. The surplus rows hold old spikes; their sums are computed and not read.
        wide = (n + np.uint64(LANES - 1)) // np.uint64(LANES) * np.uint64(LANES)
        _transpose(flat[first * n_in : (first + n) * n_in], n_in, n, wide, columns)
        for target in range(NONE, n_out, TARGETS_PER_BLOCK):
            some = min(TARGETS_PER_BLOCK, n_out - target)
            for t in range(some):
                _sum_target(
                    sums[t * wide : (t + ONE) * wide], columns, sources, weights, starts[target + t], starts[target + t + ONE]
                )
            for r in range(n):
                place = (first + r) * n_out + target
                for t in range(some):
                    into[place + t] = np.int32(into[place + t] + sums[t * wide + r])


@compiled
def _transpose(rows: Array, n_in: Any, n: Any, wide: Any, columns: Array) -> None:
    """Write `n` rows of spikes (n_in each) as columns of `wide` bytes, one an input."""
    for i in range(n_in):
        for r in range(n):
            columns[i * wide + r] = rows[r * n_in + i]


@compiled
def _sum_target(sums: Array, columns: Array, sources: Array, weights: Array, start: Any, stop: Any) -> None:
    """Compute the input of one target in all rows; eight weights, each within +-256, add up within 16 bits."""
    wide = np.uint64(sums.shape[0])
    for j in range(wide):
        sums[j] = 0
    for k in range(start, stop, np.uint64(SYNAPSES_PER_GROUP)):
        # A source's spikes in all rows are `wide` bytes from here on.
        a, b, c, d = sources[k] * wide, sources[k + 1] * wide, sources[k + 2] * wide, sources[k + 3] * wide
        e, f, g, h = sources[k + 4] * wide, sources[k + 5] * wide, sources[k + 6] * wide, sources[k + 7] * wide
        of_a, of_b, of_c, of_d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        of_e, of_f, of_g, of_h = weights[k + 4], weights[k + 5], weights[k + 6], weights[k + 7]
        for j in range(wide):
            ab = np.int16(np.int16(columns[a + j] * of_a) + np.int16(columns[b + j] * of_b))
            cd = np.int16(np.int16(columns[c + j] * of_c) + np.int16(columns[d + j] * of_d))
            ef = np.int16(np.int16(columns[e + j] * of_e) + np.int16(columns[f + j] * of_f))
            gh = np.int16(np.int16(columns[g + j] * of_g) + np.int16(columns[h + j] * of_h))
            # Eight weights stay within 16 bits; `sums` may be wider.
            sums[j] += np.int16(np.int16(ab + cd) + np.int16(ef + gh))


# ---------------------------------------------------------------------------------------------- scatter


@compiled
def add_windows(spikes: Array, place: Array, rows: Array, columns: Array, table: Array, sums: Array, inputs: Array) -> None:
    """Add a convolution spike by spike: each adds weights to the windows that see it.

    Parameters
    ----------
    place : array (n_in, 3), int32
        Channel, row and column of every input neuron.
    rows, columns : arrays of int32
        Runs of windows that see each row and column of the image, as `neurodeploy.simulation.kernel_dispatch.window_runs` has
        them; runs of rows have one window each.
    table : array (channels, rows, columns, output channels of a group), int16
        Weights.
    sums : array (pixels, output channels)
        Zeros; scratch memory, pixel by pixel so that the channels of a window are contiguous.
    """
    eights = spikes.view(np.uint64)
    height, width, n_channels, channels = table.shape[1], table.shape[2], table.shape[3], sums.shape[1]
    per_group, n_columns = table.shape[0] * n_channels // channels, columns[-1, 0]
    weights, at_pixels = table.reshape(-1), sums.reshape(-1)
    found = np.empty(spikes.shape[1] + 1, np.uint32)
    for r in range(spikes.shape[0]):
        for k in range(active_inputs(spikes[r], eights[r], found)):
            c, y, x = place[found[k], 0], place[found[k], 1], place[found[k], 2]
            # First output channel of the spike's group.
            first = c // per_group * n_channels
            # Entry 0 counts the runs; each run has three numbers behind it.
            for a in range(1, 3 * rows[y, 0], 3):
                for b in range(1, 3 * columns[x, 0], 3):
                    into = (rows[y, a] * n_columns + columns[x, b]) * channels + first
                    out_of = ((c * height + rows[y, a + 1]) * width + columns[x, b + 1]) * n_channels
                    # A run of windows lies side by side in `sums`, and its weights in the table: one addition for all.
                    n = columns[x, b + 2] * n_channels
                    _add(at_pixels[into : into + n], weights[out_of : out_of + n])
        _add_transposed(sums, inputs[r])


@compiled
def _add(sums: Array, weights: Array) -> None:
    """Add a run of weights; a function of its own, so that LLVM sees two arrays and vectorizes the loop."""
    for j in range(sums.shape[0]):
        sums[j] += weights[j]


@compiled
def _add_transposed(sums: Array, into: Array) -> None:
    """Add sums (pixels, channels) to a row of inputs (channels, pixels) and clear them."""
    pixels, channels = sums.shape
    # 64 pixels at a time, whose channels stay in the first-level cache
    for first in range(0, pixels, 64):
        for f in range(channels):
            for p in range(first, min(first + 64, pixels)):
                into[f * pixels + p] = np.int32(into[f * pixels + p] + sums[p, f])
    sums[:] = 0


# ---------------------------------------------------------------------------------------------- lookup

PLACES_PER_CODE = 8
"""Places of a window whose spikes make up a code: the bits of a byte."""
CODES_PER_LOOKUP = 4
"""Codes that are looked up in one pass; a group's codes are padded to a multiple."""


class Lookup(NamedTuple):
    """Tables of a convolution; `neurodeploy.simulation.kernel_dispatch.LookupLayout` makes them and explains why they are exact.

    The padded image is split by stride into images of its own, so that neighbouring windows see neighbouring pixels:
    image[c, a, b, y, x] has the channel's row y * stride + a and column x * stride + b. Windows are numbered along its rows and
    are as many in a row as these have pixels; those past the output's width are computed and not used.
    """

    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    image_shape: tuple[int, int, int, int, int]
    places: Array
    """(codes, 8) int64: index in the image of each place of window 0; -1 for none."""
    table: Array
    """(words, codes of a group, 256) uint64: what each value of a code adds to the channels of a word."""
    first_code: Array
    """(words,) int64"""
    start: Array
    """(words,) uint64: initial sums, high enough that none goes below zero."""
    word: Array
    """(output channels,) int64: the word that has the channel's sum,"""
    shift: Array
    """(output channels,) uint64: the bit at which it begins there,"""
    mask: np.uint64
    """and the mask of its bits, shifted down."""
    offset: Array
    """(output channels,) int32: the channel's part of `start`."""


@compiled
def add_lookup(spikes: Array, lookup: Lookup, inputs: Array) -> None:
    """Add a convolution by table lookup, all windows of a row of spikes at once."""
    c, s, t, rows, columns = lookup.image_shape
    n_windows = lookup.output_shape[1] * columns
    # One row more: windows past the output's width read beyond the last image.
    image = np.zeros((c * s * t * rows + 1) * columns, np.uint8)
    phases = np.empty((t, spikes.shape[1] // t + 1), np.uint8)
    # Codes that fill up a group have no places: they stay 0, and entry 0 of every table is 0.
    codes = np.zeros((lookup.places.shape[0], n_windows), np.uint8)
    sums = np.empty((lookup.table.shape[0], n_windows), np.uint64)
    for r in range(spikes.shape[0]):
        _split_by_stride(spikes[r], phases, image, lookup)
        _encode(image, lookup.places, codes)
        for w in range(sums.shape[0]):
            sums[w] = lookup.start[w]
            first = lookup.first_code[w]
            for q in range(0, lookup.table.shape[1], CODES_PER_LOOKUP):
                _look_up(sums[w], lookup.table[w, q : q + CODES_PER_LOOKUP], codes[first + q : first + q + CODES_PER_LOOKUP])
        _unpack(sums, lookup, columns, inputs[r])


@compiled
def _split_by_stride(row: Array, phases: Array, image: Array, lookup: Lookup) -> None:
    """Copy a row of spikes into the image split by stride; the padding stays zero."""
    _, s, t, rows, columns = lookup.image_shape
    channels, height, width = lookup.input_shape
    above, left = lookup.padding
    _deinterleave(row, phases)
    flat = phases.reshape(-1)
    for c in range(channels):
        for y in range(min(height, rows * s - above)):
            line = ((c * s + (y + above) % s) * t * rows + (y + above) // s) * columns
            for b in range(t):
                skipped = max(0, (left - b + t - 1) // t)  # pixels of this phase in the left padding
                x = skipped * t + b - left
                n = min(columns - skipped, (width - x + t - 1) // t)
                if n > 0:
                    into, place = line + b * rows * columns + skipped, (c * height + y) * width + x
                    out_of = place % t * phases.shape[1] + place // t
                    image[into : into + n] = flat[out_of : out_of + n]


@compiled
def _deinterleave(row: Array, phases: Array) -> None:
    """Write every n-th element of the row to each of n phases; strides 1 and 2 are spelled out, which vectorizes them."""
    n_phases, n = phases.shape[0], row.shape[0]
    if n_phases == 1:
        phases[0, :n] = row
    elif n_phases == 2:
        for k in range(n // 2):
            phases[0, k] = row[2 * k]
            phases[1, k] = row[2 * k + 1]
    else:
        for b in range(n_phases):
            for k in range((n - b + n_phases - 1) // n_phases):
                phases[b, k] = row[b + n_phases * k]


@compiled
def _encode(image: Array, places: Array, codes: Array) -> None:
    """Compute the codes of every window, a bit for a place."""
    n = codes.shape[1]
    for q in range(codes.shape[0]):
        code = codes[q]
        code[:] = 0
        for k in range(PLACES_PER_CODE):
            if places[q, k] >= 0:
                seen = image[places[q, k] : places[q, k] + n]
                for p in range(n):
                    code[p] = np.uint8(code[p] | np.uint8(seen[p] << k))


@compiled
def _look_up(sums: Array, table: Array, codes: Array) -> None:
    """Add the table entries of four codes to the sums of every window."""
    a, b, c, d = table[0], table[1], table[2], table[3]
    i, j, k, m = codes[0], codes[1], codes[2], codes[3]
    for p in range(sums.shape[0]):
        sums[p] += (a[i[p]] + b[j[p]]) + (c[k[p]] + d[m[p]])


@compiled
def _unpack(sums: Array, lookup: Lookup, columns: int, into: Array) -> None:
    """Add each channel's field of the sums to its image of inputs."""
    channels, height, width = lookup.output_shape
    for f in range(channels):
        shift, offset = lookup.shift[f], lookup.offset[f]
        for y in range(height):
            of = sums[lookup.word[f], y * columns : y * columns + width]
            line = into[(f * height + y) * width : (f * height + y + 1) * width]
            for x in range(width):
                # Less the start value, which kept the field above zero.
                line[x] = np.int32(line[x] + np.int32(np.int32((of[x] >> shift) & lookup.mask) - offset))
