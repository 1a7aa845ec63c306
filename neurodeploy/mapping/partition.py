"""Partition of layers into slices: the blocks that a layer can be cut into, and the selection that fills fewest cores.

A row of neurons is cut along itself. A layer of channels, rows and columns is cut into blocks: contiguous patches share input
axons, few channels share a kernel. The best block depends on the layers around it: every slice that receives from a neuron takes
one of its output axons, and every slice holds the output axons of its own neurons. `BlockSelection` chooses for all layers
together.
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
from neurodeploy.resources.convolution_lists import Edge, Window, inputs_of_cut
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, limited_resources, usage_vector


@dataclass(frozen=True, slots=True)
class Strip:
    """A region of a layer that is cut along one axis."""

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

    def lines(self) -> Iterator[Region]:
        """The parts of length 1 along the axis."""
        return (self.between(place, place + 1) for place in range(self.start, self.stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A cut of a layer into blocks, and the axis along which they may be cut further.

    Attributes
    ----------
    grid, block : tuple of int
        Neurons along each axis; the block is as long as the grid along `axis`.
    axis : int
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, grid: tuple[int, ...], block: tuple[int, ...]) -> Scheme:
        """The scheme that cuts along the axis with most blocks: a shorter last block matters least there."""
        rows = [-(-side // length) for side, length in zip(grid, block, strict=True)]
        axis = int(np.argmax(rows))
        return cls(grid=grid, block=tuple(side if n == axis else block[n] for n, side in enumerate(grid)), axis=axis)

    def strips(self) -> Iterator[Strip]:
        """Yield each block, first neuron first; lengths along an axis differ by at most one."""
        cuts = [even_cuts(side, block) for side, block in zip(self.grid, self.block, strict=True)]
        for ranges in product(*cuts):
            yield Strip(Region(tuple(a for a, _ in ranges), tuple(b for _, b in ranges)), self.axis)


def even_cuts(side: int, block: int) -> list[tuple[int, int]]:
    """Cut a side into the fewest runs of at most `block`; lengths differ by at most one."""
    n = -(-side // block)
    ends = [side * i // n for i in range(n + 1)]
    return list(pairwise(ends))


def middle_run(side: int, block: int) -> tuple[int, int]:
    """The longest run of an even cut nearest its middle: one with neighbours on both sides where there are any."""
    n = -(-side // block)
    longer = side % n
    # The k-th of the longer runs, k from 1, is number ceil(n k / longer) - 1: the first of them from the middle on. A cut of
    # millions of neurons one by one is not made for it.
    place = -(-n * ((n // 2) * longer // n + 1) // longer) - 1 if longer else n // 2
    return side * place // n, side * (place + 1) // n


BLOCK_STEP = 1.1
"""Growth of the number of blocks along a side from one option of a layout to the next."""


def block_lengths(side: int, step: float = BLOCK_STEP) -> list[int]:
    """Block lengths that cut a side into 1, 2, 3, ... even blocks, the numbers growing by a factor of at least `step`."""
    lengths: list[int] = []
    parts = 1
    while True:
        block = -(-side // parts)
        if not lengths or block < lengths[-1]:
            lengths.append(block)
        if block == 1:
            return lengths
        parts = max(parts + 1, int(parts * step))


def longest_fit(fits: Callable[[int], bool], most: int, guess: int) -> int:
    """Largest n in 0..most for which `fits(n)` holds, by search from a guess; `fits` is monotone and true of 0."""
    low, high, step = 0, most, 1
    # Doubling steps from the guess, then bisection: a call of `fits` counts a region, and guesses are the last slice's size.
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
        half = (low + high + 1) // 2
        low, high = (half, high) if fits(half) else (low, half - 1)
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOptions:
    """The blocks that a layer can be cut into.

    Attributes
    ----------
    blocks : array (n, axes)
    pieces, neurons : array (n,)
        Number of slices, and neurons of each.
    own : array (n, n_resources)
        Share of a core that the middle slice takes, without output axons.
    received : mapping by layer: array (n,)
        Source neurons of each slice, summed over the slices.
    peak : mapping by layer: array (n,)
        Slices that receive from the source neuron with the most of them.
    """

    blocks: NDArray[np.int64]
    pieces: Floats
    neurons: Floats
    own: Floats
    received: Mapping[str, Floats]
    peak: Mapping[str, Floats]

    def index_of(self, block: tuple[int, ...]) -> int:
        """Index of a block in `blocks`."""
        return int(np.flatnonzero((self.blocks == np.array(block)).all(axis=1))[0])

    def with_caution(self, n_neurons: Mapping[str, int], caution: float) -> BlockOptions:
        """The same options with `peak` moved towards the mean: `caution` times as far above it."""
        mean = {source: self.received[source] / n_neurons[source] for source in self.peak if source in n_neurons}
        return replace(self, peak={source: one + caution * (self.peak[source] - one) for source, one in mean.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedBlock:
    """The block that a layer is cut into, and what it costs.

    Attributes
    ----------
    block : tuple of int
    cores : float
        Cores that the layer fills by itself.
    burden : float
        Further cores that its sources fill, for the output axons that lead to it.
    axon_costs : mapping by layer
        Cores that an output axon of each source costs.
    """

    block: tuple[int, ...]
    cores: float
    burden: float
    axon_costs: Mapping[str, float]


SWEEPS = 4
RANDOM_RESTARTS = 60
MAX_RESTART_LAYERS = 100
"""Networks of more layers skip the random restarts, which weigh the cost to the sources differently."""
FRAGMENTATION_WEIGHT = 0.5
"""Weight of the space that a slice leaves unusable on its core, 0..1; 0 counts only what it takes itself."""
MESSAGE_COST = 1e-3
"""Cost of an output axon that takes no scarce resource, relative to one that does: breaks ties towards fewer messages."""
DENSITIES = np.concatenate([[0.0], np.geomspace(0.5, 1e5, 40)])
"""Output axons a neuron at which the cores of a layer and its sources are tabulated."""


class BlockSelection:
    """Selection of the blocks by which all layers together take fewest cores.

    A sweep has two passes, like dynamic programming. Forward, each layer tabulates the cores that it and the layers before it
    fill, for any number of output axons a neuron. Backward, each layer takes its best block, since its targets are cut by then
    and the number of its output axons is known. In a chain of layers that is optimal; where a layer has several targets, each
    takes the others as they were in the last sweep.

    Parameters
    ----------
    options : mapping by layer, first layer first
    n_neurons : mapping by layer
    axon : array (n_resources,)
        Share of a core that an output axon takes.
    caution : float
        Number of output axons counted for a neuron: 0 the mean of its layer, 1 the maximum.
    """

    def __init__(
        self, options: Mapping[str, BlockOptions], n_neurons: Mapping[str, int], axon: Floats, caution: float = 1.0
    ) -> None:
        options = {name: option.with_caution(n_neurons, caution) for name, option in options.items()}
        self.options, self.n_neurons, self.axon = options, n_neurons, axon
        self._message = MESSAGE_COST * float(axon.max(initial=0.0))
        self._sent: dict[str, dict[str, float]] = {name: {} for name in options}
        self._weights = dict.fromkeys(options, 1.0)
        self._filled = {name: np.zeros(len(DENSITIES)) for name in options}
        # Sweeps return to the same densities again and again; the last two hold for the tables in `_filled`.
        self._cores_at: dict[tuple[str, float], Floats] = {}
        self._burden_at: dict[tuple[str, tuple[float, ...]], Floats] = {}
        self._axon_cost_at: dict[tuple[str, float], float] = {}

    def select(self, restarts: int = RANDOM_RESTARTS) -> dict[str, SelectedBlock]:
        """The best blocks found by some sweeps and random restarts."""
        best: dict[str, SelectedBlock] = {}
        least = np.inf
        for _ in range(SWEEPS):
            self._forward_sweep()
            selected, total = self._backward_sweep()
            if total > least * (1 - 1e-4) and best:  # the sweep gained less than 1 part in 10,000
                break
            best, least = selected, total
        rng, weights = np.random.default_rng(0), dict(self._weights)  # a fixed seed: the same network gets the same cut
        are_images = any(option.blocks.shape[1] > 1 for option in self.options.values())
        for _ in range(restarts if are_images and len(self.options) <= MAX_RESTART_LAYERS else 0):
            drawn = rng.random(len(weights)) < max(2 / len(weights), 0.1)  # two layers or a tenth of them
            factors = np.where(drawn, np.exp(rng.normal(0.0, 0.5, len(weights))), 1.0)
            self._weights = {name: weight * factor for (name, weight), factor in zip(weights.items(), factors, strict=True)}
            selected, total = self._backward_sweep()
            if total < least:
                best, least, weights = selected, total, self._weights
        return best

    def _forward_sweep(self) -> None:
        for name, option in self.options.items():
            # A table over densities; `_burden` interpolates in it.
            self._filled[name] = (self._cores(option, DENSITIES) + self._burden(name)).min(axis=1)
            self._burden_at.clear()
            self._axon_cost_at.clear()

    def _backward_sweep(self) -> tuple[dict[str, SelectedBlock], float]:
        """The block of each layer, and the cores of all."""
        selected = {name: self._select_block(name) for name in reversed(self.options)}
        return selected, sum(one.cores for one in selected.values())

    def _density(self, name: str, but: str = "") -> float:
        """Output axons of the neuron with most of them, without those to the layer `but`."""
        return sum(n for target, n in self._sent[name].items() if target != but)

    def _burden(self, name: str) -> Floats:
        """Further cores that the sources fill, for each of the layer's blocks (n,)."""
        option = self.options[name]
        # Own axons of a recurrent layer count when it is packed.
        others = {source: self._density(source, name) for source in option.received if source in self.options and source != name}
        key = name, tuple(others.values())
        if key not in self._burden_at:
            burden = np.zeros(len(option.pieces))
            for source, density in others.items():
                with_it = np.interp(density + option.peak[source], DENSITIES, self._filled[source])
                without = np.interp(density, DENSITIES, self._filled[source])
                burden += with_it - without + option.received[source] * self._message
            self._burden_at[key] = burden
        return self._burden_at[key]

    def _select_block(self, name: str) -> SelectedBlock:
        """Take the layer's best block, and update the output axons of its sources."""
        option, key = self.options[name], (name, self._density(name))
        if key not in self._cores_at:
            (self._cores_at[key],) = self._cores(option, np.array(key[1:]))
        cores, burden = self._cores_at[key], self._burden(name)
        best, axon_costs = int(np.argmin(cores + self._weights[name] * burden)), {}
        for source, peak in option.peak.items():
            if source in self.options:
                self._sent[source][name] = float(peak[best])
                axon_costs[source] = self._axon_cost(source)
        block = tuple(int(length) for length in option.blocks[best])
        return SelectedBlock(block=block, cores=float(cores[best]), burden=float(burden[best]), axon_costs=axon_costs)

    def _axon_cost(self, source: str) -> float:
        """Cores that an output axon of a layer costs."""
        density = self._density(source)
        if (source, density) not in self._axon_cost_at:
            # Slope of the table at this density, over 10 % of it, so that a kink of the table does not decide alone.
            ends = np.interp([density * 0.95, density * 1.05], DENSITIES, self._filled[source])
            slope = float(ends[1] - ends[0]) / max(0.1 * density * self.n_neurons[source], 1e-9)
            self._axon_cost_at[source, density] = slope + self._message
        return self._axon_cost_at[source, density]

    def _cores(self, option: BlockOptions, densities: Floats) -> Floats:
        """Cores that a layer fills with each of its blocks, at each number of output axons a neuron: (n_densities, n)."""
        sent = densities[:, None] * option.neurons
        share: Floats = np.broadcast_to(option.own.max(axis=1), sent.shape)
        for resource in np.flatnonzero(self.axon):  # one or two: output axons take nothing of the others
            share = np.maximum(share, option.own[:, resource] + sent * self.axon[resource])
        # Share of a core that a slice blocks if the core holds slices of its size only.
        whole = 1 / np.maximum(1, np.floor(1 / np.maximum(share, 1e-9)))
        # Layers below half a core share their core with others, so nothing of it is lost.
        each = share + np.where(option.pieces * share < 0.5, 0.0, FRAGMENTATION_WEIGHT * np.maximum(whole - share, 0))
        # No core holds it: the least excess is still preferred.
        cores: Floats = option.pieces * np.where(share > 1, 1e6 * share, each)
        return cores


CACHE_KEY = "options"
COARSE_STEP = 1.5
"""Growth of the number of blocks from one option to the next where each has to be counted by itself."""
MAX_BLOCK_CORES = 4
"""Blocks with more than this many times the neurons of a core are not counted."""


def block_options(
    count: LayerCount, grid: tuple[int, ...], profile: HardwareProfile, step: float = BLOCK_STEP, samples: int = 1
) -> BlockOptions:  # fmt: skip
    """The blocks that a layer can be cut into; for images, of at most as many neurons as a core has.

    Parameters
    ----------
    count : LayerCount
        The layer, counted.
    step, samples : float and int
        Growth of the number of blocks along a side of an image from one option to the next; slices of a row that are counted
        for each cut (1: the middle one).
    """
    windows = count.windows() if isinstance(count, LayerCount) and len(grid) == 3 else None
    if windows is None or "convolution" not in profile["encodings"].names:
        return _counted_options(count, grid, profile, samples)
    # `id` is a safe key: the cache holds the counters, and these hold the windows.
    key = (CACHE_KEY, grid, step, bool(count.layer.bias.any()), *((id(window), len(sources)) for window, sources in windows))
    if key not in count.cache:
        count.cache[key] = _convolution_options(count, windows, grid, profile, step)
    lengths, pieces, own, received, peaks = count.cache[key]
    own = _with_share(own, lengths.prod(axis=1), count.share, profile)  # options in the cache are those of share 1
    if count.share < 1 and count.prunes_kernels and (fewest := count.windows(least=True)) is not None:
        if ("least", key) not in count.cache:
            count.cache["least", key] = _convolution_options(count, fewest, grid, profile, step)[2]
        own = np.maximum(own, count.cache["least", key])
    of_source, peak_of_source = dict[str, Floats](), dict[str, Floats]()
    for (_, sources), neurons, peak in zip(windows, received, peaks, strict=True):
        for source in sources:
            of_source[source] = of_source.get(source, 0.0) + neurons
            peak_of_source[source] = peak_of_source.get(source, 0.0) + peak
    return BlockOptions(
        blocks=lengths, pieces=pieces, neurons=lengths.prod(axis=1).astype(np.float64), own=own, received=of_source,
        peak=peak_of_source,
    )  # fmt: skip


def _with_share(own: Floats, n_neurons: Integers, share: float, profile: HardwareProfile) -> Floats:
    """Shares of a core (n, n_resources) with the synapse memory scaled by `share`."""
    if share == 1:
        return own
    reduced, state = own.copy(), n_neurons * profile.number("neuron_state_bits", 0)
    for n, resource in enumerate(limited_resources(profile)):
        if resource in ("memory_bits", "synapse_memory_bits"):
            # Neurons stay: only the synapses' part shrinks.
            neuron_share = state / profile.capacity(resource) if resource == "memory_bits" else 0.0
            reduced[:, n] = neuron_share + share * (own[:, n] - neuron_share)
    return reduced


def _counted_options(count: LayerCount, grid: tuple[int, ...], profile: HardwareProfile, samples: int) -> BlockOptions:
    """Options of any layer, counted one by one: the middle slice of each even cut, or the mean of some, represents all."""
    most, capacity = profile.capacity("neurons"), _capacity(profile)
    lengths, pieces, own, received = [], [], [], []
    for block in product(*(block_lengths(side, COARSE_STEP) for side in grid)):
        # Rows may exceed a core in the table: they are cut further, by what fits, when they are packed.
        if math.prod(block) > most and (len(grid) == 3 or math.prod(block) > most * MAX_BLOCK_CORES):
            continue
        cuts = [[middle_run(side, length) for side, length in zip(grid, block, strict=True)]]
        if samples > 1 and len(grid) == 1:  # rows may differ along themselves
            n = -(-grid[0] // block[0])
            places = np.unique(np.linspace(0, n - 1, samples).astype(int)).tolist()
            cuts = [[(grid[0] * i // n, grid[0] * (i + 1) // n)] for i in places]
        regions = [Region(tuple(a for a, _ in cut), tuple(b for _, b in cut)) for cut in cuts]
        try:
            share = np.mean([usage_vector(count.usage(one), 0, profile) for one in regions], axis=0) / capacity
        except BudgetError:
            share = np.full(len(capacity), 1e6)  # no index is wide enough: never selected
        lengths.append(block)
        pieces.append(math.prod(-(-side // length) for side, length in zip(grid, block, strict=True)))
        own.append(share)
        each = [count.n_sources(one) for one in regions]
        received.append({source: sum(one.get(source, 0) for one in each) / len(each) for source in each[0]})
    parts = np.array(pieces, dtype=np.float64)
    sources = sorted({source for one in received for source in one})
    of_source = {source: parts * np.array([one.get(source, 0) for one in received], dtype=np.float64) for source in sources}
    table = np.array(lengths, dtype=np.int64)
    sizes = {connection.source: connection.synapse.n_in for connection in count.layer.connections}
    # Without geometry every source neuron is taken to have the mean.
    peak = {source: neurons / sizes[source] for source, neurons in of_source.items() if source in sizes}
    n_neurons = table.prod(axis=1).astype(np.float64)
    return BlockOptions(blocks=table, pieces=parts, neurons=n_neurons, own=np.stack(own), received=of_source, peak=peak)


def _capacity(profile: HardwareProfile) -> Floats:
    # A core may have none of a resource: no division by 0.
    return np.maximum(np.array([profile.capacity(resource) for resource in limited_resources(profile)], dtype=np.float64), 1.0)


def _convolution_options(
    count: LayerCount, windows: list[tuple[Window, tuple[str, ...]]], grid: tuple[int, ...], profile: HardwareProfile,
    step: float,
) -> tuple[Integers, Floats, Floats, list[Floats], list[Floats]]:  # fmt: skip
    """Options of a layer of convolutions: blocks, slices, shares of a core, and source neurons in all and at the peak.

    Rows and columns are independent, so that each side is counted once, not once a block.
    """
    channels = np.array(block_lengths(grid[0], step))
    n_runs = -(-grid[0] // channels)
    cut = np.array([middle_run(grid[0], int(c)) for c in channels])
    sides = [
        [(length, *_along(windows, axis, grid, length)) for length in block_lengths(grid[1 + axis], step)] for axis in (0, 1)
    ]
    channels_in = [np.array([window.n_channels(a, b) for a, b in cut.tolist()]) for window, _ in windows]
    tables: list[tuple[Integers, Floats, Floats, list[Floats], list[Floats]]] = []
    for (y, rows, received_y, peak_y), (x, columns, received_x, peak_x) in product(*sides):
        fits = channels * y * x <= profile.capacity("neurons")
        while fits.any():
            try:
                own = usage_of_cuts(count, windows, cut[fits], (y, x), (rows, columns), profile) / _capacity(profile)
                break
            except BudgetError:  # no index as long: fewer channels
                fits[np.flatnonzero(fits)[0]] = False  # lengths descend: the first is the longest
        if not fits.any():
            continue
        pieces = n_runs[fits] * -(-grid[1] // y) * -(-grid[2] // x)
        length = np.stack([channels[fits], np.full(fits.sum(), y), np.full(fits.sum(), x)], axis=1)
        received = [
            n_runs[fits] * n[fits] * float(hy * hx) for n, hy, hx in zip(channels_in, received_y, received_x, strict=True)
        ]
        within = [
            n_runs[fits] * n[fits] / window.wiring.input_shape[0] for n, (window, _) in zip(channels_in, windows, strict=True)
        ]
        peak = [runs * float(py * px) for runs, py, px in zip(within, peak_y, peak_x, strict=True)]
        tables.append((length, pieces.astype(np.float64), own, received, peak))
    lengths, all_pieces, shares, sent, most = zip(*tables, strict=True)
    of_window, peaks = ([np.concatenate(column) for column in zip(*each, strict=True)] for each in (sent, most))
    return np.concatenate(lengths), np.concatenate(all_pieces), np.concatenate(shares), of_window, peaks


def _along(
    windows: list[tuple[Window, tuple[str, ...]]], axis: int, grid: tuple[int, ...], length: int
) -> tuple[list[Edge], list[int], list[int]]:
    """For each window, along rows (0) or columns (1): edge of the middle run, inputs of all runs, most runs of one input."""
    runs, (a, b) = even_cuts(grid[1 + axis], length), middle_run(grid[1 + axis], length)
    of_cut = [inputs_of_cut(window.wiring, axis, runs) for window, _ in windows]
    return [window.edge(axis, a, b) for window, _ in windows], [total for total, _ in of_cut], [most for _, most in of_cut]


def usage_of_cuts(
    count: LayerCount,
    windows: list[tuple[Window, tuple[str, ...]]],
    cut: Integers,
    sides: tuple[int, int],
    edges: tuple[list[Edge], list[Edge]],
    profile: HardwareProfile,
) -> Integers:
    """Usage of each limited resource (n, n_resources) by slices of the channels `cut` (n, 2), without output axons."""
    memory, axons = np.zeros(len(cut), dtype=np.int64), np.zeros(len(cut), dtype=np.int64)
    for (window, sources), rows, columns in zip(windows, *edges, strict=True):
        bits, pixels, _ = window.count_many(cut[:, 0], cut[:, 1], sides, rows, columns)
        # Sources of one window share its lists, not the axon entries.
        memory += bits + (len(sources) - 1) * pixels * window.formula.entry
        axons += len(sources) * pixels
    one, (first, last) = count.usage(Region((0, 0, 0), (1, 1, 1))), (cut[:, 0], cut[:, 1])
    zero = usage_vector(replace(one, neurons=0, synapse_memory_bits=0, input_axons=0, neuron_memory_bits=0, biases=0), 0, profile)
    neurons, state = (last - first) * sides[0] * sides[1], profile.number("neuron_state_bits", 0)
    amounts = {
        "neurons": neurons, "memory_bits": memory + neurons * state, "synapse_memory_bits": memory,
        "neuron_memory_bits": neurons * state, "input_axons": axons, "biases": (last - first) * bool(count.layer.bias.any()),
        "synapse_formats": np.full_like(axons, len(windows)),
    }  # fmt: skip
    names = limited_resources(profile)
    taken = [amounts.get(name, np.full_like(axons, same)) for name, same in zip(names, zero.tolist(), strict=True)]
    return np.stack(taken, axis=1)
