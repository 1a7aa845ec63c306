"""How spikes pass a convolution one by one: each adds weights to the windows that see it."""

from __future__ import annotations

import numpy as np

from neurodeploy.machine_code import Array, compiled
from neurodeploy.simulation.kernels.synapses import who_fired


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
