"""The ways through a synapse, each made ready: its weights laid out as the compiled loops of `kernels` want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from neurodeploy.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse
from neurodeploy.simulation.kernels.columns import ROWS, SYNAPSES, TARGETS, add_columns
from neurodeploy.simulation.kernels.patterns import add_patterns
from neurodeploy.simulation.kernels.synapses import add_lists, add_rows
from neurodeploy.simulation.kernels.windows import add_windows
from neurodeploy.simulation.patterns import lookup_of
from neurodeploy.simulation.products import Number, product_of

Way: TypeAlias = "Callable[[NDArray[Any], NDArray[np.int32]], None]"
"""Add what spikes (rows, n_in or more) weigh to what arrives (rows, n_out)."""


def product(synapse: QuantizedSynapse, number: Number) -> Way:
    """By a matrix product in floats that are exact."""
    product, n_in = product_of(synapse, number), synapse.n_in

    def way(spikes: NDArray[Any], arriving: NDArray[np.int32]) -> None:
        arriving += product(spikes[:, :n_in]).astype(np.int32)

    return way


def rows(synapse: QuantizedDense) -> Way:
    """Rows of weights of whoever fires."""
    table = np.zeros((synapse.n_in + 1, synapse.n_out), dtype=np.int16)
    table[:-1] = synapse.weight.T
    return lambda spikes, arriving: add_rows(spikes, table, arriving)


def lists(synapse: QuantizedDense | QuantizedSparse) -> Way:
    """Synapse by synapse, as they leave whoever fires."""
    by_source = _by_target(synapse).tocsc()
    starts, targets, weights = by_source.indptr.astype(np.int64), by_source.indices.astype(np.int32), by_source.data
    return lambda spikes, arriving: add_lists(spikes, starts, targets, weights, arriving)


def columns(synapse: QuantizedDense | QuantizedSparse) -> Way:
    """Synapse by synapse, as they reach a neuron, in many rows at once."""
    by_target = _by_target(synapse)
    counts = np.diff(by_target.indptr)
    starts = np.concatenate([[0], np.cumsum(-(-counts // SYNAPSES) * SYNAPSES)])
    places = np.arange(by_target.nnz) + np.repeat(starts[:-1] - by_target.indptr[:-1], counts)
    sources, weights = np.zeros(starts[-1], dtype=np.uint32), np.zeros(starts[-1], dtype=np.int16)
    sources[places], weights[places] = by_target.indices, by_target.data
    room, number, starts = ROWS * int(TARGETS), _narrow(synapse), starts.astype(np.uint64)
    return lambda spikes, arriving: add_columns(spikes, starts, sources, weights, np.empty(room, dtype=number), arriving)


def _by_target(synapse: QuantizedDense | QuantizedSparse) -> Any:
    """The synapses that exist, neuron by neuron."""
    if isinstance(synapse, QuantizedDense):
        return csr_matrix(synapse.weight.astype(np.int16))
    return csr_matrix((synapse.weight, synapse.sources, synapse.starts), shape=(synapse.n_out, synapse.n_in))


def _narrow(synapse: QuantizedSynapse) -> type[np.int16] | type[np.int32]:
    """The smallest whole numbers that hold what may arrive at any neuron, and all sums on the way to it."""
    return np.int16 if synapse.total(np.abs(synapse.weight.astype(np.int64))).max() < 1 << 15 else np.int32


def patterns(synapse: QuantizedConv) -> Way:
    """What is seen in eight places of a window, looked up."""
    lookup = lookup_of(synapse)
    return lambda spikes, arriving: add_patterns(spikes, lookup, arriving)


def windows(synapse: QuantizedConv) -> Way:
    """Whoever fires adds weights to the windows that see it."""
    channels, pixels = synapse.output_shape[0], synapse.output_shape[1] * synapse.output_shape[2]
    place = np.ascontiguousarray(np.indices(synapse.input_shape).reshape(3, -1).T.astype(np.int32))
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    stride, dilation = synapse.stride[1], synapse.dilation[1]
    order = sorted(range(width), key=lambda j: (j * dilation % stride, -j))  # neighbours there are seen by neighbouring windows
    by_group = synapse.weight[..., order].reshape(groups, f // groups, c, height, width).transpose(0, 2, 3, 4, 1)
    table = np.ascontiguousarray(by_group.reshape(-1, height, width, f // groups).astype(np.int16))
    rows = _listed(_seers(synapse, 0, range(height), together=False), synapse.output_shape[1])
    columns = _listed(_seers(synapse, 1, order, together=groups == 1), synapse.output_shape[2])
    narrow = _narrow(synapse)

    def way(spikes: NDArray[np.uint8], arriving: NDArray[np.int32]) -> None:
        add_windows(spikes, place, rows, columns, table, np.zeros((pixels, channels), dtype=narrow), arriving)

    return way


def _seers(synapse: QuantizedConv, axis: int, order: Sequence[int], *, together: bool) -> list[list[list[int]]]:
    """For each row (or column) of the image, runs of windows that see it: the first of them, of their own rows, how many.

    Their own rows are counted as they stand in `order`; a run is one window only, unless they may go `together`.
    """
    lines: list[list[list[int]]] = [[] for _ in range(synapse.input_shape[1 + axis])]
    sees, seen = synapse.sees(axis), synapse.seen(axis)
    for k, own in enumerate(order):
        for window in np.flatnonzero(seen[:, own]):
            runs = lines[sees[window, own]]
            if together and runs and runs[-1][0] + runs[-1][2] == window and runs[-1][1] + runs[-1][2] == k:
                runs[-1][2] += 1
            else:
                runs.append([int(window), k, 1])
    return lines


def _listed(lines: list[list[list[int]]], n_windows: int) -> NDArray[np.int32]:
    """A row a line: how many runs, then these; the last row begins with the number of windows."""
    table = np.zeros((len(lines) + 1, 1 + max(3 * len(runs) for runs in lines)), dtype=np.int32)
    for row, runs in zip(table, lines, strict=False):
        row[0], row[1 : 1 + 3 * len(runs)] = len(runs), np.ravel(runs)
    table[-1, 0] = n_windows
    return table
