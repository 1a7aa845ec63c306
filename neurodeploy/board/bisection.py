"""Where a good arrangement starts: board and cores are cut in two, again and again, and who talks to each other stays together.

All regions of a level are cut at once, as arrays. A cut has three steps:

1. each core gets a score along the axis of the cut: it moves towards the scores of those it talks to, where neighbours in other
   regions count as the end of the axis at which they lie, and scores are spread out again to their ranks (a power
   iteration towards the smoothest order there is, with the rest of the board as its boundary);
2. the cores that score least go to the near half, as many as it has places;
3. cores of the two halves trade sides while that gains (after Kernighan and Lin 1970, but all regions at once).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurodeploy.board.mesh import Floats, Integers
from neurodeploy.board.traffic import Talk

Flags = NDArray[np.bool_]


def bisect(talk: Talk, points: Floats, order: Floats, *, smoothing: int, trades: int, rng: np.random.Generator) -> Integers:
    """Lay cores onto points by recursive bisection.

    Parameters
    ----------
    points : NDArray[np.float64]
        Points of the places there are (n_places, 2 or 3), as many as cores or more; what is left over stays free.
    order : NDArray[np.float64]
        The scores with which each cut begins (n_cores,): the smoother along the traffic, the better.
    smoothing, trades : int
        Rounds of steps 1 and 3 in each cut.

    Returns
    -------
    NDArray[np.int64]
        For each core an index into `points` (n_cores,), no two alike.
    """
    n_cores, n_places = talk.n_cores, len(points)
    # free places take part as cores that talk to nobody and come last
    begin = np.concatenate([np.argsort(np.argsort(order)), np.arange(n_cores, n_places)]) / n_places
    core_region, place_region = np.zeros(n_places, np.int64), np.zeros(n_places, np.int64)
    while True:
        axis, far = far_half(points, place_region)
        if not far.any():
            break
        middle = middles(points, place_region)
        value = scores(talk, core_region, spread(core_region, begin), axis, middle, smoothing)
        room = np.bincount(place_region[~far], minlength=axis.size)
        core_far = ranks(core_region, value) >= room[core_region]
        kinds, place_region = np.unique(2 * place_region + far, return_inverse=True)
        core_region = np.searchsorted(kinds, 2 * core_region + core_far)
        halves, middle = siblings(kinds), middles(points, place_region)
        for _ in range(trades):
            if not trade_sides(talk, core_region, middle, halves, axis[kinds // 2], rng):
                break
    result = np.empty(n_places, np.int64)
    result[np.argsort(core_region, kind="stable")] = np.argsort(place_region, kind="stable")
    return result[:n_cores]


def far_half(points: Floats, region: Integers) -> tuple[Integers, Flags]:
    """The axis of each region's longest extent (n_regions,), and which points lie beyond the middle of it (n_points,)."""
    n_regions = int(region.max()) + 1
    low, high = np.full((n_regions, points.shape[1]), np.inf), np.full((n_regions, points.shape[1]), -np.inf)
    np.minimum.at(low, region, points)
    np.maximum.at(high, region, points)
    axis = np.argmax(high - low, axis=1)
    middle = (low + high)[np.arange(n_regions), axis] / 2
    return axis, points[np.arange(len(points)), axis[region]] > middle[region]


def middles(points: Floats, region: Integers) -> Floats:
    """The mean point of each region."""
    count = np.bincount(region)
    return np.stack([np.bincount(region, line) / count for line in points.T], axis=1)


def siblings(kinds: Integers) -> Integers:
    """The other half of each region by its number; itself where a region was not cut."""
    found = np.minimum(np.searchsorted(kinds, kinds ^ 1), kinds.size - 1)
    return np.where(kinds[found] == kinds ^ 1, found, np.arange(kinds.size))


def ranks(region: Integers, values: Floats) -> Integers:
    """Rank of each value, which is between -2 and 2, within its region, from 0."""
    order = np.argsort(region * 4.0 + values, kind="stable")
    size = np.bincount(region)
    rank = np.empty(region.size, np.int64)
    rank[order] = np.arange(region.size) - (np.cumsum(size) - size)[region[order]]
    return rank


def spread(region: Integers, values: Floats) -> Floats:
    """Values replaced by their ranks within their region, from -1 to 1."""
    ranked: Floats = (2.0 * ranks(region, values) + 1.0) / np.bincount(region)[region] - 1.0
    return ranked


def scores(talk: Talk, region: Integers, value: Floats, axis: Integers, middle: Floats, smoothing: int) -> Floats:
    """Step 1: scores from -1 to 1 along each region's axis."""
    n_cores = talk.n_cores
    mine, theirs = region[talk.owner], region[talk.core]
    inside = mine == theirs
    away = np.sign(middle[theirs, axis[mine]] - middle[mine, axis[mine]])
    spoken = np.maximum(np.bincount(talk.owner, talk.spikes, n_cores), np.finfo(np.float64).tiny)
    for _ in range(smoothing):
        heard = np.where(inside, value[talk.core], away)
        value = value.copy()
        value[:n_cores] += np.bincount(talk.owner, talk.spikes * heard, n_cores) / spoken
        value = spread(region, value)
    return value


def trade_sides(talk: Talk, region: Integers, middle: Floats, halves: Integers, axis: Integers, rng: np.random.Generator) -> bool:
    """Step 3, one round: the k-th keenest of a half trades with the k-th keenest of the other, if both together gain.

    Gains are along the axis of the cut and as if nobody else moved; so that not all neighbours pass each other, three in ten
    sit each round out.
    """
    n_cores = talk.n_cores
    rows = np.arange(axis.size)
    here, over = middle[rows, axis], middle[halves, axis]
    mine = region[talk.owner]
    there = middle.ravel()[region[talk.core] * middle.shape[1] + axis[mine]]
    closer = np.abs(here[mine] - there) - np.abs(over[mine] - there)
    gain = np.zeros(region.size)
    gain[:n_cores] = np.bincount(talk.owner, talk.spikes * closer, n_cores)
    gain[rng.random(region.size) < 0.3] = -np.inf
    order = np.lexsort((-gain, region))
    size = np.bincount(region, minlength=halves.size)
    first = np.cumsum(size) - size
    nth = np.arange(region.size) - first[region[order]]
    other = halves[region[order]]
    paired = (region[order] < other) & (nth < size[other])
    one, two = order[paired], order[first[other[paired]] + nth[paired]]
    keen = gain[one] + gain[two] > 1e-9 * talk.spikes.sum() / n_cores
    one, two = one[keen], two[keen]
    region[one], region[two] = region[two], region[one]
    return bool(one.size)
