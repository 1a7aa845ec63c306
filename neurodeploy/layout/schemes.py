"""How a layer is cut where one core does not hold it.

A row of neurons is cut along itself. A layer of channels, rows and columns is parted into blocks: contiguous patches share
axons, few channels share a kernel. Which block is best depends on the layers around: every piece that hears a neuron takes
an output axon of it, and every piece holds the output axons of its own neurons. So the layers agree: each takes the block by
which it and the layers that it hears fill fewest cores, given how its own neurons are heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.resources.regions import Region

Floats: TypeAlias = NDArray[np.float64]


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
