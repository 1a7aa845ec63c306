"""Where a good arrangement starts: board and cores are cut in two, again and again, and who talks to each other stays together.

All regions of a level are cut at once, as arrays. A cut has three steps:

1. each core gets a score along the axis of the cut: it moves towards the scores of those it talks to, where neighbours in other
   regions count as the end of the axis at which they lie, and scores are spread out again to their ranks (a power
   iteration towards the smoothest order there is, with the rest of the board as its boundary);
2. the cores that score least go to the near half, as many as it has places;
3. cores of the two halves trade sides while that gains (after Kernighan and Lin 1970, but all regions at once).

How an arrangement gets better where it stands: cores change places, and spikes travel less.

Cores that do not talk to each other can move at once and the gain of each is exact, whatever the others of them do. So all
three moves here are made of whole sets of such strangers, save the last, which takes one exchange at a time:

- `settle` lays a set of strangers anew among their own places and the free ones, a block of the board at a time, at the least
  cost there is (a linear assignment; as in the detailed placement of circuits);
- `anneal` lets pairs of strangers, or a core and a free place, trade with a probability that falls with what it costs;
- `exchange` makes the best trade of any two cores, or of a core and a free place, until none is left that gains.

`at` holds for each logical core an index into `points`, and is changed in place.

How logical cores are put on the physical cores of a board so that spikes travel least.

`arrange` cuts board and traffic in two again and again from several beginnings, takes the best, and lets cores change places
until nothing gains any more. The ways in which others do it stand beside it (`rivals.py`); those that are quick are run too, and
the best of all is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from scipy.optimize import linear_sum_assignment

from neurodeploy.errors import PlacementError, RequestError
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.mapping.arrangers import at_random, force_directed, greedy, in_order, space_filling
from neurodeploy.mapping.traffic import (
    Crowd,
    Flow,
    Mesh,
    Talk,
    crowd,
    strangers,
    talk_of,
    travel,
)

# -------------------- board.bisection


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


def far_half(points: Floats, region: Integers) -> tuple[Integers, Mask]:
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


# -------------------- board.refinement

GAIN = 1e-9
"""What counts as a gain, as a share of the spikes of a core: less is rounding."""


def prices(them: Crowd, near: Floats, points: Floats) -> Floats:
    """What each member would pay at each point, where its neighbours stand at `near` (n_members, n_points)."""
    total = np.zeros((them.members.size, len(points)))
    if them.row.size == 0:
        return total
    starts = np.flatnonzero(np.diff(them.row, prepend=-1))
    talkers = them.row[starts]
    for axis in range(points.shape[1]):
        values, index = np.unique(points[:, axis], return_inverse=True)
        paid = np.add.reduceat(them.spikes[:, None] * np.abs(near[:, axis, None] - values), starts, axis=0)
        total[talkers] += paid[:, index.ravel()]
    return total


def free_places(at: Integers, n_places: int) -> Integers:
    """Indices of places where nobody stands."""
    taken = np.zeros(n_places, bool)
    taken[at] = True
    return np.flatnonzero(~taken)


def blocks(points: Floats, size: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Points parted into blocks of at most `size` that lie together, cut differently each time."""
    if len(points) <= size:
        yield np.arange(len(points))
        return
    long, across = rng.permutation(2) if points.shape[1] > 1 else (0, 0)
    spread = np.ptp(points, axis=0) + 1
    n_strips = max(1, round(np.sqrt(len(points) / size * spread[long] / spread[across]) * rng.uniform(0.7, 1.4)))
    order = np.lexsort((rng.random(len(points)), points[:, long]))
    width = -(-len(points) // n_strips)
    for strip in np.split(order, range(int(rng.integers(1, width + 1)), len(order), width)):
        along = strip[np.lexsort((rng.random(strip.size), points[strip, across]))]
        yield from (part for part in np.split(along, range(int(rng.integers(0, size)), along.size, size)) if part.size > 1)


def settle(talk: Talk, at: Integers, points: Floats, members: Integers, size: int, rng: np.random.Generator) -> None:
    """Lay `members`, none of whom talks to another, anew among their places and the free ones, block by block."""
    places = np.concatenate([at[members], free_places(at, len(points))])
    for block in blocks(points[places], size, rng):
        mine, here = block[block < members.size], places[block]
        if mine.size == 0:
            continue
        them = crowd(talk, members[mine])
        _, best = linear_sum_assignment(prices(them, points[at[them.core]], points[here]))
        at[them.members] = here[best]


def partners(points: Floats, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Pairs of points that lie near each other, drawn differently each time; none stands in two pairs."""
    n = len(points)
    long, across = rng.permutation(2) if points.shape[1] > 1 else (0, 0)
    strip = np.floor(points[:, long] / rng.uniform(1, 6) + rng.random())
    order = np.lexsort((points[:, across] + rng.random(n) * 4, strip))
    step = int(rng.integers(1, 4))
    pairs = order[: n // (2 * step) * 2 * step].reshape(-1, 2, step)
    return pairs[:, 0].ravel(), pairs[:, 1].ravel()


def trade(them: Crowd, at: Integers, points: Floats, free: Integers, heat: float, rng: np.random.Generator) -> None:
    """One step of `anneal`: each pair trades if that gains, or costs less than a draw from an exponential of mean `heat`."""
    members = them.members
    places = np.concatenate([at[members], rng.permutation(free)[: members.size]])
    one, two = partners(points[places], rng)
    swap = np.arange(places.size)
    swap[one], swap[two] = two, one
    here, there, near = at[members], places[swap[: members.size]], at[them.core]
    change = np.zeros(them.row.size)
    for axis in range(points.shape[1]):
        line = points[:, axis]
        change += np.abs(line[near] - line[there][them.row]) - np.abs(line[near] - line[here][them.row])
    cost = np.zeros(places.size)
    cost[: members.size] = np.bincount(them.row, them.spikes * change, members.size)
    refused = cost[one] + cost[two] > rng.exponential(heat, one.size)
    swap[one[refused]], swap[two[refused]] = one[refused], two[refused]
    at[members] = places[swap[: members.size]]


def anneal(
    talk: Talk, at: Integers, points: Floats, rounds: int, rng: np.random.Generator, told: Callable[[float], None]
) -> None:
    """Simulated annealing (Kirkpatrick et al. 1983) by trades between strangers, a whole set at a time.

    The heat falls geometrically from most of what a core pays for one hop of all its spikes to a hundredth of it.
    """
    wide = points[:, np.ptp(points, axis=0) > 0]
    if rounds < 1 or talk.core.size == 0 or wide.size == 0:
        return
    draw = strangers(talk, rng)
    crowds = [crowd(talk, next(draw)) for _ in range(int(np.clip(3e7 / talk.core.size, 6, 60)))]
    hop = talk.spikes.sum() / talk.n_cores
    free = free_places(at, len(points))
    for turn in range(rounds):
        trade(crowds[rng.integers(len(crowds))], at, wide, free, hop * 0.8 * 0.0125 ** (turn / rounds), rng)
        if free.size:
            free = free_places(at, len(points))
        if turn % 64 == 0:
            told(turn / rounds)


def exchange(talk: Talk, at: Integers, points: Floats, limit: int) -> None:
    """Make the best trade of any two cores, or of a core and a free place, until none gains, at most `limit` of them.

    Keeps what every core would pay at every place: for some thousand cores at most.
    """
    n, n_places = talk.n_cores, len(points)
    if talk.core.size == 0:
        return
    them = crowd(talk, np.arange(n))
    pays = np.zeros((n_places, n_places))
    pays[:n] = prices(them, points[at[them.core]], points)
    heard = np.zeros((n_places, n_places))
    heard[talk.owner, talk.core] = talk.spikes
    distance = np.abs(points[:, None] - points).sum(-1)
    who = np.concatenate([at, free_places(at, n_places)])
    least = GAIN * talk.spikes.sum() / n * max(distance.max(), 1.0)
    for _ in range(limit):
        moved = pays[:, who] - pays[np.arange(n_places), who][:, None]
        gain = -(moved + moved.T) - 2 * heard * distance[np.ix_(who, who)]
        one, two = divmod(int(gain.argmax()), n_places)
        if gain[one, two] <= least:
            break
        shift = distance[who[two]] - distance[who[one]]
        pays += np.outer(heard[:, one] - heard[:, two], shift)
        who[one], who[two] = who[two], who[one]
    at[:] = who[:n]


# -------------------- board.arrangement


Progress = Callable[[float], None]

SMALL_BOARD = 1024
"""Places up to which every exchange of two cores is looked at."""

GREEDY_CORES, FORCED_CORES = 20_000, 500
"""Logical cores up to which these rivals are run beside it: beyond, they take long and have been far behind."""


def arrange(
    flow: Flow, n_cores: int, mesh: Mesh, *, seed: int = 0, effort: float = 1.0, progress: Progress | None = None
) -> Integers:
    """Put logical cores on physical cores so that spikes travel least.

    Takes as few chips as hold the cores, next to each other (or those that a rival took, where that is better).

    Parameters
    ----------
    flow : Flow
        Who talks to whom.
    n_cores : int
        Logical cores, numbered from 0; best in the order in which layers follow each other.
    seed : int
        The same seed gives the same arrangement.
    effort : float
        Time it may take, as a multiple of the usual: about a second for a hundred cores, 10 for some thousand, minutes for
        a hundred thousand.
    progress : callable, optional
        Called now and then with how much is done, 0 to 1.

    Returns
    -------
    NDArray[np.int64]
        Physical core of each logical core (n_cores,), no two alike. Never worse than `in_order`, `space_filling` and
        `at_random` of the same seed, up to 5,000 cores than `greedy`, up to 500 than `force_directed`: those are run beside it.

    Raises
    ------
    PlacementError
        If there are more logical cores than the board has.
    RequestError
        If a core talks that is not one of the logical cores, or `effort` is not a positive number.
    """
    check_request(flow, n_cores, mesh, effort)
    told: Progress = progress or (lambda _done: None)
    told(0.0)
    if n_cores == 0:
        return np.zeros(0, np.int64)
    rng = np.random.default_rng(seed)
    talk = talk_of(flow, n_cores)
    others = [in_order(n_cores), space_filling(n_cores, mesh), at_random(n_cores, mesh, seed)]
    if n_cores <= GREEDY_CORES:
        others.append(greedy(flow, n_cores, mesh))
    if n_cores <= FORCED_CORES:
        others.append(force_directed(flow, n_cores, mesh, seed))
    told(0.05)
    start = best_start(talk, mesh, compact_region(n_cores, mesh), others, effort, rng, told)
    region = np.union1d(compact_region(n_cores, mesh), start)
    at, points = np.searchsorted(region, start), mesh.points(region)
    refine(talk, at, points, effort, rng, told)
    result = min([region[at], start, *others], key=lambda found: travel(talk, mesh.points(found)))
    told(1.0)
    return result


def check_request(flow: Flow, n_cores: int, mesh: Mesh, effort: float) -> None:
    """Refuse a flow or an effort that no arrangement can serve."""
    if not 0 < effort < np.inf:
        raise RequestError("effort", f"{effort} is not a positive number")
    if n_cores > mesh.n_cores:
        raise PlacementError("the board", "cores", need=n_cores, limit=mesh.n_cores, remedy="Take a larger board.")
    last = max(flow.source.max(initial=-1), flow.target.max(initial=-1))
    if last >= n_cores:
        raise RequestError("flow", f"core {last} talks, but there are {n_cores} logical cores")


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
    taken = np.sort(chips[np.lexsort((chips, outside))][:needed])
    return (taken[:, None] * mesh.cores_per_chip + np.arange(mesh.cores_per_chip)).ravel()


def best_start(
    talk: Talk,
    mesh: Mesh,
    region: Integers,
    others: list[Integers],
    effort: float,
    rng: np.random.Generator,
    told: Progress,
) -> Integers:
    """The best of the rivals and of bisections that begin with the cores in order and at random, each settled for some rounds."""
    points = mesh.points(region)
    edges = max(talk.core.size, 1)
    smoothing = int(np.clip(1e7 / edges, 30, 100))
    work = edges * np.log2(len(region) + 1) * (smoothing + 10)
    n_starts = int(np.clip(effort * 3e8 / work, 1, 12 * max(effort, 1)))
    found = list(others)
    draw = strangers(talk, rng)
    for turn in range(n_starts):
        order = rng.random(talk.n_cores) if turn % 3 else np.arange(talk.n_cores, dtype=np.float64)
        at = bisect(talk, points, order, smoothing=smoothing, trades=4, rng=rng)
        for _ in range(8):
            settle(talk, at, points, next(draw), 200, rng)
        found.append(region[at])
        told(0.05 + 0.45 * (turn + 1) / n_starts)
    return min(found, key=lambda one: travel(talk, mesh.points(one)))


def refine(talk: Talk, at: Integers, points: Floats, effort: float, rng: np.random.Generator, told: Progress) -> None:
    """Anneal, settle, exchange: from the widest move to the last."""
    edges = max(talk.core.size, 1)
    rounds = int(effort * min(10_000, 8e8 / edges))
    anneal(talk, at, points, rounds, rng, lambda done: told(0.5 + 0.4 * done))
    draw = strangers(talk, rng)
    for turn in range(12):
        settle(talk, at, points, next(draw), 300, rng)
        told(0.9 + 0.08 * turn / 12)
    if len(points) <= SMALL_BOARD:
        exchange(talk, at, points, int(2e8 / len(points) ** 2) + 1)
