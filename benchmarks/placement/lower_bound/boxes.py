"""How little the lists of a pruned convolution can take, and how seldom its sources can be heard, into whatever boxes it is cut.

Slices are boxes of channels, rows and columns. Let what a slice takes be parted evenly among its places, so that each place has
of the slices above it, which part its channels into runs, what they take a place: at least what the cheapest parting of the
channels into runs takes, each run in the cheapest box that a core could hold (a shortest path over the channels). What
a run takes in a box follows from where the weights are: a list is as long as the longest of all input channels, and a neuron
is heard where it has a weight to any of the run's channels.

Places at the border of the image are reached by fewer weights, and boxes there take less. So places may count as many as
they see of the image, rows times columns, in place of 1; either way is a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np

from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.graph import INPUT
from neurodeploy.resources.convolution_lists import Edge, Window

Windows: TypeAlias = "list[tuple[Window, tuple[str, ...]]]"

_MOST_COUNTED = 1 << 30
"""Where more lists would have to be counted, nothing is said."""
_ALIKE = 1.07
"""Boxes whose sides differ by no more, and have the same lists, count as the shortest, and cover as much as the longest."""


def least_boxes(windows: Windows, profile: HardwareProfile) -> tuple[float, float, float] | None:
    """Memory, input axons and sources heard that all slices together take at least; None where it is not worked out.

    Where output axons take of the memory that lists are in, the two are least together, and both are in the memory.
    """
    channels = windows[0][0].wiring.output_shape[0]
    along = [_Along.of([window for window, _ in windows], axis) for axis in (0, 1)]
    n_kinds = sum(
        len(a) * len(b) * window.wiring.weight.shape[1]
        for a, b, (window, _) in zip(along[0].kinds, along[1].kinds, windows, strict=True)
    )
    meets_nothing = any(len(kinds) == 0 for each in along for kinds in each.kinds)  # padding alone
    if meets_nothing or any(window.wiring.groups > 1 for window, _ in windows) or n_kinds * channels**2 // 2 > _MOST_COUNTED:
        return None
    starts, stops = _runs(channels)
    tables = [
        _Table(window, sources, (a, b), (starts, stops), profile)
        for (window, sources), a, b in zip(windows, *(each.kinds for each in along), strict=True)
    ]
    best = np.full((3, 2, starts.size), np.inf)
    for columns, rows in product(along[1].sides, along[0].sides):
        found = _cost(tables, rows, columns, stops - starts, profile)
        for measure in range(2):
            if (covered := rows.covers[measure] * columns.covers[measure]) > 0:  # what lies in padding covers none of the image
                here = best[:, measure, : found.shape[1]]
                np.minimum(here, found / covered, out=here)
    whole = [along[0].whole[measure] * along[1].whole[measure] for measure in range(2)]
    least = [max(whole[m] * _cheapest(starts, stops, values[m]) for m in range(2)) for values in best]
    return (least[0], least[1], least[2]) if np.isfinite(least).all() else None


def _runs(channels: int) -> tuple[Integers, Integers]:
    """Every run of channels, from where to where, the shortest first."""
    length = np.repeat(np.arange(1, channels + 1), np.arange(channels, 0, -1))
    starts = np.concatenate([np.arange(channels - n + 1) for n in range(1, channels + 1)])
    return starts, starts + length


def _cheapest(starts: Integers, stops: Integers, cost: Floats) -> float:
    """The least that runs cost together which part the channels."""
    channels = int(stops.max())
    table = np.full((channels, channels + 1), np.inf)
    table[starts, stops] = cost
    least = np.zeros(channels + 1)
    for stop in range(1, channels + 1):
        least[stop] = (least[:stop] + table[:stop, stop]).min()
    return float(least[channels])


# ---------------------------------------------------------------------------------------------- along an axis


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Boxes of some length along an axis, where they stand alike.

    Attributes
    ----------
    length : int
        Of the shortest of them.
    covers : tuple of float
        Places of the longest, and what of the image these see.
    lists, inputs : list of array (n_kinds,)
        For each window: how many lists of each kind there are, and how many input rows (or columns) are met so.
    spans : list of int
    """

    length: int
    covers: tuple[float, float]
    lists: list[Floats]
    inputs: list[Floats]
    spans: list[int]

    def joined(self, other: _Side) -> _Side | None:
        """One for both, where the other is hardly longer and takes no less."""
        same = all(np.array_equal(a, b) for a, b in zip(self.lists, other.lists, strict=True))
        more = all((a <= b).all() for a, b in zip(self.inputs, other.inputs, strict=True)) and self.spans <= other.spans
        if not (same and more and other.length <= self.length * _ALIKE):
            return None
        covers = max(self.covers[0], other.covers[0]), max(self.covers[1], other.covers[1])
        return _Side(length=self.length, covers=covers, lists=self.lists, inputs=self.inputs, spans=self.spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Along:
    """All boxes along rows (0) or columns (1): the kinds in which inputs meet each window, and what the layer covers."""

    kinds: list[Integers]
    sides: list[_Side]
    whole: tuple[float, float]

    @classmethod
    def of(cls, windows: list[Window], axis: int) -> _Along:
        largest = max((window.wiring for window in windows), key=lambda wiring: wiring.weight[0].size)
        seen = largest.is_inside_input(axis).sum(axis=1)
        found = list(_stands(windows, axis, seen.size))
        kinds = [np.unique(np.concatenate([edges[n].kinds for _, _, edges in found]), axis=0) for n in range(len(windows))]
        sides: list[_Side] = []
        for start, stop, edges in found:
            which = [_which(edge.kinds, all_kinds) for edge, all_kinds in zip(edges, kinds, strict=True)]
            side = _Side(
                length=stop - start, covers=(float(stop - start), float(seen[start:stop].sum())),
                lists=[1.0 * np.bincount(at, minlength=len(each)) for at, each in zip(which, kinds, strict=True)],
                inputs=[1.0 * np.bincount(at, e.n_of_kind, len(each)) for at, e, each in zip(which, edges, kinds, strict=True)],
                spans=[edge.span for edge in edges],
            )  # fmt: skip
            alike = next(((n, one) for n, other in enumerate(sides) if (one := other.joined(side)) is not None), None)
            if alike is None:
                sides.append(side)
            else:
                sides[alike[0]] = alike[1]
        return cls(kinds=kinds, sides=sides, whole=(float(seen.size), float(seen.sum())))


def _which(kinds: Integers, of: Integers) -> Integers:
    """(n,): which of the kinds each is."""
    where: Integers = (kinds[:, None] == of).all(axis=2).argmax(axis=1) if len(of) else np.zeros(0, dtype=np.int64)
    return where


def _stands(windows: list[Window], axis: int, side: int) -> Iterator[tuple[int, int, list[Edge]]]:
    """Runs of outputs along an axis that meet their inputs in different ways: at either end, and between."""
    reach = max(max(w.wiring.weight.shape[2 + axis] * w.wiring.dilation[axis], w.wiring.padding[axis] + 1) for w in windows)
    for n in range(1, side + 1):
        ends = {*range(min(reach, side - n) + 1), (side - n) // 2, *range(max(0, side - n - reach), side - n + 1)}
        known = set()
        for start in sorted(ends):
            edges = [window.edge(axis, start, start + n) for window in windows]
            key = tuple((edge.kinds.tobytes(), edge.n_of_kind.tobytes(), edge.span) for edge in edges)
            if key not in known:
                known.add(key)
                yield start, start + n, edges


# ---------------------------------------------------------------------------------------------- what boxes take


class _Table:
    """What every run of a window's output channels takes, by the kinds in which inputs meet them along rows and columns."""

    def __init__(
        self, window: Window, sources: tuple[str, ...], kinds: tuple[Integers, Integers], runs: tuple[Integers, Integers],
        profile: HardwareProfile,
    ) -> None:  # fmt: skip
        self.formula, self.n_sources, self.n_sending = window.formula, len(sources), sum(name != INPUT for name in sources)
        self.profile, self.atoms = profile, window.wiring.weight.shape[1]
        running = np.concatenate([np.zeros((1, *window.wiring.weight.shape[1:])), (window.wiring.weight != 0).cumsum(axis=0)])
        shape = (len(kinds[0]), len(kinds[1]), runs[0].size)
        self.longest, self.heard = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        channels, first = len(running) - 1, np.concatenate([[0], np.cumsum(np.arange(len(running) - 1, 0, -1))])
        for (i, row), (j, column) in product(enumerate(kinds[0]), enumerate(kinds[1])):
            met = np.einsum("oakl,k,l->oa", running, row, column).astype(np.int16)
            for n in range(1, channels + 1):
                there, these = met[n:] - met[:-n], slice(first[n - 1], first[n])
                self.longest[i, j, these], self.heard[i, j, these] = there.max(axis=1), np.count_nonzero(there, axis=1)
        self._pixels = (self.heard > 0).astype(np.float64)
        self._across: dict[bytes, tuple[Floats, ...]] = {}
        self._bits: dict[int, Floats] = {}
        self._lists: dict[tuple[bytes, bytes, int], Floats] = {}

    def lists(self, rows: Floats, columns: Floats, index: int) -> Floats:
        """(n_runs,): bits of the lists of boxes with so many of each kind, their indices so wide."""
        key = (rows.tobytes(), columns.tobytes(), index)
        if key not in self._lists:
            if index not in self._bits:
                self._bits[index] = self.formula.lists(self.atoms * self.longest, index).astype(np.float64)
            self._lists[key] = _over(rows, columns, self._bits[index])
        return self._lists[key]

    def pixels(self, rows: Floats, columns: Floats, n: int) -> tuple[Floats, Floats]:
        """(n,) each: pixels, and neurons of them, that the first n runs hear; quickly for the columns asked for before."""
        if (key := columns.tobytes()) not in self._across:
            self._across = {key: tuple(np.tensordot(columns, values, (0, 1)) for values in (self._pixels, self.heard))}
        pixels, heard = self._across[key]
        return rows @ pixels[:, :n], rows @ heard[:, :n]


def _over(rows: Floats, columns: Floats, values: Floats) -> Floats:
    """(n,): the sum of values (n_kinds, n_kinds, n) with so many rows and columns of each kind."""
    i, j = np.flatnonzero(rows), np.flatnonzero(columns)
    total: Floats = np.tensordot(np.outer(rows[i], columns[j]), values[np.ix_(i, j)], 2)
    return total


def _cost(tables: list[_Table], rows: _Side, columns: _Side, channels: Integers, profile: HardwareProfile) -> Floats:
    """(3, n): memory, axons and sources heard of the runs that a core could hold in such a box; infinite for others."""
    y, x = rows.length, columns.length
    n = int(np.searchsorted(channels, profile.capacity("neurons") // (y * x), side="right"))
    memory, axons, heard = np.zeros(n), np.zeros(n), np.zeros(n)
    for k, table in enumerate(tables):
        for index, these in _indices(channels[:n], y, x, rows.spans[k], columns.spans[k], profile):
            memory[these] += table.lists(rows.lists[k], columns.lists[k], index)[these]
        pixels, neurons = table.pixels(rows.inputs[k], columns.inputs[k], n)
        memory += table.n_sources * table.formula.entry * pixels
        axons += table.n_sources * pixels
        heard += table.n_sending * neurons
    own = memory + profile.number("neuron_state_bits", 0) * channels[:n] * (y * x)
    fits = (memory <= profile.capacity("synapse_memory_bits")) & (own <= profile.capacity("memory_bits"))
    fits &= axons <= profile.capacity("input_axons")
    if profile.capacity("memory_bits") < UNLIMITED:
        memory, heard = memory + profile.number("output_axon_bits", 0) * heard, np.zeros(n)
    return np.where(fits, np.stack([memory, axons, heard]), np.inf)


def _indices(
    channels: Integers, y: int, x: int, span_y: int, span_x: int, profile: HardwareProfile
) -> Iterator[tuple[int, slice]]:
    """Bits of the narrowest index with which boxes of so many channels could do, the fewest first; and which these are."""
    widths, local = np.array([0, *profile["index_bits"].choices]), span_y * x + span_x  # a single target needs none
    longest = np.maximum(((1 << widths) - local - 1) // (y * x) + 1, (1 << widths) // (local + 1))  # channels first, or last
    ends = np.searchsorted(channels, longest, side="right")
    ends[-1] = channels.size  # no index is longer
    start = 0
    for width, stop in zip(widths.tolist(), np.maximum.accumulate(ends).tolist(), strict=True):
        if stop > start:
            yield width, slice(start, stop)
            start = stop
