"""Arrangement of logical cores on the physical cores of a board, so that spikes travel least.

`arrange` takes the best of some recursive bisections of board and traffic. It then improves it by simulated annealing, by linear
assignment of independent sets, and, on small boards, by the best exchange of two cores until none gains.

Recursive bisection cuts all regions of a level at once, as arrays:

1. each core gets a score along the axis of the cut: it moves towards the scores of its neighbours in the traffic graph, where
   neighbours in other regions count as the end of the axis at which they lie, and scores are spread out again to their ranks (a
   power iteration towards the smoothest order, with the rest of the board as its boundary);
2. the cores with the lowest scores go to the near half, as many as it has places;
3. cores of the two halves swap sides while that gains (after Kernighan and Lin 1970, but in all regions at once).

Cores of an independent set of the traffic graph can move at once: the gain of each is exact, whatever the others do. `reassign`
and `anneal` move whole independent sets; `best_swaps` exchanges two cores at a time.

In all functions `at` holds for each logical core an index into `points`, and is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

import numpy as np

from neurodeploy.errors import PlacementError, RequestError
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.mapping.traffic import (
    CoreSubset,
    Flow,
    Mesh,
    TrafficGraph,
    compact_region,
    core_subset,
    independent_sets,
    space_filling,
    traffic_graph,
    travel_cost,
)


def bisect(
    graph: TrafficGraph, points: Floats, order: Floats, *, smoothing: int, trades: int, rng: np.random.Generator
) -> Integers:
    """Assign cores to points by recursive bisection.

    Parameters
    ----------
    points : NDArray[np.float64]
        Points of the places (n_places, 2 or 3), as many as cores or more; the rest stays free.
    order : NDArray[np.float64]
        Initial scores of each cut (n_cores,); the smoother along the traffic graph, the better.
    smoothing, trades : int
        Rounds of steps 1 and 3 in each cut.

    Returns
    -------
    NDArray[np.int64]
        For each core an index into `points` (n_cores,), all different.
    """
    n_cores, n_places = graph.n_cores, len(points)
    # free places take part as cores without traffic, which come last
    begin = np.concatenate([np.argsort(np.argsort(order)), np.arange(n_cores, n_places)]) / n_places
    core_region, place_region = np.zeros(n_places, np.int64), np.zeros(n_places, np.int64)
    while True:
        axis, far = far_half(points, place_region)
        if not far.any():
            break
        middle = region_centers(points, place_region)
        value = smooth_scores(graph, core_region, spread(core_region, begin), axis, middle, smoothing)
        free = np.bincount(place_region[~far], minlength=axis.size)  # places in the near half of each region
        core_far = ranks(core_region, value) >= free[core_region]
        # Region r splits into 2r (near) and 2r + 1 (far): siblings differ in the last bit. `unique` renumbers the halves from 0.
        kinds, place_region = np.unique(2 * place_region + far, return_inverse=True)
        # Cores fill as many places, so they have the same halves.
        core_region = np.searchsorted(kinds, 2 * core_region + core_far)
        halves, middle = sibling_regions(kinds), region_centers(points, place_region)
        for _ in range(trades):
            if not swap_sides(graph, core_region, middle, halves, axis[kinds // 2], rng):
                break
    result = np.empty(n_places, np.int64)
    # Regions are no longer cut when all their points coincide (a tile, or one core), so any order within a region costs the same.
    result[np.argsort(core_region, kind="stable")] = np.argsort(place_region, kind="stable")
    return result[:n_cores]


def far_half(points: Floats, region: Integers) -> tuple[Integers, Mask]:
    """Axis of each region's longest extent (n_regions,), and the points beyond the middle of it (n_points,)."""
    n_regions = int(region.max()) + 1
    low, high = np.full((n_regions, points.shape[1]), np.inf), np.full((n_regions, points.shape[1]), -np.inf)
    np.minimum.at(low, region, points)
    np.maximum.at(high, region, points)
    axis = np.argmax(high - low, axis=1)
    middle = (low + high)[np.arange(n_regions), axis] / 2
    return axis, points[np.arange(len(points)), axis[region]] > middle[region]


def region_centers(points: Floats, region: Integers) -> Floats:
    """Mean point of each region (n_regions, axes)."""
    count = np.bincount(region)
    return np.stack([np.bincount(region, line) / count for line in points.T], axis=1)


def sibling_regions(kinds: Integers) -> Integers:
    """Number of the other half of each region (n_regions,); the region itself where it was not cut."""
    found = np.minimum(np.searchsorted(kinds, kinds ^ 1), kinds.size - 1)  # the sibling has the other last bit, see `bisect`
    return np.where(kinds[found] == kinds ^ 1, found, np.arange(kinds.size))


def ranks(region: Integers, values: Floats) -> Integers:
    """Rank of each value, which is between -2 and 2, within its region, from 0."""
    order = np.argsort(region * 4.0 + values, kind="stable")  # one sort for all: 4 keeps regions apart
    size = np.bincount(region)
    rank = np.empty(region.size, np.int64)
    # Place in the sort, less the region's first place.
    rank[order] = np.arange(region.size) - (np.cumsum(size) - size)[region[order]]
    return rank


def spread(region: Integers, values: Floats) -> Floats:
    """Values replaced by their ranks within their region, from -1 to 1."""
    ranked: Floats = (2.0 * ranks(region, values) + 1.0) / np.bincount(region)[region] - 1.0
    return ranked


def smooth_scores(graph: TrafficGraph, region: Integers, value: Floats, axis: Integers, middle: Floats, smoothing: int) -> Floats:
    """Step 1: scores from -1 to 1 along each region's axis."""
    n_cores = graph.n_cores
    mine, theirs = region[graph.owner], region[graph.core]
    inside = mine == theirs
    away = np.sign(middle[theirs, axis[mine]] - middle[mine, axis[mine]])
    sent = np.maximum(np.bincount(graph.owner, graph.spikes, n_cores), np.finfo(np.float64).tiny)  # no 0 / 0 without traffic
    for _ in range(smoothing):
        between = np.where(inside, value[graph.core], away)
        value = value.copy()  # adding to the own score damps: plain averages oscillate along a chain
        value[:n_cores] += np.bincount(graph.owner, graph.spikes * between, n_cores) / sent
        value = spread(region, value)  # without it all scores of a region become one value
    return value


def swap_sides(
    graph: TrafficGraph, region: Integers, middle: Floats, halves: Integers, axis: Integers, rng: np.random.Generator
) -> bool:
    """Step 3, one round: swap the cores of the two halves with the k-th largest gains, if the pair gains together.

    Gains are along the axis of the cut, as if no other core moved.
    """
    n_cores = graph.n_cores
    rows = np.arange(axis.size)
    here, over = middle[rows, axis], middle[halves, axis]
    mine = region[graph.owner]
    there = middle.ravel()[region[graph.core] * middle.shape[1] + axis[mine]]  # flat index of middle[region, axis]
    closer = np.abs(here[mine] - there) - np.abs(over[mine] - there)
    gain = np.zeros(region.size)
    gain[:n_cores] = np.bincount(graph.owner, graph.spikes * closer, n_cores)
    gain[rng.random(region.size) < 0.3] = -np.inf  # else neighbours that want to meet would pass each other
    order = np.lexsort((-gain, region))
    size = np.bincount(region, minlength=halves.size)
    first = np.cumsum(size) - size
    nth = np.arange(region.size) - first[region[order]]
    other = halves[region[order]]
    paired = (region[order] < other) & (nth < size[other])  # each pair once; a region that was not cut is its own sibling
    one, two = order[paired], order[first[other[paired]] + nth[paired]]
    gainful = gain[one] + gain[two] > 1e-9 * graph.spikes.sum() / n_cores
    one, two = one[gainful], two[gainful]
    region[one], region[two] = region[two], region[one]
    return bool(one.size)


MIN_GAIN = 1e-9
"""Smallest gain that counts, as a share of a core's spikes: anything less is rounding."""


def placement_costs(subset: CoreSubset, near: Floats, points: Floats) -> Floats:
    """Spikes x hops of each member at each point (n_members, n_points), with its neighbours at `near`."""
    total = np.zeros((subset.members.size, len(points)))
    if subset.row.size == 0:
        return total
    starts = np.flatnonzero(np.diff(subset.row, prepend=-1))  # reduceat cannot sum the empty lists of members without neighbours
    rows = subset.row[starts]
    for axis in range(points.shape[1]):
        values, index = np.unique(points[:, axis], return_inverse=True)  # a board has few coordinates: each is priced once
        paid = np.add.reduceat(subset.spikes[:, None] * np.abs(near[:, axis, None] - values), starts, axis=0)
        total[rows] += paid[:, index.ravel()]
    return total


def free_places(at: Integers, n_places: int) -> Integers:
    """Indices of places without a core."""
    taken = np.zeros(n_places, bool)
    taken[at] = True
    return np.flatnonzero(~taken)


def blocks(points: Floats, size: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Yield blocks of at most `size` adjacent points that cover almost all points, cut at random."""
    if len(points) <= size:
        yield np.arange(len(points))
        return
    long, across = rng.permutation(2) if points.shape[1] > 1 else (0, 0)
    spread = np.ptp(points, axis=0) + 1
    n_strips = max(1, round(np.sqrt(len(points) / size * spread[long] / spread[across]) * rng.uniform(0.7, 1.4)))
    order = np.lexsort((rng.random(len(points)), points[:, long]))  # last key first: random numbers only break ties
    width = -(-len(points) // n_strips)
    # The first cut is random, so that the borders of blocks move from call to call.
    for strip in np.split(order, range(int(rng.integers(1, width + 1)), len(order), width)):
        along = strip[np.lexsort((rng.random(strip.size), points[strip, across]))]
        yield from (part for part in np.split(along, range(int(rng.integers(0, size)), along.size, size)) if part.size > 1)


def reassign(graph: TrafficGraph, at: Integers, points: Floats, members: Integers, size: int, rng: np.random.Generator) -> None:
    """Move an independent set among its own places and the free ones, at the least cost within each block of the board.

    A linear assignment problem, as in the detailed placement of circuits.
    """
    # imported here: scipy.optimize takes long, and `inspect` arranges nothing
    from scipy.optimize import linear_sum_assignment

    places = np.concatenate([at[members], free_places(at, len(points))])
    for block in blocks(points[places], size, rng):
        mine, here = block[block < members.size], places[block]
        if mine.size == 0:
            continue
        subset = core_subset(graph, members[mine])
        # No two members are neighbours, so what one pays does not depend on where the others go.
        _, best = linear_sum_assignment(placement_costs(subset, points[at[subset.core]], points[here]))
        at[subset.members] = here[best]


def random_pairs(points: Floats, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Random pairs of nearby points, no point in two pairs: two arrays (n_pairs,)."""
    n = len(points)
    long, across = rng.permutation(2) if points.shape[1] > 1 else (0, 0)
    strip = np.floor(points[:, long] / rng.uniform(1, 6) + rng.random())
    order = np.lexsort((points[:, across] + rng.random(n) * 4, strip))
    step = int(rng.integers(1, 4))
    pairs = order[: n // (2 * step) * 2 * step].reshape(-1, 2, step)
    return pairs[:, 0].ravel(), pairs[:, 1].ravel()


def annealing_step(
    subset: CoreSubset, at: Integers, points: Floats, free: Integers, temperature: float, rng: np.random.Generator
) -> None:
    """One step of `anneal`: swap each pair that gains, or that costs less than an exponential draw of mean `temperature`."""
    members = subset.members
    places = np.concatenate([at[members], rng.permutation(free)[: members.size]])
    one, two = random_pairs(points[places], rng)
    swap = np.arange(places.size)
    swap[one], swap[two] = two, one
    here, there, near = at[members], places[swap[: members.size]], at[subset.core]
    change = np.zeros(subset.row.size)
    for axis in range(points.shape[1]):
        line = points[:, axis]
        change += np.abs(line[near] - line[there][subset.row]) - np.abs(line[near] - line[here][subset.row])
    cost = np.zeros(places.size)
    cost[: members.size] = np.bincount(subset.row, subset.spikes * change, members.size)
    # Metropolis' rule: a loss d is accepted with probability exp(-d / temperature).
    refused = cost[one] + cost[two] > rng.exponential(temperature, one.size)
    swap[one[refused]], swap[two[refused]] = one[refused], two[refused]
    at[members] = places[swap[: members.size]]


def anneal(
    graph: TrafficGraph, at: Integers, points: Floats, rounds: int, rng: np.random.Generator, report: Callable[[float], None]
) -> None:
    """Simulated annealing (Kirkpatrick et al. 1983) by swaps within independent sets, a whole set at a time.

    The heat falls geometrically from most of what a core pays for one hop of all its spikes to a hundredth of it.
    """
    wide = points[:, np.ptp(points, axis=0) > 0]  # an axis on which all points agree costs nothing
    if rounds < 1 or graph.core.size == 0 or wide.size == 0:
        return
    draw = independent_sets(graph, rng)
    subsets = [core_subset(graph, next(draw)) for _ in range(int(np.clip(3e7 / graph.core.size, 6, 60)))]
    hop = graph.spikes.sum() / graph.n_cores  # an edge is in the lists of both its ends: a core's mean traffic
    free = free_places(at, len(points))
    for turn in range(rounds):
        # The temperature falls from 0.8 to 0.8 * 0.0125 = 0.01 of what a core pays for one hop of its spikes.
        annealing_step(subsets[rng.integers(len(subsets))], at, wide, free, hop * 0.8 * 0.0125 ** (turn / rounds), rng)
        if free.size:
            free = free_places(at, len(points))  # the moves have changed it
        if turn % 64 == 0:
            report(turn / rounds)


def best_swaps(graph: TrafficGraph, at: Integers, points: Floats, limit: int) -> None:
    """Make the best swap of any two cores, or of a core and a free place, until none gains; at most `limit` swaps.

    Keeps the cost of every core at every place in memory: for a thousand cores or so.
    """
    n, n_places = graph.n_cores, len(points)
    if graph.core.size == 0:
        return
    subset = core_subset(graph, np.arange(n))
    pays = np.zeros((n_places, n_places))  # of each core at each place; free places take part as cores that pay nothing
    pays[:n] = placement_costs(subset, points[at[subset.core]], points)
    between = np.zeros((n_places, n_places))
    between[graph.owner, graph.core] = graph.spikes
    distance = np.abs(points[:, None] - points).sum(-1)
    who = np.concatenate([at, free_places(at, n_places)])
    least = MIN_GAIN * graph.spikes.sum() / n * max(distance.max(), 1.0)
    for _ in range(limit):
        moved = pays[:, who] - pays[np.arange(n_places), who][:, None]
        # Both costs take the other core as staying where it is. When neighbours swap, their distance stays: correct by it, twice.
        gain = -(moved + moved.T) - 2 * between * distance[np.ix_(who, who)]
        one, two = divmod(int(gain.argmax()), n_places)
        if gain[one, two] <= least:
            break
        shift = distance[who[two]] - distance[who[one]]
        pays += np.outer(between[:, one] - between[:, two], shift)  # only neighbours of the two pay something else now
        who[one], who[two] = who[two], who[one]
    at[:] = who[:n]


Progress = Callable[[float], None]

SMALL_BOARD = 1024
"""Places up to which all swaps of two cores are tried."""

GREEDY_CORES = 20_000
"""Logical cores up to which `greedy` is a starting point: on ResNet-19 annealing ends 10 % lower from it than from bisections."""


def arrange(
    flow: Flow, n_cores: int, mesh: Mesh, *, seed: int = 0, effort: float = 1.0, progress: Progress | None = None
) -> Integers:
    """Put logical cores on physical cores so that spikes travel least.

    Takes as few chips as hold the cores, next to each other.

    Parameters
    ----------
    flow : Flow
        Spikes from core to core.
    n_cores : int
        Logical cores, numbered from 0; best in the order in which layers follow each other.
    seed : int
        The same seed gives the same arrangement.
    effort : float
        Running time, as a multiple of the default: about a second for a hundred cores, 10 seconds for some thousand, minutes
        for a hundred thousand.
    progress : callable, optional
        Called with the progress of the search, 0..1.

    Returns
    -------
    NDArray[np.int64]
        Physical core of each logical core (n_cores,), all different. Never worse than `in_order`, `space_filling`, and up to
        `GREEDY_CORES` `greedy`.

    Raises
    ------
    PlacementError
        There are more logical cores than the board has.
    RequestError
        The flow names a core that is not one of the logical cores, or `effort` is not a positive number.
    """
    check_request(flow, n_cores, mesh, effort)
    report: Progress = progress or (lambda _done: None)
    report(0.0)
    if n_cores == 0:
        return np.zeros(0, np.int64)
    rng = np.random.default_rng(seed)
    graph = traffic_graph(flow, n_cores)
    # A board of many thousand chips is not searched for a network that fills a few.
    mesh, chips = mesh.corner(-(-n_cores // mesh.cores_per_chip))
    others = [in_order(n_cores), space_filling(n_cores, mesh)]
    if n_cores <= GREEDY_CORES:
        others.append(greedy(graph, mesh))
    report(0.05)
    start = best_start(graph, mesh, compact_region(n_cores, mesh), others, effort, rng, report)
    region = np.union1d(compact_region(n_cores, mesh), start)  # `others` may use cores outside the compact region
    at, points = np.searchsorted(region, start), mesh.points(region)
    refine(graph, at, points, effort, rng, report)
    result = min([region[at], start, *others], key=lambda found: travel_cost(graph, mesh.points(found)))
    report(1.0)
    chip, on_chip = np.divmod(result, mesh.cores_per_chip)
    placed: Integers = chips[chip] * mesh.cores_per_chip + on_chip
    return placed


def in_order(n_cores: int) -> Integers:
    """Logical core i on physical core i (n_cores,)."""
    return np.arange(n_cores)


def greedy(graph: TrafficGraph, mesh: Mesh) -> Integers:
    """Place cores one by one, each on the free tile with the fewest spikes x hops to those placed before (n_cores,).

    The next core is the one with most traffic to those. Each step looks at every tile: minutes for a hundred thousand cores.
    """
    # Tiles by whole numbers in the order of their points: rows of floats take a hundred times as long to sort.
    points = mesh.points(np.arange(mesh.n_cores))
    codes = np.zeros(len(points), np.int64)
    for line in points.T:
        values, index = np.unique(line, return_inverse=True)
        codes = codes * values.size + index
    _, first, spot_of = np.unique(codes, return_index=True, return_inverse=True)
    spots = points[first]
    lines = [np.unique(line, return_inverse=True) for line in spots.T]
    order = np.argsort(spot_of.ravel(), kind="stable")
    free = np.bincount(spot_of.ravel())
    after = np.cumsum(free)
    closed = np.zeros(len(spots))
    at, placed = np.empty((graph.n_cores, 3)), np.zeros(graph.n_cores, bool)
    result = np.empty(graph.n_cores, np.int64)
    for core in by_attachment(graph):
        near = slice(graph.first[core], graph.first[core + 1])
        known = graph.core[near][placed[graph.core[near]]]
        spikes = graph.spikes[near][placed[graph.core[near]]]
        cost = closed.copy()
        if known.size == 0:
            cost += np.arange(len(spots))
        for axis, (values, index) in enumerate(lines):
            if known.size and values.size > 1:
                cost += (spikes @ np.abs(at[known, axis, None] - values))[index]
        spot = int(cost.argmin())
        result[core] = order[after[spot] - free[spot]]
        free[spot] -= 1
        closed[spot] = 0 if free[spot] else np.inf
        at[core], placed[core] = spots[spot], True
    return result


def by_attachment(graph: TrafficGraph) -> Iterator[int]:
    """Yield cores, each time the one with most traffic to those before; the one with most of all where there is none."""
    known = np.zeros(graph.n_cores)
    done = np.zeros(graph.n_cores, bool)
    sent = np.bincount(graph.owner, graph.spikes, graph.n_cores)
    heap = [(0.0, -spikes, core) for core, spikes in enumerate(sent.tolist())]
    heap.sort()
    while heap:
        _, _, core = heappop(heap)
        if done[core]:
            continue
        done[core] = True
        yield core
        near = slice(graph.first[core], graph.first[core + 1])
        known[graph.core[near]] += graph.spikes[near]
        for other in graph.core[near][~done[graph.core[near]]].tolist():
            heappush(heap, (-known[other], -sent[other], other))


def check_request(flow: Flow, n_cores: int, mesh: Mesh, effort: float) -> None:
    """Refuse a flow or an effort that no arrangement can serve."""
    if not 0 < effort < np.inf:
        raise RequestError("effort", f"{effort} is not a positive number")
    if n_cores > mesh.n_cores:
        raise PlacementError("the board", "cores", need=n_cores, limit=mesh.n_cores, remedy="Take a larger board.")
    last = max(flow.source.max(initial=-1), flow.target.max(initial=-1))
    if last >= n_cores:
        raise RequestError("flow", f"core {last} has traffic, but there are {n_cores} logical cores")


def best_start(
    graph: TrafficGraph,
    mesh: Mesh,
    region: Integers,
    others: list[Integers],
    effort: float,
    rng: np.random.Generator,
    report: Progress,
) -> Integers:
    """The best of the starting points `others` and of bisections with the cores in order and in random order."""
    points = mesh.points(region)
    edges = max(graph.core.size, 1)
    smoothing = int(np.clip(1e7 / edges, 30, 100))
    work = edges * np.log2(len(region) + 1) * (smoothing + 10)
    n_starts = int(np.clip(effort * 3e8 / work, 1, 12 * max(effort, 1)))
    found = list(others)
    draw = independent_sets(graph, rng)
    for turn in range(n_starts):
        # Every third start follows the order of the layers.
        order = rng.random(graph.n_cores) if turn % 3 else np.arange(graph.n_cores, dtype=np.float64)
        at = bisect(graph, points, order, smoothing=smoothing, trades=4, rng=rng)
        for _ in range(8):
            reassign(graph, at, points, next(draw), 200, rng)
        found.append(region[at])
        report(0.05 + 0.45 * (turn + 1) / n_starts)
    return min(found, key=lambda one: travel_cost(graph, mesh.points(one)))


def refine(graph: TrafficGraph, at: Integers, points: Floats, effort: float, rng: np.random.Generator, report: Progress) -> None:
    """Improve an arrangement by annealing, then by assignment of independent sets, then by exchanges."""
    edges = max(graph.core.size, 1)
    rounds = int(effort * min(10_000, 8e8 / edges))
    anneal(graph, at, points, rounds, rng, lambda done: report(0.5 + 0.4 * done))
    draw = independent_sets(graph, rng)
    for turn in range(12):
        reassign(graph, at, points, next(draw), 300, rng)
        report(0.9 + 0.08 * turn / 12)
    if len(points) <= SMALL_BOARD:
        best_swaps(graph, at, points, int(2e8 / len(points) ** 2) + 1)
