"""What an axon's list of synapses is worth, and what it costs, at each of its lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurodeploy.budgets.budget import SliceBudget
from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.encodings import axon_bits, index_bits, weight_bits

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wish:
    """A slice, and what its synapses are worth.

    Attributes
    ----------
    score : array (n_neurons, n_in)
        What a synapse is worth, at least 0: how much nearer it brings the slice to its weights.
    part : SliceBudget
        Caps on its axons; its memory is the core's affair.
    bits : int
        Width that the weights will be stored in.
    rows : array (n,), int, optional
        The neurons that are to stay, ascending; the others are taken out of the network, so that the targets of those that
        stay are told apart by fewer bits. All of them by default.
    order : array (n_in, n), int, optional
        `by_axon_falling` of the rows' scores, where that is known; sorting takes longest of all.
    axons : int
        How many there are for each column of the scores, all with the same synapses: the pixels that pooling adds up.
    """

    score: Floats
    part: SliceBudget
    bits: int
    rows: Integers | None = None
    order: Integers | None = None
    axons: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lists:
    """What every axon gains, and costs, by keeping its `sizes[k]` best synapses, in one encoding.

    Only sizes that fill their memory units are listed: one synapse more in a unit that is paid for costs nothing.

    Attributes
    ----------
    targets : array (n_in, n), int64
        Neurons of each axon by falling score.
    sizes, bits : array (n_sizes,), int64
        Ascending, from 0.
    gain : array (n_in, n_sizes)
        Score that is kept.
    n_neurons : int
        Of the slice, those that are taken out too.
    """

    targets: Integers
    sizes: Integers
    bits: Integers
    gain: Floats
    n_neurons: int

    def best(self, price: float, reach: int | None = None) -> tuple[Integers, Floats]:
        """For every axon the index of its best size at `price` a bit, and what it is then worth; arrays (n_in,).

        `reach` is an index that none exceeds: that of a lower price.
        """
        sizes = slice(None if reach is None else reach + 1)
        net = self.gain[:, sizes] - price * self.bits[sizes]
        index = net.argmax(axis=1)
        return index, np.take_along_axis(net, index[:, None], axis=1)[:, 0]

    def mask(self, index: Integers) -> Mask:
        """(n_neurons, n_in), with axon j keeping its `sizes[index[j]]` best synapses."""
        n_in, n = self.targets.shape
        mask = np.zeros((n_in, self.n_neurons), dtype=np.bool_)
        np.put_along_axis(mask, self.targets, np.arange(n) < self.sizes[index][:, None], axis=1)
        return np.ascontiguousarray(mask.T)


def by_axon_falling(score: Floats) -> Integers:
    """The neurons of each axon, (n_in, n_neurons), by falling score (n_neurons, n_in); equals by their number."""
    order: Integers = np.argsort(-np.ascontiguousarray(score.T), axis=1, kind="stable")
    return order


def lists_of(wish: Wish, profile: HardwareProfile) -> Sequence[Lists]:
    """The slice's lists in each encoding that the chip has; whole axons only where it is dense."""
    rows = np.arange(len(wish.score)) if wish.rows is None else wish.rows
    by_axon = np.ascontiguousarray(wish.score[rows].T, dtype=np.float64)
    order = by_axon_falling(wish.score[rows]) if wish.order is None else wish.order
    running = np.zeros((len(by_axon), rows.size + 1))
    np.cumsum(np.take_along_axis(by_axon, order, axis=1), axis=1, out=running[:, 1:])
    width, allowed, ways = weight_bits(wish.bits, profile), profile["encodings"].names, []
    if "dense" in allowed or "sparse" not in allowed:
        whole = int(axon_bits(np.asarray(rows.size), width, 0, profile))
        ways.append((np.array([0, rows.size]), np.where(np.arange(rows.size + 1) > 0, whole, 0)))
    if "sparse" in allowed:
        bits = axon_bits(np.arange(rows.size + 1), width, index_bits(rows.size, profile), profile)
        ways.append((np.flatnonzero(np.append(np.diff(bits) > 0, True)), bits))
    return [
        Lists(targets=rows[order], sizes=sizes, bits=bits[sizes] * wish.axons, gain=running[:, sizes], n_neurons=len(wish.score))
        for sizes, bits in ways
    ]
