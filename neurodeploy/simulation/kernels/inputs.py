"""How input, which comes with time last, is turned into rows of spikes, one a step and sample."""

from __future__ import annotations

import numpy as np

from neurodeploy.machine_code import Array, compiled

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
