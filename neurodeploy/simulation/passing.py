"""How spikes pass a synapse in the chip's integers: by which of several ways, all with the same sums, is measured.

Spikes of rate r through n x m weights cost, roughly: a matrix product n m, whatever r; rows of weights r n m, in cheaper
steps; lists of the synapses that exist r times those, in dearer steps. Where one way wins depends on the network, its
spikes and the machine, so the first spikes that come are timed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from neurodeploy.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse
from neurodeploy.simulation.kernels import patterns, synapses, windows
from neurodeploy.simulation.patterns import lookup_of, table_bytes
from neurodeploy.simulation.products import Number, product_of

Way: TypeAlias = "Callable[[NDArray[Any], NDArray[np.int32]], None]"
"""Add what spikes (rows, n_in or more) weigh to what arrives (rows, n_out)."""

WAYS = {
    QuantizedDense: ("rows", "lists", "product"),
    QuantizedSparse: ("lists", "product"),
    QuantizedConv: ("windows", "patterns", "product"),
}
"""The ways by kind of synapse; the first where there is too little to measure."""
FEW_PAIRS = 1 << 14
"""Synapses between fewer pairs of neurons than that take the first way."""
TRIED_ROWS = 64
"""A way is timed on so many rows of spikes, or as many as there are."""
TRIED_WEIGHTS = 1 << 25
"""Beyond so many weights a matrix product is not tried: it would copy them into floats."""
TRIED_BYTES = 1 << 24
"""Patterns are not tried where their tables take more: they would come from memory for every row."""
LISTED = 0.25
"""Lists are tried where at most this share of the weights is not zero."""


class Passing:
    """The synapses of a connection, ready for spikes.

    Attributes
    ----------
    way : str or None
        ``"rows"``, ``"lists"``, ``"windows"``, ``"patterns"`` or ``"product"``; None before the first spikes came.
    seconds : mapping of way to float
        What a row of spikes took each way that was tried.
    """

    def __init__(self, synapse: QuantizedSynapse, number: Number, way: str | None = None) -> None:
        self.synapse, self.number = synapse, number
        self.seconds: dict[str, float] = {}
        ways = WAYS[type(synapse)]
        self.way = way if way in ways else ways[0] if way or synapse.n_pairs < FEW_PAIRS else None
        self._pass = self._ready(self.way) if self.way else None
        self._choosing = threading.Lock()

    def add(self, spikes: NDArray[np.uint8], arriving: NDArray[np.int32]) -> None:
        """Add what spikes (rows, n_in or more), 0 or 1, weigh to what arrives (rows, n_out)."""
        if self._pass is None:
            with self._choosing:
                self._pass = self._pass or self._fastest(spikes[:: -(-len(spikes) // TRIED_ROWS)].copy())
        self._pass(spikes, arriving)

    def _fastest(self, spikes: NDArray[np.uint8]) -> Way:
        best: Way | None = None
        for name in WAYS[type(self.synapse)]:
            if not self._is_worth_a_try(name):
                continue
            way = self._ready(name)
            self.seconds[name] = _seconds(way, spikes, self.synapse.n_out)
            if self.seconds[name] == min(self.seconds.values()):
                self.way, best = name, way
        assert best is not None
        return best

    def _is_worth_a_try(self, way: str) -> bool:
        synapse = self.synapse
        if way == "patterns" and isinstance(synapse, QuantizedConv):
            return table_bytes(synapse) <= TRIED_BYTES
        if way == "lists" and isinstance(synapse, QuantizedDense):
            return synapse.n_synapses <= LISTED * synapse.weight.size
        return way != "product" or synapse.weight.size <= TRIED_WEIGHTS

    def _ready(self, way: str) -> Way:
        synapse = self.synapse
        if way == "product":
            return _product(synapse, self.number)
        if isinstance(synapse, QuantizedConv):
            return _patterns(synapse) if way == "patterns" else _windows(synapse)
        if isinstance(synapse, QuantizedDense) and way == "rows":
            return _rows(synapse)
        return _lists(synapse)


class Graded:
    """The synapses of a connection from graded input, ready for whole numbers: they go by a matrix product."""

    way = "product"

    def __init__(self, synapse: QuantizedSynapse, number: Number) -> None:
        self.add = _product(synapse, number)


def _seconds(way: Way, spikes: NDArray[np.uint8], n_out: int) -> float:
    """What a row takes: the best of three goes, after one in which machine code is made."""
    arriving, took = np.zeros((len(spikes), n_out), dtype=np.int32), []
    for _ in range(4):
        start = time.perf_counter()
        way(spikes, arriving)
        took.append(time.perf_counter() - start)
    return min(took[1:]) / len(spikes)


def _product(synapse: QuantizedSynapse, number: Number) -> Way:
    """By a matrix product in floats that are exact."""
    product, n_in = product_of(synapse, number), synapse.n_in

    def way(spikes: NDArray[Any], arriving: NDArray[np.int32]) -> None:
        arriving += product(spikes[:, :n_in]).astype(np.int32)

    return way


def _rows(synapse: QuantizedDense) -> Way:
    table = np.zeros((synapse.n_in + 1, synapse.n_out), dtype=np.int16)
    table[:-1] = synapse.weight.T
    return lambda spikes, arriving: synapses.add_rows(spikes, table, arriving)


def _lists(synapse: QuantizedDense | QuantizedSparse) -> Way:
    if isinstance(synapse, QuantizedDense):
        by_target = csr_matrix(synapse.weight.astype(np.int16))
    else:
        shape = (synapse.n_out, synapse.n_in)
        by_target = csr_matrix((synapse.weight, synapse.sources, synapse.starts), shape=shape)
    by_source = by_target.tocsc()
    starts, targets, weights = by_source.indptr.astype(np.int64), by_source.indices.astype(np.int32), by_source.data
    return lambda spikes, arriving: synapses.add_lists(spikes, starts, targets, weights, arriving)


def _patterns(synapse: QuantizedConv) -> Way:
    lookup = lookup_of(synapse)
    return lambda spikes, arriving: patterns.add_patterns(spikes, lookup, arriving)


def _windows(synapse: QuantizedConv) -> Way:
    channels, pixels = synapse.output_shape[0], synapse.output_shape[1] * synapse.output_shape[2]
    place = np.ascontiguousarray(np.indices(synapse.input_shape).reshape(3, -1).T.astype(np.int32))
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    stride, dilation = synapse.stride[1], synapse.dilation[1]
    order = sorted(range(width), key=lambda j: (j * dilation % stride, -j))  # neighbours there are seen by neighbouring windows
    by_group = synapse.weight[..., order].reshape(groups, f // groups, c, height, width).transpose(0, 2, 3, 4, 1)
    table = np.ascontiguousarray(by_group.reshape(-1, height, width, f // groups).astype(np.int16))
    rows = _listed(_seers(synapse, 0, range(height), together=False), synapse.output_shape[1])
    columns = _listed(_seers(synapse, 1, order, together=groups == 1), synapse.output_shape[2])
    narrow = np.int16 if synapse.total(np.abs(synapse.weight)).max() < 1 << 15 else np.int32

    def way(spikes: NDArray[np.uint8], arriving: NDArray[np.int32]) -> None:
        windows.add_windows(spikes, place, rows, columns, table, np.zeros((pixels, channels), dtype=narrow), arriving)

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
