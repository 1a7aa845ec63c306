"""Which slices of a layer could exist, and the least that each takes.

Of a dense layer without a zero among its weights any number of neurons, exactly; of such a convolution any box of channels,
rows and columns, for each way in which it can stand at the border of the image. Of a sparse layer, or a pruned one, only the
total is known: its synapses without indices, packed without a gap, in as few lists as any runs of neurons allow; or in the
cheapest boxes (`benchmarks.placement.lower_bound.boxes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.placement.lower_bound.boxes import least_boxes
from benchmarks.placement.lower_bound.runs import least_lists
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring, Wiring
from neurodeploy.ir.graph import INPUT
from neurodeploy.resources.convolution_lists import Edge, Window
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Formula, grid_of

_CHUNK = 1 << 21
"""Lists that are counted at once."""
_LONG_SIDE = 40
"""Along a longer side of an image the border makes little difference: slices count as if they stood where they take least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Possible:
    """Slices of a layer.

    Attributes
    ----------
    grid : tuple of int
        Of the layer.
    sides : array (n, axes)
        A single row, the grid, where only the total is known.
    neurons, memory, axons, heard : array (n,)
        What each takes at least; `heard` are neurons of other layers, one for each connection that they are heard by.
    sent : array (n,)
        Output axons that each can have at most, beside the rest, on a core of its own.
    measures : array (2, n)
        How much of the layer each covers: its neurons; and its synapses, those of the layer's largest window, of which a slice at
        the border has fewer, and takes less.
    are_all : bool
        Whether these are all slices there could be, not the total.
    """

    grid: tuple[int, ...]
    sides: Integers
    neurons: Floats
    memory: Floats
    axons: Floats
    heard: Floats
    sent: Floats
    measures: Floats
    are_all: bool

    @property
    def is_image(self) -> bool:
        return self.are_all and len(self.grid) == 3

    def only(self, kept: NDArray[np.bool_]) -> Possible:
        """Some of them."""
        return Possible(
            grid=self.grid, sides=self.sides[kept], neurons=self.neurons[kept], memory=self.memory[kept], axons=self.axons[kept],
            heard=self.heard[kept], sent=self.sent[kept],
            measures=self.measures[:, kept], are_all=self.are_all,
        )  # fmt: skip


def possible(count: LayerCount, profile: HardwareProfile, shared: dict[Any, Any]) -> Possible:
    """Every slice that could exist of a layer, or its total; `shared` keeps what layers of equal geometry have in common."""
    grid, bundles = grid_of(count.layer), count.bundles()
    is_full = count.connectivity == 1 or (count.connectivity is None and all(w.weight.all() for w, _, _ in bundles))
    encodings, windows = profile["encodings"].names, count.windows()
    if is_full and len(grid) == 3 and windows is not None and "convolution" in encodings:
        return _boxes(windows, grid, profile, shared)
    if is_full and "dense" in encodings and all(isinstance(wiring, DenseWiring) for wiring, _, _ in bundles):
        return _runs(count.layer.n_neurons, bundles, profile)
    memory = axons = heard = 0.0
    if count.connectivity is None:
        for wiring, formula, sources in bundles:
            bits, pixels, neurons = _packed(wiring, formula, profile, len(grid) == 1 and count.layer.name in sources)
            memory, axons = memory + bits + (len(sources) - 1) * pixels * formula.entry, axons + len(sources) * pixels
            heard += neurons * sum(source != INPUT for source in sources)
        if windows is not None and len(grid) == 3 and "convolution" in encodings and not is_full:
            boxes = least_boxes(windows, profile)
            memory, axons, heard = (max(pair) for pair in zip((memory, axons, heard), boxes or (0.0, 0.0, 0.0), strict=True))
    sides = np.array([[count.layer.n_neurons] if len(grid) == 1 else grid], dtype=np.int64)
    n = np.array([float(count.layer.n_neurons)])
    return Possible(
        grid=grid, sides=sides, neurons=n, memory=np.array([memory]), axons=np.array([axons]), heard=np.array([heard]),
        sent=np.array([np.inf]),
        measures=np.stack([n, n]), are_all=False,
    )  # fmt: skip


def _packed(wiring: Wiring, formula: Formula, profile: HardwareProfile, is_recurrent: bool) -> tuple[float, float, float]:
    """Memory, axons and sources of all the synapses, however they are cut."""
    match wiring:
        case ConvWiring():
            return float(np.count_nonzero(wiring.weight) * formula.synapse_bits), 0.0, 0.0
        case SparseWiring():
            bits, axons = least_lists(wiring, formula, profile, is_recurrent=is_recurrent)
            return bits, axons, axons
        case DenseWiring():
            n_synapses = np.count_nonzero(wiring.weight, axis=0)
    heard = float(np.count_nonzero(n_synapses))
    return float(formula.least(n_synapses).sum()), heard, heard


def _runs(n_out: int, bundles: list[tuple[Wiring, Formula, tuple[str, ...]]], profile: HardwareProfile) -> Possible:
    n = np.arange(1, min(n_out, profile.capacity("neurons")) + 1)
    memory, axons, heard = np.zeros(n.size), 0.0, 0.0
    for wiring, formula, sources in bundles:
        memory += wiring.n_in * (np.minimum(formula.lists(n), formula.least(n, 1)) + len(sources) * formula.entry)
        axons += wiring.n_in * len(sources)
        heard += wiring.n_in * sum(source != INPUT for source in sources)
    return _with_room((n_out,), n[:, None], memory, np.full(n.size, axons), np.full(n.size, heard), profile)


def _with_room(
    grid: tuple[int, ...], sides: Integers, memory: Floats, axons: Floats, heard: Floats, profile: HardwareProfile,
    synapses: Floats | None = None,
) -> Possible:  # fmt: skip
    """All slices of a layer, with the output axons that there is room for."""
    neurons = sides.prod(axis=1).astype(np.float64)
    sent = np.full(len(sides), float(profile.capacity("output_axons")))
    if (each := profile.number("output_axon_bits", 0)) and profile.capacity("memory_bits") < UNLIMITED:
        own = memory + neurons * profile.number("neuron_state_bits", 0)
        sent = np.minimum(sent, np.maximum(profile.capacity("memory_bits") - own, 0) // each)
    measures = np.stack([neurons, neurons if synapses is None else synapses])
    return Possible(
        grid=grid, sides=sides, neurons=neurons, memory=memory, axons=axons, heard=heard, sent=sent, measures=measures,
        are_all=True,
    )  # fmt: skip


def _boxes(
    windows: list[tuple[Window, tuple[str, ...]]], grid: tuple[int, ...], profile: HardwareProfile, shared: dict[Any, Any]
) -> Possible:
    """Every box of full convolutions with no more neurons than a core has, wherever the border makes a difference to it."""
    key = (grid, *((id(window), sum(name != INPUT for name in names), len(names)) for window, names in windows))
    if key in shared:
        return shared[key]  # type: ignore[no-any-return]  # the cache holds values of any type
    if grid not in shared:
        shared[grid] = _all_sides(grid, profile.capacity("neurons"))
    sides, largest = shared[grid], max((window for window, _ in windows), key=lambda window: window.wiring.weight[0].size)
    along = [_stands([window for window, _ in windows], largest, axis) for axis in (0, 1)]
    tables = []
    for rows, columns in product(*along):
        memory, axons, heard = np.zeros(len(sides)), np.zeros(len(sides)), np.zeros(len(sides))
        for (window, names), *edges in zip(windows, rows.met, columns.met, strict=True):
            name = (id(window), *(id(edge) for edge in edges))
            if name not in shared:
                shared[name] = _least(window, sides, (edges[0], edges[1]), profile), edges
            bits, pixels, channels = shared[name][0]
            memory += bits + len(names) * window.formula.entry * pixels
            axons += len(names) * pixels
            heard += sum(name != INPUT for name in names) * pixels * channels
        tables.append((memory, axons, heard, sides[:, 0] * rows.synapses[sides[:, 1] - 1] * columns.synapses[sides[:, 2] - 1]))
    memory, axons, heard, synapses = (np.concatenate(column) for column in zip(*tables, strict=True))
    every = np.tile(sides, (len(tables), 1))
    shared[key] = _with_room(grid, every, memory, axons, heard, profile, synapses.astype(np.float64))
    return shared[key]  # type: ignore[no-any-return]  # the cache holds values of any type


def _all_sides(grid: tuple[int, ...], most: int) -> Integers:
    found = []
    for y in range(1, grid[1] + 1):
        for x in range(1, min(grid[2], most // y) + 1):
            c = np.arange(1, min(grid[0], most // (y * x)) + 1)
            found.append(np.stack([c, np.full(c.size, y), np.full(c.size, x)], axis=1))
    return np.concatenate(found) if found else np.array([[1, 1, 1]])


Met: TypeAlias = "tuple[Integers, Integers, Integers]"
"""For 1, 2, ... outputs along an axis: inputs heard, (outputs, kinds) the sizes of the kinds in which they are met, span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where runs of 1, 2, ... outputs stand along an axis: how each window meets its inputs, and synapses along the axis."""

    met: list[Met]
    synapses: Integers


def _least(window: Window, sides: Integers, edges: tuple[Met, Met], profile: HardwareProfile) -> tuple[Floats, Floats, Floats]:
    """(n,) each: the memory of boxes' lists at least, the pixels that they hear, and channels of these."""
    wiring, formula = window.wiring, window.formula
    per_group = wiring.weight.shape[0] // wiring.groups
    groups = -(-sides[:, 0] // per_group)
    atoms, each = groups * wiring.weight.shape[1], -(-sides[:, 0] // groups)
    (heard_y, kinds_y, span_y), (heard_x, kinds_x, span_x) = edges
    y, x = sides[:, 1] - 1, sides[:, 2] - 1
    index = _least_index(sides, span_y[y], span_x[x], profile)
    memory = np.zeros(len(sides))
    step = max(1, _CHUNK // max(kinds_y.shape[-1] * kinds_x.shape[-1], 1))
    for first in range(0, len(sides), step):
        part = slice(first, first + step)
        met = kinds_y[y[part]][:, :, None] * kinds_x[x[part]][:, None, :] * (atoms * each)[part, None, None]
        memory[part] = formula.lists(met, index[part, None, None]).sum(axis=(1, 2))
    return memory, (heard_y[y] * heard_x[x]).astype(np.float64), atoms.astype(np.float64)


def _least_index(sides: Integers, span_y: Integers, span_x: Integers, profile: HardwareProfile) -> Integers:
    """(n,): bits of the narrowest index with which boxes could do, their neurons numbered channels first or last."""
    c, y, x = sides.T
    local = span_y * x + span_x
    needed = np.minimum((c - 1) * y * x + local, local * c + c - 1) + 1
    choices = np.array(profile["index_bits"].choices)
    found = choices[np.minimum(np.searchsorted(1 << choices, needed), len(choices) - 1)]
    least: Integers = np.where(needed > 1, found, 0)  # a single target needs none
    return least


def _stands(windows: list[Window], largest: Window, axis: int) -> list[Stand]:
    """Where along an axis runs of outputs meet their inputs in different ways: at either end, and between."""
    side = largest.wiring.output_shape[1 + axis]
    reach = max(max(w.wiring.weight.shape[2 + axis] * w.wiring.dilation[axis], w.wiring.padding[axis] + 1) for w in windows)
    most: list[list[tuple[int, int]]] = []
    inside = largest.wiring.is_inside_input(axis).sum(axis=1)
    for n in range(1, side + 1):
        ends = {*range(min(reach, side - n) + 1), (side - n) // 2, *range(max(0, side - n - reach), side - n + 1)}
        distinct: dict[tuple[Any, ...], tuple[int, int]] = {}
        for start in sorted(ends):
            found = [window.edge(axis, start, start + n) for window in windows]
            kinds = tuple(tuple(sorted(e.kinds.sum(axis=1).tolist(), reverse=True)) for e in found)
            covered = int(inside[start : start + n].sum())
            distinct.setdefault((kinds, *((e.span, e.inputs.size) for e in found), covered), (start, start + n))
        most.append(list(distinct.values()))
    stands: list[Stand] = []
    for v in range(max(len(each) for each in most)):
        runs = [each[min(v, len(each) - 1)] for each in most]
        met = [_met([window.edge(axis, *run) for run in runs]) for window in windows]
        stands.append(Stand(met=met, synapses=np.array([inside[start:stop].sum() for start, stop in runs])))
    return stands if side <= _LONG_SIDE else [_least_of(stands)]


def _least_of(stands: list[Stand]) -> Stand:
    """What is taken at least wherever runs stand."""
    met = [
        (np.minimum.reduce([heard for heard, _, _ in found]), np.minimum.reduce(_padded([kinds for _, kinds, _ in found])),
         np.minimum.reduce([span for _, _, span in found]))
        for found in zip(*(stand.met for stand in stands), strict=True)
    ]  # fmt: skip
    return Stand(met=met, synapses=np.maximum.reduce([stand.synapses for stand in stands]))


def _padded(arrays: list[Integers]) -> list[Integers]:
    """Rows of sizes, the largest first, made equally long."""
    most = max(array.shape[1] for array in arrays)
    return [np.pad(-np.sort(-array, axis=1), ((0, 0), (0, most - array.shape[1]))) for array in arrays]


def _met(edges: list[Edge]) -> Met:
    sizes = [edge.kinds.sum(axis=1) for edge in edges]
    kinds = np.zeros((len(edges), max(size.size for size in sizes)), dtype=np.int64)
    for row, size in zip(kinds, sizes, strict=True):
        row[: size.size] = size
    return np.array([edge.inputs.size for edge in edges]), kinds, np.array([edge.span for edge in edges])
