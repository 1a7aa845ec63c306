"""How a layer is cut where one core does not hold it.

A row of neurons is cut along itself. A layer of channels, rows and columns is parted into blocks on two of its axes and cut
along the third: contiguous patches share axons, few channels share a kernel. Of all such schemes the one is taken by
which the layer, on cores of its own, would fill the smallest part of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.regions import Region

Needs: TypeAlias = Callable[[Region], NDArray[np.int64]]
"""What a region takes of each resource."""


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

    def strips(self) -> Iterator[Strip]:
        """Every block, first neuron first; blocks along an axis differ by one at most."""
        cuts = [_even_cuts(side, block) for side, block in zip(self.grid, self.block, strict=True)]
        for ranges in product(*cuts):
            yield Strip(Region(tuple(a for a, _ in ranges), tuple(b for _, b in ranges)), self.axis)

    @property
    def n_strips(self) -> int:
        return int(np.prod([-(-side // block) for side, block in zip(self.grid, self.block, strict=True)]))

    def least_cores(self, capacity: NDArray[np.int64]) -> float:
        """Cores that the neurons alone need, blocks being cut between lines only."""
        length = self.block[self.axis]
        line = int(np.prod(self.block)) // length
        return self.n_strips * max(length / max(1, int(capacity[0]) // line), line * length / int(capacity[0]))

    def middle(self) -> Strip:
        """The largest strip, from the midst of the layer: with neighbours on all sides where there are any."""
        ranges = []
        for side, block in zip(self.grid, self.block, strict=True):
            cuts = _even_cuts(side, block)
            ranges.append(max(cuts[len(cuts) // 2 :] + cuts[: len(cuts) // 2], key=lambda cut: cut[1] - cut[0]))
        return Strip(Region(tuple(a for a, _ in ranges), tuple(b for _, b in ranges)), self.axis)


def _even_cuts(side: int, block: int) -> list[tuple[int, int]]:
    n = -(-side // block)
    ends = [side * i // n for i in range(n + 1)]
    return list(zip(ends, ends[1:], strict=False))


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
class Alone:
    """A layer cut by a scheme, on cores of its own.

    Attributes
    ----------
    cores : float
        How many it fills, as a fraction.
    pieces : float
        Into how many pieces it is cut, each like `region`.
    """

    scheme: Scheme
    cores: float
    pieces: float
    region: Region


def choose(grid: tuple[int, ...], needs: Needs, capacity: NDArray[np.int64], burden: Callable[[Region, float], float]) -> Alone:
    """The scheme by which a layer takes fewest cores.

    Parameters
    ----------
    grid : tuple of int
        One axis, or channels, rows and columns.
    capacity : array (n_resources,)
        Of an empty core.
    burden : callable
        Cores that the layers it hears need more, because each of their neurons has a piece more to send to.
    """
    if len(grid) == 1:
        return alone(Scheme(grid=grid, block=grid, axis=0), needs, capacity)
    best, least = None, np.inf
    for scheme in candidates(grid, int(capacity[0])):
        if scheme.least_cores(capacity) >= least:
            continue
        found = alone(scheme, needs, capacity)
        cost = found.cores + burden(found.region, found.pieces)
        if cost < least or best is None:
            best, least = found, cost
    if best is None:
        raise AssertionError("a block of one neuron is among the candidates")
    return best


def candidates(grid: tuple[int, ...], neurons: int) -> Iterator[Scheme]:
    """Schemes worth looking at: blocks of channels and columns cut along rows, and patches cut along channels."""
    channels, rows, columns = grid
    for c, x in product(_blocks(channels), _blocks(columns)):
        if c * x <= neurons:
            yield Scheme(grid=grid, block=(c, rows, x), axis=1)
    for y, x in product(_blocks(rows), _blocks(columns)):
        if y * x <= neurons:
            yield Scheme(grid=grid, block=(channels, y, x), axis=0)


def _blocks(side: int) -> list[int]:
    """Block lengths that part a side into 1, 2, 3, ... even blocks; from eight parts on, in steps of a tenth."""
    lengths, parts = [], 1
    while True:
        block = -(-side // parts)
        if not lengths or block < lengths[-1]:
            lengths.append(block)
        if block == 1:
            return lengths
        parts = max(parts + 1, parts * 11 // 10)


def alone(scheme: Scheme, needs: Needs, capacity: NDArray[np.int64]) -> Alone:
    """What a layer takes on cores of its own; infinitely many where not even one line of a block fits."""
    strip = scheme.middle()
    length, line = strip.stop - strip.start, strip.between(strip.start, strip.start + 1).n_neurons
    centre = (strip.start + strip.stop) // 2

    def region(n: int) -> Region:
        start = max(strip.start, min(centre - n // 2, strip.stop - n))
        return strip.between(start, start + n)

    def fits(n: int) -> bool:
        return n == 0 or bool((needs(region(n)) <= capacity).all())

    n = longest(fits, min(length, max(1, int(capacity[0]) // line)), length)
    if n == 0:
        return Alone(scheme=scheme, cores=np.inf, pieces=scheme.n_strips * length, region=region(1))
    pieces, share = scheme.n_strips * length / n, float((needs(region(n)) / capacity).max())
    on_a_core = 1 if n < length else int(1 / max(share, 1e-9))
    cores = pieces * share if pieces <= on_a_core else pieces / on_a_core
    return Alone(scheme=scheme, cores=cores, pieces=pieces, region=region(n))
