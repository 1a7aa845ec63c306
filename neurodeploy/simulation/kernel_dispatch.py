"""A convolution as tables of what eight places of its window add up to, for spikes that are many.

Sums of several channels share a word of 64 bits. None disturbs its neighbour: a channel's sum begins at the magnitude of its
negative weights, so it never falls below zero nor rises above the sum of all magnitudes, and has as many bits as that needs.

The ways through a synapse, each made ready: its weights laid out as the compiled loops of `kernels` want them.

How spikes pass a synapse in the chip's integers: by which of several ways, all with the same sums, is measured.

Spikes of rate r through n x m weights cost, roughly: a matrix product n m, whatever r; rows of weights r n m, in cheaper
steps; lists of the synapses that exist r times those, in dearer steps; columns all that exist, whatever r, in cheap steps
again. Through a convolution, windows cost r times what a product does, patterns a fixed small part of it. Which wins depends
on the network, its spikes and the machine, so the first spikes that come are timed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from neurodeploy.ir.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse
from neurodeploy.simulation.kernels import (
    AT_ONCE,
    LANES,
    PLACES,
    ROWS,
    SYNAPSES,
    TARGETS,
    Lookup,
    add_columns,
    add_lists,
    add_patterns,
    add_rows,
    add_windows,
)
from neurodeploy.simulation.reference import Number, product_of

# -------------------- simulation.patterns

WORD_BITS = 64


def table_bytes(synapse: QuantizedConv) -> int:
    """What the tables take."""
    per_word = WORD_BITS // _bits(synapse)
    of_group = synapse.weight.shape[0] // synapse.groups
    return synapse.groups * -(-of_group // per_word) * _patterns_of_group(synapse) * (1 << PLACES) * WORD_BITS // 8


def lookup_of(synapse: QuantizedConv) -> Lookup:
    """The tables; exact for spikes, 0 or 1."""
    f, groups, bits = synapse.weight.shape[0], synapse.groups, _bits(synapse)
    per_word, of_group, n_patterns = WORD_BITS // bits, f // groups, _patterns_of_group(synapse)
    words_of_group = -(-of_group // per_word)
    weights = synapse.weight.reshape(f, -1).astype(np.int64)
    channel = np.arange(f)
    word = channel // of_group * words_of_group + channel % of_group // per_word
    shift = channel % of_group % per_word * bits
    less = np.maximum(-weights, 0).sum(axis=1)
    packed = np.zeros((groups * words_of_group, n_patterns * PLACES), dtype=np.int64)
    np.add.at(packed[:, : weights.shape[1]], word, weights << shift[:, np.newaxis])
    start = np.zeros(len(packed), dtype=np.int64)
    np.add.at(start, word, less << shift)
    patterns = np.arange(1 << PLACES)[:, np.newaxis] >> np.arange(PLACES) & 1
    table = packed.reshape(len(packed), n_patterns, PLACES) @ patterns.T
    image_shape, places = _places(synapse, n_patterns)
    return Lookup(
        synapse.input_shape, synapse.output_shape, synapse.stride, synapse.padding, image_shape, places,
        table.view(np.uint64), np.arange(len(packed)) // words_of_group * n_patterns, start.view(np.uint64),
        word, shift.astype(np.uint64), np.uint64((1 << bits) - 1), less.astype(np.int32),
    )  # fmt: skip


def _bits(synapse: QuantizedConv) -> int:
    """That the sum of a channel needs."""
    return max(1, int(np.abs(synapse.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max()).bit_length())


def _patterns_of_group(synapse: QuantizedConv) -> int:
    """Of the window that a group of channels looks through; as many as are looked up in one go, or that times something."""
    places = int(np.prod(synapse.weight.shape[1:]))
    return -(-places // (PLACES * AT_ONCE)) * AT_ONCE


def _places(synapse: QuantizedConv, n_patterns: int) -> tuple[tuple[int, int, int, int, int], NDArray[np.int64]]:
    """The shape of the parted image, and where in it window 0 has its places, pattern by pattern."""
    _, c, height, width = synapse.weight.shape
    (s, t), (_, rows, columns) = synapse.stride, synapse.output_shape
    i, j = (np.arange(n) * dilation for n, dilation in zip((height, width), synapse.dilation, strict=True))
    shape = (synapse.input_shape[0], s, t, rows + int(i[-1]) // s, columns + int(j[-1]) // t)
    channel, i, j = np.ix_(np.arange(synapse.input_shape[0]), i, j)
    at = np.ravel_multi_index(np.broadcast_arrays(channel, i % s, j % t, i // s, j // t), shape)
    places = np.full((synapse.groups, n_patterns * PLACES), -1, dtype=np.int64)
    places[:, : c * height * width] = at.reshape(synapse.groups, -1)
    return shape, places.reshape(-1, PLACES)


# -------------------- simulation.ways

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
    sees, seen = synapse.input_positions(axis), synapse.is_inside_input(axis)
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


# -------------------- simulation.passing

WAYS: dict[type[Any], dict[str, Callable[[Any], Way]]] = {
    QuantizedDense: {"rows": rows, "lists": lists, "columns": columns},
    QuantizedSparse: {"lists": lists, "columns": columns},
    QuantizedConv: {"windows": windows, "patterns": patterns},
}
"""The ways by kind of synapse, the first where there is too little to measure; beside them each has ``"product"``."""
FEW_PAIRS = 1 << 12
"""Synapses between fewer pairs of neurons than that take the first way."""
TRIED_ROWS = 256
"""A way is timed on so many rows of spikes, or as many as there are."""
TRIED_WEIGHTS = 1 << 25
"""Beyond so many weights a matrix product is not tried: it would copy them into floats."""
TRIED_BYTES = 1 << 24
"""Patterns are not tried where their tables take more: they would come from memory for every row."""
LISTED = 0.25
"""Lists and columns are tried where at most this share of the weights is not zero."""


class Passing:
    """The synapses of a connection, ready for spikes.

    Attributes
    ----------
    way : str or None
        One of `WAYS`, or ``"product"``; None before the first spikes came.
    seconds : mapping of way to float
        What a row of spikes took each way that was tried.
    """

    def __init__(self, synapse: QuantizedSynapse, number: Number, way: str | None = None) -> None:
        self.synapse, self.number = synapse, number
        self.seconds: dict[str, float] = {}
        known = [*WAYS[type(synapse)], "product"]
        self.way = way if way in known else known[0] if way or synapse.n_pairs < FEW_PAIRS else None
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
        for name in (*WAYS[type(self.synapse)], "product"):
            if not self._is_worth_a_try(name, len(spikes)):
                continue
            way = self._ready(name)
            self.seconds[name] = _seconds(way, spikes, self.synapse.n_out)
            if self.seconds[name] == min(self.seconds.values()):
                self.way, best = name, way
        assert best is not None
        return best

    def _is_worth_a_try(self, way: str, n_rows: int) -> bool:
        synapse = self.synapse
        if way == "columns" and n_rows < LANES:
            return False
        if way == "patterns" and isinstance(synapse, QuantizedConv):
            return table_bytes(synapse) <= TRIED_BYTES
        if way in ("lists", "columns") and isinstance(synapse, QuantizedDense):
            return synapse.n_synapses <= LISTED * synapse.weight.size
        return way != "product" or synapse.weight.size <= TRIED_WEIGHTS

    def _ready(self, way: str) -> Way:
        if way == "product":
            return product(self.synapse, self.number)
        return WAYS[type(self.synapse)][way](self.synapse)


class Graded:
    """The synapses of a connection from graded input, ready for whole numbers: they go by a matrix product."""

    way = "product"

    def __init__(self, synapse: QuantizedSynapse, number: Number) -> None:
        self.add = product(synapse, number)


def _seconds(way: Way, spikes: NDArray[np.uint8], n_out: int) -> float:
    """What a row takes: the best of three goes, after one in which machine code is made."""
    arriving, took = np.zeros((len(spikes), n_out), dtype=np.int32), []
    for _ in range(4):
        start = time.perf_counter()
        way(spikes, arriving)
        took.append(time.perf_counter() - start)
    return min(took[1:]) / len(spikes)
