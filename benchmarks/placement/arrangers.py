"""Rival arrangers: logical cores on physical cores at random, and along a Hilbert curve improved by forces.

`neurodeploy.mapping.mesh_arrangement.arrange` is measured against them. Each returns the physical core of each logical core.
"""

from __future__ import annotations

import numpy as np

from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.mapping.mesh_arrangement import space_filling
from neurodeploy.mapping.traffic import Flow, Mesh, TrafficGraph, core_subset, traffic_graph, travel_cost


def at_random(n_cores: int, mesh: Mesh, seed: int) -> Integers:
    """Drawn from all cores of the chips that `in_order` takes."""
    chips = -(-n_cores // mesh.cores_per_chip)
    return np.random.default_rng(seed).permutation(chips * mesh.cores_per_chip)[:n_cores]


def by_columns(n_cores: int, mesh: Mesh) -> Integers:
    """Chip after chip, column after column of tiles, as `place` does for routers that copy spikes, if that is best."""
    at = mesh.position(np.arange(mesh.n_cores))
    return np.lexsort((at.tile_y, at.tile_x, at.chip))[:n_cores]


def force_directed(flow: Flow, n_cores: int, mesh: Mesh, seed: int) -> Integers:
    """Along the curve, then by forces, after Jin et al. (ASPLOS 2023): cores of adjacent tiles trade places where that gains.

    Each round takes the best three tenths of the trades that gain, as theirs does; a trade's gain is exact as
    if it were the only one, and a round that gains nothing in all is taken back and tried again with half as many.
    """
    graph, result = traffic_graph(flow, n_cores), space_filling(n_cores, mesh)
    points = mesh.points(np.arange(mesh.n_cores))
    chips = np.unique(result // mesh.cores_per_chip)
    pairs = adjacent(mesh, (chips[:, None] * mesh.cores_per_chip + np.arange(mesh.cores_per_chip)).ravel())
    rng = np.random.default_rng(seed)
    share, cost = 0.3, travel_cost(graph, points[result])
    for _ in range(300):
        tried = _force_round(graph, result, points, pairs, share, rng)
        new = travel_cost(graph, points[tried])
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


def _force_round(
    graph: TrafficGraph, at: Integers, points: Floats, pairs: Integers, share: float, rng: np.random.Generator
) -> Integers:
    """One round of forces."""
    who = np.full(len(points), -1, np.int64)
    who[at] = np.arange(at.size)
    gain = np.zeros(len(pairs))
    for here, there in ((0, 1), (1, 0)):
        lived = np.flatnonzero(who[pairs[:, here]] >= 0)
        subset = core_subset(graph, who[pairs[lived, here]])
        near = points[at[subset.core]]
        closer = np.abs(near - points[pairs[lived, here]][subset.row]).sum(1)
        closer -= np.abs(near - points[pairs[lived, there]][subset.row]).sum(1)
        gain[lived] += np.bincount(subset.row, subset.spikes * closer, lived.size)
    both = np.flatnonzero((who[pairs] >= 0).all(1))
    a, b = who[pairs[both]].T
    gain[both] -= 2 * graph.between(a, b) * np.abs(points[pairs[both, 0]] - points[pairs[both, 1]]).sum(1)
    gainful = np.flatnonzero(gain > 1e-9 * graph.spikes.sum() / at.size)
    gainful = gainful[np.lexsort((rng.random(gainful.size), -gain[gainful]))][: int(np.ceil(share * gainful.size))]
    nth = np.full(len(points), gainful.size)
    np.minimum.at(nth, pairs[gainful].ravel(), np.repeat(np.arange(gainful.size), 2))
    one, two = pairs[gainful[(nth[pairs[gainful]] == np.arange(gainful.size)[:, None]).all(1)]].T
    who[one], who[two] = who[two], who[one]
    result = np.empty_like(at)
    taken = np.flatnonzero(who >= 0)
    result[who[taken]] = taken
    return result
