"""How a layer is cut where one core does not hold it.

A row of neurons is cut along itself. A layer of channels, rows and columns is parted into blocks: contiguous patches share
axons, few channels share a kernel. Which block is best depends on the layers around: every piece that hears a neuron takes
an output axon of it, and every piece holds the output axons of its own neurons. So the layers agree: each takes the block by
which it and the layers that it hears fill fewest cores, given how its own neurons are heard.

Which blocks a layer can be cut into, and what the pieces would take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.resources.convolution_lists import Edge, Window
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, Usage, limited_resources, usage_vector

# -------------------- layout.schemes


@dataclass(frozen=True, slots=True)
class Strip:
    """A block of a layer that is cut along one axis."""

    region: Region
    axis: int

    @property
    def start(self) -> int:
        return self.region.starts[self.axis]

    @property
    def stop(self) -> int:
        return self.region.stops[self.axis]

    def between(self, start: int, stop: int) -> Region:
        """The part of the strip from `start` to `stop` along its axis."""
        starts, stops = list(self.region.starts), list(self.region.stops)
        starts[self.axis], stops[self.axis] = start, stop
        return Region(tuple(starts), tuple(stops))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Blocks of so many neurons along each axis, cut along one of them.

    Attributes
    ----------
    grid, block : tuple of int
        The block is as long as the grid along `axis`.
    axis : int
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, grid: tuple[int, ...], block: tuple[int, ...]) -> Scheme:
        """Cut where most blocks stand in a row: there a last one that is shorter counts least."""
        rows = [-(-side // length) for side, length in zip(grid, block, strict=True)]
        axis = int(np.argmax(rows))
        return cls(grid=grid, block=tuple(side if n == axis else block[n] for n, side in enumerate(grid)), axis=axis)

    def strips(self) -> Iterator[Strip]:
        """Every block, first neuron first; blocks along an axis differ by one at most."""
        cuts = [even_cuts(side, block) for side, block in zip(self.grid, self.block, strict=True)]
        for ranges in product(*cuts):
            yield Strip(Region(tuple(a for a, _ in ranges), tuple(b for _, b in ranges)), self.axis)


def even_cuts(side: int, block: int) -> list[tuple[int, int]]:
    """A side in as few runs of at most `block` as there can be, which differ by one at most."""
    n = -(-side // block)
    ends = [side * i // n for i in range(n + 1)]
    return list(pairwise(ends))


def middle(side: int, block: int) -> tuple[int, int]:
    """The longest run of an even cut, from its midst: with neighbours on both sides where there are any."""
    cuts = even_cuts(side, block)
    return max(cuts[len(cuts) // 2 :] + cuts[: len(cuts) // 2], key=lambda cut: cut[1] - cut[0])


def blocks(side: int, step: float = 1.1) -> list[int]:
    """Block lengths that part a side into 1, 2, 3, ... even blocks, the numbers growing by `step` at least."""
    lengths: list[int] = []
    parts = 1
    while True:
        block = -(-side // parts)
        if not lengths or block < lengths[-1]:
            lengths.append(block)
        if block == 1:
            return lengths
        parts = max(parts + 1, int(parts * step))


def longest(fits: Callable[[int], bool], most: int, guess: int) -> int:
    """The largest n in 0..most with `fits(n)`, which is true of 0 and, once false, stays so; found from a guess."""
    low, high, step = 0, most, 1
    n = min(max(guess, 1), most)
    while low < high:
        if fits(n):
            low = n
            n = min(high, n + step)
        else:
            high = n - 1
            n = max(low, n - step)
        step *= 2
        if n in (low, high + 1) or high - low < step:
            break
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The blocks that a layer can be cut into.

    Attributes
    ----------
    blocks : array (n, axes)
    pieces, neurons : array (n,)
        How many pieces that makes, and of how many neurons each.
    own : array (n, n_resources)
        Share of a core that the middle piece takes, without output axons.
    heard : mapping by layer: array (n,)
        Neurons that the pieces hear, counted for each piece.
    peak : mapping by layer: array (n,)
        Pieces by which that neuron is heard that is heard by most.
    """

    blocks: NDArray[np.int64]
    pieces: Floats
    neurons: Floats
    own: Floats
    heard: Mapping[str, Floats]
    peak: Mapping[str, Floats]

    def expecting(self, n_neurons: Mapping[str, int], caution: float) -> Options:
        """With less of a peak: `caution` times as far above the mean."""
        mean = {source: self.heard[source] / n_neurons[source] for source in self.peak if source in n_neurons}
        return replace(self, peak={source: one + caution * (self.peak[source] - one) for source, one in mean.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """How a layer is to be cut.

    Attributes
    ----------
    block : tuple of int
    cores : float
        That the layer fills, on cores of its own.
    burden : float
        That the layers it hears fill more, for the output axons that lead to it.
    prices : mapping by layer
        Cores that an output axon of each layer costs.
    """

    block: tuple[int, ...]
    cores: float
    burden: float
    prices: Mapping[str, float]


_SWEEPS = 4
_TRIES = 60
_FEW_LAYERS = 100
"""Of no more layers, others are tried: with what they do to the layers before weighed more or less."""
_WHOLE = 0.5
"""How far a piece counts as the part of a core that no second one fits beside, rather than as what it takes itself."""
_MESSAGE = 1e-3
"""All else being equal, the fewer messages: an output axon that costs nothing counts for so much of one that does."""
_DENSITIES = np.concatenate([[0.0], np.geomspace(0.5, 1e5, 40)])
"""Output axons a neuron for which is worked out what a layer, and all that it hears, would fill."""


class Agreement:
    """Layers that look for blocks by which all of them together take fewest cores.

    A sweep goes forth and back. Forth, each layer works out how many cores it and those before it would fill for any number of
    output axons that each of its neurons might be given. Back, each takes its best block, knowing by then how many they are. In
    a chain of layers that finds the best there is; where a layer is heard by several, each takes the others for what they were.

    Parameters
    ----------
    options : mapping by layer, first layer first
    n_neurons : mapping by layer
    axon : array (n_resources,)
        Share of a core that an output axon takes.
    caution : float
        0 to 1: whether neurons are taken to have as many output axons as they have on average, or as the one that has most.
    """

    def __init__(self, options: Mapping[str, Options], n_neurons: Mapping[str, int], axon: Floats, caution: float = 1.0) -> None:
        options = {name: option.expecting(n_neurons, caution) for name, option in options.items()}
        self.options, self.n_neurons, self.axon = options, n_neurons, axon
        self._message = _MESSAGE * float(axon.max(initial=0.0))
        self._sent: dict[str, dict[str, float]] = {name: {} for name in options}
        self._weights = dict.fromkeys(options, 1.0)
        self._filled = {name: np.zeros(len(_DENSITIES)) for name in options}

    def reached(self) -> dict[str, Chosen]:
        """The best of some sweeps, and of some tries to find a better one nearby."""
        best: dict[str, Chosen] = {}
        least = np.inf
        for _ in range(_SWEEPS):
            self._go_forth()
            chosen, total = self._go_back()
            if total > least * (1 - 1e-4) and best:
                break
            best, least = chosen, total
        rng, weights = np.random.default_rng(0), dict(self._weights)
        are_images = any(option.blocks.shape[1] > 1 for option in self.options.values())
        for _ in range(_TRIES if are_images and len(self.options) <= _FEW_LAYERS else 0):
            drawn = rng.random(len(weights)) < max(2 / len(weights), 0.1)
            factors = np.where(drawn, np.exp(rng.normal(0.0, 0.5, len(weights))), 1.0)
            self._weights = {name: weight * factor for (name, weight), factor in zip(weights.items(), factors, strict=True)}
            chosen, total = self._go_back()
            if total < least:
                best, least, weights = chosen, total, self._weights
        return best

    def _go_forth(self) -> None:
        for name, option in self.options.items():
            burden = self._burden(name)
            self._filled[name] = np.array([float((self._cores(option, d) + burden).min()) for d in _DENSITIES])

    def _go_back(self) -> tuple[dict[str, Chosen], float]:
        """What the layers take, and how many cores that is."""
        chosen = {name: self._choose(name) for name in reversed(self.options)}
        return chosen, sum(one.cores for one in chosen.values())

    def _density(self, name: str, but: str = "") -> float:
        """Output axons of the neuron of the layer that has most, those to one layer left out."""
        return sum(n for target, n in self._sent[name].items() if target != but)

    def _burden(self, name: str) -> Floats:
        """Cores that the layers before fill more for each of the layer's blocks."""
        option = self.options[name]
        burden = np.zeros(len(option.pieces))
        for source, heard in option.heard.items():
            if source in self.options and source != name:
                others = self._density(source, name)
                with_it = np.interp(others + option.peak[source], _DENSITIES, self._filled[source])
                burden += with_it - np.interp(others, _DENSITIES, self._filled[source]) + heard * self._message
        return burden

    def _choose(self, name: str) -> Chosen:
        """Takes the layer's best block, and says to its sources how they are heard."""
        option = self.options[name]
        cores, burden = self._cores(option, self._density(name)), self._burden(name)
        best, prices = int(np.argmin(cores + self._weights[name] * burden)), {}
        for source, peak in option.peak.items():
            if source in self.options:
                self._sent[source][name] = float(peak[best])
                density = self._density(source)
                ends = np.interp([density * 0.95, density * 1.05], _DENSITIES, self._filled[source])
                prices[source] = float(ends[1] - ends[0]) / max(0.1 * density * self.n_neurons[source], 1e-9) + self._message
        block = tuple(int(length) for length in option.blocks[best])
        return Chosen(block=block, cores=float(cores[best]), burden=float(burden[best]), prices=prices)

    def _cores(self, option: Options, density: float) -> Floats:
        """Cores that a layer fills in each of its blocks, if each neuron has so many output axons."""
        share = (option.own + (option.neurons * density)[:, None] * self.axon).max(axis=1)
        whole = 1 / np.maximum(1, np.floor(1 / np.maximum(share, 1e-9)))
        each = share + np.where(option.pieces * share < 0.5, 0.0, _WHOLE * np.maximum(whole - share, 0))
        cores: Floats = option.pieces * np.where(share > 1, 1e6 * share, each)
        return cores


# -------------------- layout.options

_SHARED = "options"
_COARSE = 1.5
"""Numbers of blocks to look at grow by so much where each has to be counted by itself."""
_LARGEST = 4
"""Of blocks with so many times the neurons of a core nothing is to be learnt."""


def options_of(count: LayerCount, grid: tuple[int, ...], profile: HardwareProfile) -> Options:
    """What a layer can be cut into; blocks of no more neurons than a core has, where it is an image.

    Parameters
    ----------
    count : LayerCount
        Or what counts as it does.
    """
    windows = count.windows() if isinstance(count, LayerCount) and len(grid) == 3 else None
    if windows is None or "convolution" not in profile["encodings"].names:
        return _one_by_one(count, grid, profile)
    key = (_SHARED, grid, bool(count.layer.bias.any()), *((id(window), len(sources)) for window, sources in windows))
    if key not in count.counted:
        count.counted[key] = _of_windows(count, windows, grid, profile)
    lengths, pieces, own, heard, peaks = count.counted[key]
    own = _pressed(own, lengths.prod(axis=1), count.share, profile)
    of_source, peak_of_source = dict[str, Floats](), dict[str, Floats]()
    for (_, sources), neurons, peak in zip(windows, heard, peaks, strict=True):
        for source in sources:
            of_source[source] = of_source.get(source, 0.0) + neurons
            peak_of_source[source] = peak_of_source.get(source, 0.0) + peak
    return Options(
        blocks=lengths, pieces=pieces, neurons=lengths.prod(axis=1).astype(np.float64), own=own, heard=of_source,
        peak=peak_of_source,
    )  # fmt: skip


def _pressed(own: Floats, n_neurons: Integers, share: float, profile: HardwareProfile) -> Floats:
    """Shares of a core that are left where synapses keep a share of the memory that they take."""
    if share == 1:
        return own
    pressed, state = own.copy(), n_neurons * profile.number("neuron_state_bits", 0)
    for n, resource in enumerate(limited_resources(profile)):
        if resource in ("memory_bits", "synapse_memory_bits"):
            beside = state / profile.capacity(resource) if resource == "memory_bits" else 0.0
            pressed[:, n] = beside + share * (own[:, n] - beside)
    return pressed


def _one_by_one(count: LayerCount, grid: tuple[int, ...], profile: HardwareProfile) -> Options:
    """Any layer: the middle of each even cut stands for all."""
    most, capacity = profile.capacity("neurons"), _capacity(profile)
    lengths, pieces, own, heard = [], [], [], []
    for block in product(*(blocks(side, _COARSE) for side in grid)):
        if math.prod(block) > most and (len(grid) == 3 or math.prod(block) > most * _LARGEST):
            continue
        cut = [middle(side, length) for side, length in zip(grid, block, strict=True)]
        region = Region(tuple(a for a, _ in cut), tuple(b for _, b in cut))
        try:
            share = usage_vector(count.usage(region), 0, profile) / capacity
        except BudgetError:
            share = np.full(len(capacity), 1e6)
        lengths.append(block)
        pieces.append(math.prod(-(-side // length) for side, length in zip(grid, block, strict=True)))
        own.append(share)
        heard.append(count.n_sources(region))
    parts = np.array(pieces, dtype=np.float64)
    sources = sorted({source for one in heard for source in one})
    of_source = {source: parts * np.array([one.get(source, 0) for one in heard], dtype=np.float64) for source in sources}
    table = np.array(lengths, dtype=np.int64)
    sizes = _sizes(count)
    peak = {source: neurons / sizes[source] for source, neurons in of_source.items() if source in sizes}
    return Options(
        blocks=table, pieces=parts, neurons=table.prod(axis=1).astype(np.float64), own=np.stack(own), heard=of_source, peak=peak
    )


def _sizes(count: LayerCount) -> dict[str, int]:
    """How many neurons each source has."""
    return {connection.source: connection.synapse.n_in for connection in count.layer.connections}


def _capacity(profile: HardwareProfile) -> Floats:
    return np.maximum(np.array([profile.capacity(resource) for resource in limited_resources(profile)], dtype=np.float64), 1.0)


def _of_windows(
    count: LayerCount, windows: list[tuple[Window, tuple[str, ...]]], grid: tuple[int, ...], profile: HardwareProfile
) -> tuple[Integers, Floats, Floats, list[Floats], list[Floats]]:
    """Blocks, pieces, shares of a core, and what a source of each window has to send, in all and at most a neuron."""
    channels = np.array(blocks(grid[0]))
    n_runs = -(-grid[0] // channels)
    cut = np.array([middle(grid[0], int(c)) for c in channels])
    sides = [[(length, *_along(windows, axis, grid, length)) for length in blocks(grid[1 + axis])] for axis in (0, 1)]
    tables: list[tuple[Integers, Floats, Floats, list[Floats], list[Floats]]] = []
    for (y, rows, heard_y, peak_y), (x, columns, heard_x, peak_x) in product(*sides):
        few = channels * y * x <= profile.capacity("neurons")
        while few.any():
            try:
                own = _shares(count, windows, cut[few], (y, x), (rows, columns), profile)
                break
            except BudgetError:  # no index as long: fewer channels
                few[np.flatnonzero(few)[0]] = False
        if not few.any():
            continue
        pieces = n_runs[few] * -(-grid[1] // y) * -(-grid[2] // x)
        length = np.stack([channels[few], np.full(few.sum(), y), np.full(few.sum(), x)], axis=1)
        heard = [
            n_runs[few] * np.array([window.n_channels(a, b) for a, b in cut[few].tolist()]) * float(hy * hx)
            for (window, _), hy, hx in zip(windows, heard_y, heard_x, strict=True)
        ]
        within = [
            n_runs[few] * np.array([window.n_channels(a, b) for a, b in cut[few].tolist()]) / window.wiring.input_shape[0]
            for window, _ in windows
        ]
        peak = [runs * float(py * px) for runs, py, px in zip(within, peak_y, peak_x, strict=True)]
        tables.append((length, pieces.astype(np.float64), own, heard, peak))
    lengths, all_pieces, shares, sent, most = zip(*tables, strict=True)
    of_window, peaks = ([np.concatenate(column) for column in zip(*each, strict=True)] for each in (sent, most))
    return np.concatenate(lengths), np.concatenate(all_pieces), np.concatenate(shares), of_window, peaks


def _along(
    windows: list[tuple[Window, tuple[str, ...]]], axis: int, grid: tuple[int, ...], length: int
) -> tuple[list[Edge], list[int], list[int]]:
    """For each window along rows (0) or columns (1): the middle run's edge, inputs that runs hear, runs that hear one at most."""
    runs, (a, b) = even_cuts(grid[1 + axis], length), middle(grid[1 + axis], length)
    return (
        [window.edge(axis, a, b) for window, _ in windows],
        [sum(window.edge(axis, *run).inputs.size for run in runs) for window, _ in windows],
        [
            int(np.bincount(np.concatenate([window.edge(axis, *run).inputs for run in runs])).max(initial=0))
            for window, _ in windows
        ],
    )


def _shares(
    count: LayerCount,
    windows: list[tuple[Window, tuple[str, ...]]],
    cut: Integers,
    sides: tuple[int, int],
    edges: tuple[list[Edge], list[Edge]],
    profile: HardwareProfile,
) -> Floats:
    """(n, n_resources): share of a core that pieces of the channels `cut` (n, 2) take."""
    memory, axons = np.zeros(len(cut), dtype=np.int64), np.zeros(len(cut), dtype=np.int64)
    for (window, sources), rows, columns in zip(windows, *edges, strict=True):
        bits, pixels, _ = window.count_many(cut[:, 0], cut[:, 1], sides, rows, columns)
        memory += bits + (len(sources) - 1) * pixels * window.formula.entry
        axons += len(sources) * pixels
    taken, one = [], count.usage(Region((0, 0, 0), (1, 1, 1)))
    for (start, stop), bits, pixels in zip(cut.tolist(), memory.tolist(), axons.tolist(), strict=True):
        neurons = (stop - start) * sides[0] * sides[1]
        usage = Usage(
            neurons=neurons, synapses=0, synapse_memory_bits=bits, input_axons=pixels, encoding="convolution",
            neuron_memory_bits=neurons * profile.number("neuron_state_bits", 0),
            biases=stop - start if count.layer.bias.any() else 0, synapse_formats=len(windows),
            neuron_profiles=one.neuron_profiles, threshold_profiles=one.threshold_profiles,
        )  # fmt: skip
        taken.append(usage_vector(usage, 0, profile))
    shares: Floats = np.stack(taken) / _capacity(profile)
    return shares
