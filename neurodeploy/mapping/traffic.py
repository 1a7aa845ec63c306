"""Traffic between cores: the mesh of a board, spikes from core to core, and how far they travel.

Every distance is a Manhattan distance between points: the point of a core holds its column and row on the board and the chips
crossed on the way there, each crossing counted as `chip_hop_cost` hops. Functions that arrange cores need these points only.

`Links` is the traffic from slice to slice, `Flow` from core to core. `TrafficGraph` holds a flow as neighbour lists, both
directions in one, because a spike costs as much on the way there as on the way back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import RequestError
from neurodeploy.ir.arrays import ByValue, Floats, Integers, freeze
from neurodeploy.ir.graph import INPUT, bias_sources
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Layers, Region, SourceNeurons

GridPoint: TypeAlias = "tuple[int, int]"


class Position(NamedTuple):
    """Positions of cores: chip, column and row of the tile on it, and column, row and level of the chip on the board."""

    chip: Integers
    tile_x: Integers
    tile_y: Integers
    chip_x: Integers
    chip_y: Integers
    chip_z: Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Geometry of a board: the positions of its cores and the distances between them.

    Cores count from 0, chip after chip; on a chip tile after tile, row by row from the north-west; chips on the board likewise,
    column fastest, then row, then level. Cores of one tile are no hop apart. Tiles of one chip are their Manhattan distance
    apart. Chips lie edge to edge: their tile meshes adjoin east-west and north-south, and a spike that crosses from one
    to the next pays `chip_hop_cost` on top of the hop. A level up or down costs `chip_hop_cost` alone: it leads to the same tile.
    A chip with a crossbar instead of a mesh is one tile, but two of its cores are one hop apart, and so are cores of two
    chips, on top of the chips crossed.

    This is a model of distance, not of the router: no congestion, no detour by way of the few links at a chip's edge.

    Parameters
    ----------
    chips : int
        Chips on the board, >= 1.
    chip_mesh : tuple of int
        Places for chips along x, y and z, one to three numbers whose product is `chips` or more; the last places may be empty.
    cores_per_chip, cores_per_tile : int
        Cores on a chip and on a tile, >= 1.
    tile_mesh : tuple of int
        Tiles of a chip along x (columns) and y (rows); the last ones may be empty. ``()`` for a crossbar.
    chip_hop_cost : float
        Cost of crossing from chip to chip, in hops within a chip, >= 0. The default, the width of a Loihi chip, is an
        assumption: makers do not publish the figure.
    """

    chips: int
    chip_mesh: tuple[int, ...]
    cores_per_chip: int
    cores_per_tile: int
    tile_mesh: tuple[int, ...]
    chip_hop_cost: float = 8.0

    def __post_init__(self) -> None:
        for name in ("chips", "cores_per_chip", "cores_per_tile"):
            if getattr(self, name) < 1:
                raise RequestError(f"Mesh.{name}", f"{getattr(self, name)} is not 1 or more")
        if not 1 <= len(self.chip_mesh) <= 3 or min(self.chip_mesh) < 1:
            raise RequestError("Mesh.chip_mesh", f"{self.chip_mesh} is not one to three numbers of 1 or more")
        if self.chips > prod(self.chip_mesh):
            raise RequestError("Mesh.chip_mesh", "chips", need=self.chips, limit=prod(self.chip_mesh))
        if self.tile_mesh and (len(self.tile_mesh) != 2 or min(self.tile_mesh) < 1):
            raise RequestError("Mesh.tile_mesh", f"{self.tile_mesh} is neither () nor two numbers of 1 or more")
        tiles = -(-self.cores_per_chip // self.cores_per_tile)
        if self.tile_mesh and tiles > prod(self.tile_mesh):
            raise RequestError("Mesh.tile_mesh", "tiles", need=tiles, limit=prod(self.tile_mesh))
        if not 0 <= self.chip_hop_cost < float("inf"):
            raise RequestError("Mesh.chip_hop_cost", f"{self.chip_hop_cost} is not a number of hops")

    @property
    def n_cores(self) -> int:
        return self.chips * self.cores_per_chip

    def corner(self, chips: int) -> tuple[Mesh, Integers]:
        """The box at the first chip with at most `chips` chips along each axis, and the numbers of its chips on this board.

        It holds as many chips, in the same order, and leaves out those that are too far away to be of use.
        """
        sides = (*self.chip_mesh, 1, 1)[:3]
        box = tuple(min(side, chips) for side in sides)
        places = np.arange(prod(box))
        x, y, z = places % box[0], places // box[0] % box[1], places // (box[0] * box[1])
        numbers = x + sides[0] * (y + sides[1] * z)
        # Places without a chip are the last ones of the board, and so of the box.
        numbers = numbers[numbers < self.chips]
        return replace(self, chips=numbers.size, chip_mesh=box[: len(self.chip_mesh)]), numbers

    @property
    def columns_and_rows(self) -> tuple[int, int]:
        """Tiles of one chip along x and y; a crossbar is one tile."""
        return (self.tile_mesh[0], self.tile_mesh[1]) if self.tile_mesh else (1, 1)

    def position(self, core: Integers) -> Position:
        """Position of each core, in arrays of any shape."""
        chip, on_chip = np.divmod(np.asarray(core, np.int64), self.cores_per_chip)
        tile = on_chip // self.cores_per_tile if self.tile_mesh else np.zeros_like(on_chip)
        tile_y, tile_x = np.divmod(tile, self.columns_and_rows[0])
        along_x, along_y = (*self.chip_mesh, 1)[:2]  # a mesh of one number is a row of chips
        return Position(chip, tile_x, tile_y, chip % along_x, chip // along_x % along_y, chip // (along_x * along_y))

    def hops(self, a: Integers, b: Integers) -> tuple[Integers, Integers, Integers]:
        """Hops from cores `a` to cores `b`: east-west, north-south, from chip to chip. A crossbar's hop counts as east-west."""
        here, there = self.position(a), self.position(b)
        columns, rows = self.columns_and_rows
        between_x, between_y = here.chip_x - there.chip_x, here.chip_y - there.chip_y
        east_west = np.abs(between_x * columns + here.tile_x - there.tile_x)
        north_south = np.abs(between_y * rows + here.tile_y - there.tile_y)
        if not self.tile_mesh:  # a crossbar: any two cores are one hop apart
            east_west = (np.asarray(a) != np.asarray(b)).astype(np.int64)
            north_south = np.zeros_like(east_west)
        return east_west, north_south, np.abs(between_x) + np.abs(between_y) + np.abs(here.chip_z - there.chip_z)

    def cost(self, a: Integers, b: Integers) -> Floats:
        """Hops from cores `a` to cores `b`, crossings from chip to chip weighted by `chip_hop_cost`."""
        east_west, north_south, between_chips = self.hops(a, b)
        total: Floats = east_west + north_south + self.chip_hop_cost * between_chips
        return total

    def points(self, core: Integers) -> Floats:
        """Points whose Manhattan distances are the costs (n_cores, 3), without a crossbar's hop, which is equal for all pairs."""
        at = self.position(core)
        columns, rows = self.columns_and_rows if self.tile_mesh else (0, 0)  # a crossbar: only the chips crossed count
        price = self.chip_hop_cost  # a crossing is a gap between chips, as wide as it costs
        return np.stack(
            [at.chip_x * (columns + price) + at.tile_x, at.chip_y * (rows + price) + at.tile_y, at.chip_z * price], axis=-1
        )


def compact_region(n_cores: int, mesh: Mesh) -> Integers:
    """Physical cores of as few chips as hold `n_cores`: those of the block of chips with the shortest sides."""
    needed = -(-n_cores // mesh.cores_per_chip)
    along = (*mesh.chip_mesh, 1, 1)[:3]
    columns, rows = mesh.columns_and_rows
    sides = np.array([columns + mesh.chip_hop_cost, rows + mesh.chip_hop_cost, mesh.chip_hop_cost])
    corners = [block for block in product(*(range(1, n + 1) for n in along)) if np.prod(block) >= needed]
    block = min(corners, key=lambda corner: (float(np.dot(corner, sides)), corner))
    chips = np.arange(mesh.chips)
    at = mesh.position(chips * mesh.cores_per_chip)
    outside = (at.chip_x >= block[0]) | (at.chip_y >= block[1]) | (at.chip_z >= block[2])
    taken = np.sort(chips[np.lexsort((chips, outside))][:needed])  # beyond the block only if places in it are empty
    return (taken[:, None] * mesh.cores_per_chip + np.arange(mesh.cores_per_chip)).ravel()


def hilbert(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Points of a rectangle along a Hilbert curve, generalised to all side lengths (after J. Cerveny's gilbert)."""
    along_x, along_y = (width, 0), (0, height)
    yield from hilbert_curve((0, 0), *((along_x, along_y) if width >= height else (along_y, along_x)))


def hilbert_curve(start: GridPoint, main: GridPoint, side: GridPoint) -> Iterator[GridPoint]:
    """Points of the rectangle spanned by `main` and `side`, one of which has x only, the other y only."""
    (x, y), (mx, my), (sx, sy) = start, main, side
    length, breadth = abs(mx + my), abs(sx + sy)
    step_m, step_s = (int(np.sign(mx)), int(np.sign(my))), (int(np.sign(sx)), int(np.sign(sy)))
    if breadth == 1 or length == 1:
        (dx, dy), count = (step_m, length) if breadth == 1 else (step_s, breadth)
        yield from ((x + i * dx, y + i * dy) for i in range(count))
        return
    # Int() rounds towards 0, also for negative directions.
    half_m, half_s = (int(mx / 2), int(my / 2)), (int(sx / 2), int(sy / 2))
    if 2 * length > 3 * breadth:  # long: cut along the main side only, at an even place
        if abs(half_m[0] + half_m[1]) % 2 and length > 2:
            half_m = (half_m[0] + step_m[0], half_m[1] + step_m[1])
        yield from hilbert_curve(start, half_m, side)
        yield from hilbert_curve((x + half_m[0], y + half_m[1]), (mx - half_m[0], my - half_m[1]), side)
        return
    if abs(half_s[0] + half_s[1]) % 2 and breadth > 2:
        half_s = (half_s[0] + step_s[0], half_s[1] + step_s[1])
    yield from hilbert_curve(start, half_s, half_m)
    yield from hilbert_curve((x + half_s[0], y + half_s[1]), main, (sx - half_s[0], sy - half_s[1]))
    corner = (x + mx - step_m[0] + half_s[0] - step_s[0], y + my - step_m[1] + half_s[1] - step_s[1])
    yield from hilbert_curve(corner, (-half_s[0], -half_s[1]), (half_m[0] - mx, half_m[1] - my))


def space_filling(n_cores: int, mesh: Mesh) -> Integers:
    """Logical cores in order along a Hilbert curve through the tiles of the board, level after level (n_cores,)."""
    at = mesh.position(np.arange(mesh.n_cores))
    columns, rows = mesh.columns_and_rows
    x, y = at.chip_x * columns + at.tile_x, at.chip_y * rows + at.tile_y
    sides = int(x.max()) + 1, int(y.max()) + 1
    level = np.bincount((x * sides[1] + y)[at.chip_z == 0], minlength=sides[0] * sides[1]).tolist()
    nth, found = np.full(sides, sides[0] * sides[1]), 0
    for place, (column, row) in enumerate(hilbert(*sides)):
        nth[column, row] = place
        found += level[column * sides[1] + row]
        if found >= n_cores:  # the rest of the curve is not needed
            break
    along = nth[x, y]
    # Every other level is walked backwards, so that a level begins where the one below ended.
    walked: Integers = np.lexsort((np.where(at.chip_z % 2, -along, along), at.chip_z))
    return walked[:n_cores]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow(ByValue):
    """Sparse traffic between logical cores.

    Parameters
    ----------
    source, target : NDArray[np.int64]
        Logical cores (n_edges,), from 0. A pair may occur twice; spikes within a core cost nothing.
    spikes : NDArray[np.float64]
        Spikes a step from source to target (n_edges,), >= 0.
    """

    source: Integers
    target: Integers
    spikes: Floats

    def __post_init__(self) -> None:
        source, target = freeze(self, "source", np.int64), freeze(self, "target", np.int64)
        spikes = freeze(self, "spikes", np.float64)
        if not source.ndim == target.ndim == spikes.ndim == 1 or not source.size == target.size == spikes.size:
            raise RequestError(
                "Flow", f"{source.shape}, {target.shape} and {spikes.shape} are not the shapes of three arrays (n_edges,)"
            )
        if source.size and (least := min(source.min(), target.min())) < 0:
            raise RequestError("Flow", f"core {least} is not a core")
        if source.size and spikes.min() < 0:
            raise RequestError("Flow.spikes", f"{spikes.min()} is negative")


def spike_hops(flow: Flow, position: Integers, mesh: Mesh) -> float:
    """Spikes x hops a step of logical cores on physical cores `position`, chip crossings weighted by their cost."""
    return float(flow.spikes @ mesh.cost(position[flow.source], position[flow.target]))


class TrafficGraph(NamedTuple):
    """Neighbour lists: that of core i is ``core[first[i]:first[i + 1]]``, with `spikes` to each; `owner` repeats i along it."""

    first: Integers
    core: Integers
    spikes: Floats
    owner: Integers

    @property
    def n_cores(self) -> int:
        return self.first.size - 1

    def between(self, a: Integers, b: Integers) -> Floats:
        """Spikes a step between cores `a` and cores `b`, one by one, both directions together."""
        # Keys ascend: `traffic_graph` builds the lists by owner, and `sum_duplicates` sorts each of them.
        keys, wanted = self.owner * self.n_cores + self.core, a * self.n_cores + b
        found = np.minimum(np.searchsorted(keys, wanted), max(keys.size - 1, 0))  # a key beyond the last is no match either
        return np.where(keys[found] == wanted, self.spikes[found], 0.0) if keys.size else np.zeros(wanted.shape)


class CoreSubset(NamedTuple):
    """Some cores and their neighbour lists, concatenated: `core`, `spikes`, and `row`, the index of the owner in `members`."""

    members: Integers
    core: Integers
    spikes: Floats
    row: Integers


def traffic_graph(flow: Flow, n_cores: int) -> TrafficGraph:
    """Neighbour lists of a flow, without spikes within a core."""
    from scipy.sparse import csr_array  # imported here: only an arrangement needs neighbour lists

    other = (flow.source != flow.target) & (flow.spikes > 0)
    source, target, spikes = flow.source[other], flow.target[other], flow.spikes[other]
    ends = (np.concatenate([source, target]), np.concatenate([target, source]))
    both = csr_array((np.concatenate([spikes, spikes]), ends), shape=(n_cores, n_cores))
    both.sum_duplicates()  # adds up both directions, and pairs that occur twice
    first = both.indptr.astype(np.int64)
    return TrafficGraph(first, both.indices.astype(np.int64), both.data, np.repeat(np.arange(n_cores), np.diff(first)))


def core_subset(graph: TrafficGraph, members: Integers) -> CoreSubset:
    """Neighbour lists of `members` alone."""
    lengths = graph.first[members + 1] - graph.first[members]
    ends = np.cumsum(lengths)
    # The ranges first[m] .. first[m + 1] one after another, without a loop.
    edges = np.arange(lengths.sum()) + np.repeat(graph.first[members] - ends + lengths, lengths)
    return CoreSubset(members, graph.core[edges], graph.spikes[edges], np.repeat(np.arange(members.size), lengths))


def travel_cost(graph: TrafficGraph, points: Floats) -> float:
    """Spikes x hops a step with core i at ``points[i]``."""
    # Halved, because each edge is in the lists of both its cores.
    return sum(
        float(graph.spikes @ np.abs(points[graph.owner, axis] - points[graph.core, axis])) for axis in range(points.shape[1])
    ) / 2  # fmt: skip


def independent_sets(graph: TrafficGraph, rng: np.random.Generator) -> Iterator[Integers]:
    """Yield independent sets of the traffic graph without end, the least used cores first.

    Each set is drawn in rounds of Luby (1986): a core that ranks above all its neighbours is in, and its neighbours are out.
    """
    # networkx.maximal_independent_set takes three times as long at 1,200 cores, in Python loops that boards of 100,000 cores
    # would wait for, and prefers no cores: drawn by it, some cores would hardly ever move.
    some = np.flatnonzero(np.diff(graph.first))
    starts = graph.first[some]  # reduceat cannot take the empty lists of cores without neighbours
    turns = np.zeros(graph.n_cores)
    while True:
        rank = rng.random(graph.n_cores) - turns  # cores that were in fewer sets rank higher
        chosen, undecided = np.zeros(graph.n_cores, bool), np.ones(graph.n_cores, bool)
        for _ in range(4):  # the set need not be maximal, and later rounds add little
            rank[~undecided] = -np.inf
            above = undecided.copy()
            if some.size:
                above[some] &= rank[some] > np.maximum.reduceat(rank[graph.core], starts)
            chosen |= above
            undecided &= ~above
            if some.size:
                undecided[some] &= ~np.logical_or.reduceat(above[graph.core], starts)
        turns[chosen] += 1
        yield np.flatnonzero(chosen)


Rates: TypeAlias = "Mapping[str, NDArray[np.float64]]"
"""Spikes a step of every neuron of a layer, by layer: one number for all of them or one each."""

ASSUMED_RATE = 0.1
"""Spikes a neuron and step where nothing was measured."""
ENCODINGS = ("dense", "sparse", "convolution")
"""Encodings by which synaptic operations are counted."""


class Copies(NamedTuple):
    """Neurons of one slice whose spikes go to the same slices, as groups: what routers that copy a spike have to know.

    `source` slice and `spikes` a step of each group (n_groups,); `group` and `target` slice of each copy (n_copies,).
    """

    source: Integers
    spikes: Floats
    group: Integers
    target: Integers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Links(ByValue):
    """Traffic from slice to slice in an average step.

    Attributes
    ----------
    source, target : array (n_links,), int64
        Indices into a placement's slices; source -1 for the network's input, which comes from off the chip.
    spikes : array (n_links,), float64
        Messages: one for each neuron of the source that fires and has a synapse on the target.
    synops : array (n_links,), float64
        Synapses that the messages activate, zeros of a dense list included.
    encoding : array (n_links,), int64
        Encoding of those synapses, as an index into `ENCODINGS`.
    fired : array (n_slices,), float64
        Spikes of each slice's neurons.
    copies : Copies
        The spikes of neurons once more, each with all slices that it goes to.
    measured : bool
        Whether the rates come from a record; else they are assumed.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    spikes: NDArray[np.float64]
    synops: NDArray[np.float64]
    encoding: NDArray[np.int64]
    fired: NDArray[np.float64]
    copies: Copies = field(compare=False)
    measured: bool

    def __post_init__(self) -> None:
        for name in ("source", "target", "encoding"):
            freeze(self, name, np.int64)
        for name in ("spikes", "synops", "fired"):
            freeze(self, name, np.float64)


def links_of(
    slices: list[tuple[str, Region]], layers: Layers, counts: Mapping[str, LayerCount], rates: Rates | None = None
) -> Links:
    """Traffic from slice to slice at measured or assumed rates.

    Parameters
    ----------
    slices : list of (layer, region)
    rates : mapping, optional
        Spikes a step by layer, and of the network's input under ``"input"``; `ASSUMED_RATE` for a layer that is not there,
        and 1 for one that supplies biases.
    """
    known = {} if rates is None else rates
    biases = bias_sources(layers)  # they fire at every step
    assumed = {layer.name: np.array(1.0 if layer.name in biases else ASSUMED_RATE) for layer in layers}
    rate = {of.name: np.broadcast_to(np.ravel(known.get(of.name, assumed[of.name])), of.n_neurons) for of in layers}
    numbers, slice_of = _slice_of_neuron(slices, layers, counts)
    found: list[tuple[NDArray[np.int64], int, NDArray[np.float64], NDArray[np.float64], int]] = []
    fired = np.zeros(len(slices))
    for target, (name, region) in enumerate(slices):
        count = counts[name]
        fired[target] = rate[name].reshape(count.grid)[region.box].sum()
        parts = zip(count.sources(region), count.by_connection(region), count.fan_outs(region), strict=True)
        for received, (_, _, _, encoding), fan_out in parts:
            # A dense list stores zeros too, and a spike pays for them.
            meets = np.full(received.mask.shape, region.n_neurons) if encoding == "dense" else fan_out
            if received.source == INPUT:
                spikes = np.broadcast_to(np.ravel(known.get(INPUT, ASSUMED_RATE)), math.prod(received.shape))
                sent = spikes.reshape(received.shape)[received.box.box] * received.mask
                from_, messages, synops = np.array([-1]), np.array([sent.sum()]), np.array([(sent * meets).sum()])
            else:
                source = received.source
                from_, messages, synops = _by_slice(received, numbers[source], slice_of[source], rate[source], meets)
            # An encoding without a figure of its own (a crossbar's) counts as dense.
            found.append((from_, target, messages, synops, ENCODINGS.index(encoding) if encoding in ENCODINGS else 0))
    lengths = [from_.size for from_, *_ in found]
    return Links(
        source=np.concatenate([np.zeros(0), *(from_ for from_, *_ in found)]).astype(np.int64),
        target=np.repeat([target for _, target, *_ in found], lengths),
        spikes=np.concatenate([np.zeros(0), *(sent for _, _, sent, *_ in found)]),
        synops=np.concatenate([np.zeros(0), *(synops for *_, synops, _ in found)]),
        encoding=np.repeat([kind for *_, kind in found], lengths),
        fired=fired,
        copies=copies_of(slices, numbers, layers, counts, rate),
        measured=rates is not None,
    )


def copies_of(
    slices: list[tuple[str, Region]],
    numbers: Mapping[str, Integers],
    layers: Layers,
    counts: Mapping[str, LayerCount],
    rate: Rates,
) -> Copies:
    """Groups of neurons that send to the same slices, of numbers by layer; `rate` has one number for each neuron."""
    # The sum of random numbers of 64 bits, one for each slice that a neuron sends to, tells these slices from all others.
    of_source, of_target = np.random.default_rng(0).integers(1 << 63, size=(2, len(slices)), dtype=np.uint64)
    found: list[tuple[NDArray[Any], ...]] = []
    for layer in layers:
        home, readers = np.zeros(counts[layer.name].grid, np.int64), list[int]()
        for number in numbers[layer.name]:
            home[slices[number][1].box] = number
        for reader in layers:
            readers += numbers[reader.name].tolist() if any(c.source == layer.name for c in reader.connections) else []
        received = [(t, one) for t in readers for one in counts[slices[t][0]].sources(slices[t][1]) if one.source == layer.name]
        keys = of_source[home.ravel()]
        for target, one in received:
            keys.reshape(one.shape)[one.box.box] += one.mask * of_target[target]
        first = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))  # neighbours often agree: sort runs of them, not neurons
        _, chosen, group = np.unique(keys[first], return_index=True, return_inverse=True)
        number_of = np.full(keys.size, -1)
        number_of[first[chosen]] = np.arange(chosen.size) + sum(source.size for source, *_ in found)
        copies = [number_of.reshape(one.shape)[one.box.box][one.mask] for _, one in received]
        copies = [which[which >= 0] for which in copies]
        spikes = np.bincount(group.ravel(), np.add.reduceat(rate[layer.name], first), chosen.size)
        targets = np.repeat([target for target, _ in received], [which.size for which in copies]).astype(np.int64)
        found.append((home.ravel()[first[chosen]], spikes, np.concatenate([np.zeros(0, np.int64), *copies]), targets))
    return Copies(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _slice_of_neuron(
    slices: list[tuple[str, Region]], layers: Layers, counts: Mapping[str, LayerCount]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int32]]]:
    """Return by layer the indices of its slices, and for every neuron the place of its slice among these."""
    of_layer: dict[str, list[int]] = {layer.name: [] for layer in layers}
    for number, (name, _) in enumerate(slices):
        of_layer[name].append(number)
    slice_of = {}
    for layer in layers:
        home = np.zeros(counts[layer.name].grid, dtype=np.int32)
        for local, number in enumerate(of_layer[layer.name]):
            home[slices[number][1].box] = local
        slice_of[layer.name] = home
    return {name: np.array(numbers, dtype=np.int64) for name, numbers in of_layer.items()}, slice_of


def _by_slice(
    received: SourceNeurons, numbers: NDArray[np.int64], home: NDArray[np.int32], rate: NDArray[np.float64], meets: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The slices of a source that send to a region, the spikes of each in a step, and the synapses that these activate."""
    local = home.reshape(received.shape)[received.box.box][received.mask]
    sent = rate.reshape(received.shape)[received.box.box][received.mask]
    spikes, synops = (np.bincount(local, values, len(numbers)) for values in (sent, sent * meets[received.mask]))
    which: Any = np.flatnonzero(np.bincount(local, minlength=1))
    return numbers[which], spikes[which], synops[which]
