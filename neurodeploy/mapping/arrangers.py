"""How others lay cores onto a board: in order, at random, greedily, along a curve, along a curve and then by forces.

`arrange` is measured against these and starts from them where they are good. All return the physical core of each logical core.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

import numpy as np

from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.mapping.traffic import Flow, Mesh, Talk, crowd, talk_of, travel


def in_order(n_cores: int) -> Integers:
    """Logical core i on physical core i."""
    return np.arange(n_cores)


def at_random(n_cores: int, mesh: Mesh, seed: int) -> Integers:
    """Drawn from all cores of the chips that `in_order` takes."""
    chips = -(-n_cores // mesh.cores_per_chip)
    return np.random.default_rng(seed).permutation(chips * mesh.cores_per_chip)[:n_cores]


def greedy(flow: Flow, n_cores: int, mesh: Mesh) -> Integers:
    """Who talks most to those who stand already comes next, and onto the free place nearest to them, spikes as weights.

    Each step looks at every tile of the board: minutes for a hundred thousand cores.
    """
    talk = talk_of(flow, n_cores)
    spots, spot_of = np.unique(mesh.points(np.arange(mesh.n_cores)), axis=0, return_inverse=True)
    lines = [np.unique(line, return_inverse=True) for line in spots.T]
    order = np.argsort(spot_of.ravel(), kind="stable")
    room = np.bincount(spot_of.ravel())
    after = np.cumsum(room)
    closed = np.zeros(len(spots))
    at, standing = np.empty((n_cores, 3)), np.zeros(n_cores, bool)
    result = np.empty(n_cores, np.int64)
    for core in by_acquaintance(talk):
        near = slice(talk.first[core], talk.first[core + 1])
        known = talk.core[near][standing[talk.core[near]]]
        spikes = talk.spikes[near][standing[talk.core[near]]]
        cost = closed.copy()
        if known.size == 0:
            cost += np.arange(len(spots))
        for axis, (values, index) in enumerate(lines):
            if known.size and values.size > 1:
                cost += (spikes @ np.abs(at[known, axis, None] - values))[index]
        spot = int(cost.argmin())
        result[core] = order[after[spot] - room[spot]]
        room[spot] -= 1
        closed[spot] = 0 if room[spot] else np.inf
        at[core], standing[core] = spots[spot], True
    return result


def by_acquaintance(talk: Talk) -> Iterator[int]:
    """Cores, each time the one that talks most to those before; the one that talks most of all where nobody is known."""
    known = np.zeros(talk.n_cores)
    done = np.zeros(talk.n_cores, bool)
    loud = np.bincount(talk.owner, talk.spikes, talk.n_cores)
    heap = [(0.0, -spikes, core) for core, spikes in enumerate(loud.tolist())]
    heap.sort()
    while heap:
        _, _, core = heappop(heap)
        if done[core]:
            continue
        done[core] = True
        yield core
        near = slice(talk.first[core], talk.first[core + 1])
        known[talk.core[near]] += talk.spikes[near]
        for other in talk.core[near][~done[talk.core[near]]].tolist():
            heappush(heap, (-known[other], -loud[other], other))


def space_filling(n_cores: int, mesh: Mesh) -> Integers:
    """In order along a Hilbert curve through the tiles of the board, storey after storey."""
    at = mesh.position(np.arange(mesh.n_cores))
    columns, rows = mesh.columns_and_rows
    x, y = at.chip_x * columns + at.tile_x, at.chip_y * rows + at.tile_y
    nth = np.zeros((int(x.max()) + 1, int(y.max()) + 1), np.int64)
    walk = np.array(list(hilbert(*nth.shape)))
    nth[walk[:, 0], walk[:, 1]] = np.arange(nth.size)
    along = nth[x, y]
    walked: Integers = np.lexsort((np.where(at.chip_z % 2, -along, along), at.chip_z))
    return walked[:n_cores]


def hilbert(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Cells of a rectangle along a Hilbert curve, generalised to sides that are no powers of two (after J. Cerveny's gilbert)."""
    if width >= height:
        yield from _curve((0, 0), (width, 0), (0, height))
    else:
        yield from _curve((0, 0), (0, height), (width, 0))


Cell = tuple[int, int]


def _curve(start: Cell, main: Cell, side: Cell) -> Iterator[Cell]:
    """Cells of the rectangle spanned by `main` and `side`, one of which has x only, the other y only."""
    (x, y), (mx, my), (sx, sy) = start, main, side
    length, breadth = abs(mx + my), abs(sx + sy)
    step_m, step_s = (_sign(mx), _sign(my)), (_sign(sx), _sign(sy))
    if breadth == 1 or length == 1:
        (dx, dy), count = (step_m, length) if breadth == 1 else (step_s, breadth)
        yield from ((x + i * dx, y + i * dy) for i in range(count))
        return
    half_m, half_s = (int(mx / 2), int(my / 2)), (int(sx / 2), int(sy / 2))
    if 2 * length > 3 * breadth:  # long: cut along the main side only, at an even place
        if abs(half_m[0] + half_m[1]) % 2 and length > 2:
            half_m = (half_m[0] + step_m[0], half_m[1] + step_m[1])
        yield from _curve(start, half_m, side)
        yield from _curve((x + half_m[0], y + half_m[1]), (mx - half_m[0], my - half_m[1]), side)
        return
    if abs(half_s[0] + half_s[1]) % 2 and breadth > 2:
        half_s = (half_s[0] + step_s[0], half_s[1] + step_s[1])
    yield from _curve(start, half_s, half_m)
    yield from _curve((x + half_s[0], y + half_s[1]), main, (sx - half_s[0], sy - half_s[1]))
    corner = (x + mx - step_m[0] + half_s[0] - step_s[0], y + my - step_m[1] + half_s[1] - step_s[1])
    yield from _curve(corner, (-half_s[0], -half_s[1]), (half_m[0] - mx, half_m[1] - my))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def force_directed(flow: Flow, n_cores: int, mesh: Mesh, seed: int) -> Integers:
    """Along the curve, then by forces, after Jin et al. (ASPLOS 2023): cores of adjacent tiles trade places where that gains.

    Each round takes the best three tenths of the trades that gain, as theirs does; a trade's gain is exact as
    if it were the only one, and a round that gains nothing in all is taken back and tried again with half as many.
    """
    talk, result = talk_of(flow, n_cores), space_filling(n_cores, mesh)
    points = mesh.points(np.arange(mesh.n_cores))
    chips = np.unique(result // mesh.cores_per_chip)
    pairs = adjacent(mesh, (chips[:, None] * mesh.cores_per_chip + np.arange(mesh.cores_per_chip)).ravel())
    rng = np.random.default_rng(seed)
    share, cost = 0.3, travel(talk, points[result])
    for _ in range(300):
        tried = _pulled(talk, result, points, pairs, share, rng)
        new = travel(talk, points[tried])
        if new < cost:
            result, cost = tried, new
        elif share < 1e-3:
            break
        else:
            share /= 2
    return result


def adjacent(mesh: Mesh, cores: Integers) -> Integers:
    """Pairs (n_pairs, 2) of `cores` in the same slot of two tiles (two chips, on crossbars) that stand side by side."""
    at = mesh.position(cores)
    columns, rows = mesh.columns_and_rows
    x, y = at.chip_x * columns + at.tile_x, at.chip_y * rows + at.tile_y
    slot = cores % mesh.cores_per_chip % (mesh.cores_per_tile if mesh.tile_mesh else mesh.cores_per_chip)
    where = np.full((int(x.max()) + 2, int(y.max()) + 2, int(at.chip_z.max()) + 1, int(slot.max()) + 1), -1, np.int64)
    where[x, y, at.chip_z, slot] = cores
    pairs: Integers = np.concatenate(
        [np.stack([cores, where[x + dx, y + dy, at.chip_z, slot]], 1) for dx, dy in ((1, 0), (0, 1))]
    )
    return pairs[pairs[:, 1] >= 0]


def _pulled(talk: Talk, at: Integers, points: Floats, pairs: Integers, share: float, rng: np.random.Generator) -> Integers:
    """One round of forces."""
    who = np.full(len(points), -1, np.int64)
    who[at] = np.arange(at.size)
    gain = np.zeros(len(pairs))
    for here, there in ((0, 1), (1, 0)):
        lived = np.flatnonzero(who[pairs[:, here]] >= 0)
        them = crowd(talk, who[pairs[lived, here]])
        near = points[at[them.core]]
        closer = np.abs(near - points[pairs[lived, here]][them.row]).sum(1)
        closer -= np.abs(near - points[pairs[lived, there]][them.row]).sum(1)
        gain[lived] += np.bincount(them.row, them.spikes * closer, lived.size)
    both = np.flatnonzero((who[pairs] >= 0).all(1))
    a, b = who[pairs[both]].T
    gain[both] -= 2 * talk.between(a, b) * np.abs(points[pairs[both, 0]] - points[pairs[both, 1]]).sum(1)
    keen = np.flatnonzero(gain > 1e-9 * talk.spikes.sum() / at.size)
    keen = keen[np.lexsort((rng.random(keen.size), -gain[keen]))][: int(np.ceil(share * keen.size))]
    nth = np.full(len(points), keen.size)
    np.minimum.at(nth, pairs[keen].ravel(), np.repeat(np.arange(keen.size), 2))
    one, two = pairs[keen[(nth[pairs[keen]] == np.arange(keen.size)[:, None]).all(1)]].T
    who[one], who[two] = who[two], who[one]
    result = np.empty_like(at)
    taken = np.flatnonzero(who >= 0)
    result[who[taken]] = taken
    return result
