"""How spikes pass a synapse in the chip's integers: by which of several ways, all with the same sums, is measured.

Spikes of rate r through n x m weights cost, roughly: a matrix product n m, whatever r; rows of weights r n m, in cheaper
steps; lists of the synapses that exist r times those, in dearer steps; columns all that exist, whatever r, in cheap steps
again. Through a convolution, windows cost r times what a product does, patterns a fixed small part of it. Which wins depends
on the network, its spikes and the machine, so the first spikes that come are timed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse
from neurodeploy.simulation import ways
from neurodeploy.simulation.kernels.columns import LANES
from neurodeploy.simulation.patterns import table_bytes
from neurodeploy.simulation.products import Number
from neurodeploy.simulation.ways import Way

WAYS: dict[type[Any], dict[str, Callable[[Any], Way]]] = {
    QuantizedDense: {"rows": ways.rows, "lists": ways.lists, "columns": ways.columns},
    QuantizedSparse: {"lists": ways.lists, "columns": ways.columns},
    QuantizedConv: {"windows": ways.windows, "patterns": ways.patterns},
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
            return ways.product(self.synapse, self.number)
        return WAYS[type(self.synapse)][way](self.synapse)


class Graded:
    """The synapses of a connection from graded input, ready for whole numbers: they go by a matrix product."""

    way = "product"

    def __init__(self, synapse: QuantizedSynapse, number: Number) -> None:
        self.add = ways.product(synapse, number)


def _seconds(way: Way, spikes: NDArray[np.uint8], n_out: int) -> float:
    """What a row takes: the best of three goes, after one in which machine code is made."""
    arriving, took = np.zeros((len(spikes), n_out), dtype=np.int32), []
    for _ in range(4):
        start = time.perf_counter()
        way(spikes, arriving)
        took.append(time.perf_counter() - start)
    return min(took[1:]) / len(spikes)
