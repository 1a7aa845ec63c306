"""How spikes pass synapses neuron by neuron: rows of weights, or lists of those that exist."""

from __future__ import annotations

import numpy as np

from neurodeploy.machine_code import Array, compiled

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
