"""How spikes pass few synapses in many rows at once: for every synapse that exists, the loop runs over rows.

Indices are unsigned: those that could wrap keep a loop from becoming vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neurodeploy.machine_code import Array, compiled

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
