"""How little spikes can travel: bounds below every arrangement of the same cores on the same board.

Two are taken, and the larger counts. By neighbours: around a core stand, at best, those that it says most to on the places
nearest to its own, and no two cores have one place (Gilmore 1962 and Lawler 1963, for the quadratic assignment problem). By cuts:
a distance is the number of lines between columns, rows and storeys that it crosses, and each line cuts the cores in two; how much
crosses all of them together is no less than the smallest eigenvalues of the traffic's Laplacian allow, however the cores are
weighed (after Donath and Hoffman 1973 and Hadley, Rendl and Wolkowicz 1992). The weights that are best are climbed to.
"""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment

from neurodeploy.ir.arrays import Floats
from neurodeploy.mapping.traffic import Flow, Mesh, TrafficGraph, traffic_graph

MATCHED_PLACES = 1200
"""On a board of more places all count like the best there could be, and cuts are not looked at."""
ROUNDS = 300
"""Of weighing cores."""


def least_spike_hops(flow: Flow, n_cores: int, mesh: Mesh) -> float:
    """No arrangement of the cores on the board has fewer spikes x hops a step."""
    graph = traffic_graph(flow, n_cores)
    if not graph.core.size:
        return 0.0
    return max(by_neighbours(graph, mesh), by_cuts(graph, mesh) if mesh.n_cores <= MATCHED_PLACES else 0.0)


def by_neighbours(graph: TrafficGraph, mesh: Mesh) -> float:
    """The bound by the places nearest to each core's own."""
    order = np.lexsort((-graph.spikes, graph.owner))
    said = np.zeros((graph.n_cores, int(np.diff(graph.first).max())))
    said[graph.owner, np.arange(graph.owner.size) - graph.first[graph.owner]] = graph.spikes[order]
    if mesh.n_cores > MATCHED_PLACES:
        return float((said @ nearest(mesh, said.shape[1])).sum()) / 2
    points = mesh.points(np.arange(mesh.n_cores))
    away = np.sort(np.abs(points[:, None] - points).sum(axis=-1), axis=1)[:, 1 : said.shape[1] + 1]
    pays = said @ away.T
    return float(pays[linear_sum_assignment(pays)].sum()) / 2


def nearest(mesh: Mesh, most: int) -> Floats:
    """(most,): how far the nearest places are from any place at least, as if its chip stood in the midst of the others."""
    columns, rows = mesh.columns_and_rows if mesh.tile_mesh else (0, 0)
    x, y = np.meshgrid(np.arange(max(columns, 1)), np.arange(max(rows, 1)))
    tiles = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    slots = mesh.cores_per_tile if mesh.tile_mesh else mesh.cores_per_chip
    along, price = (*mesh.chip_mesh, 1, 1)[:3], mesh.chip_hop_cost
    least: Floats = np.zeros(most)
    for reach in range(sum(along)):
        chips = [at for at in product(*(range(1 - side, side) for side in along)) if sum(map(abs, at)) <= reach]
        steps = np.array(chips) * [columns + price, rows + price, price]
        places = np.repeat((steps[:, None] + tiles).reshape(-1, 3), slots, axis=0)
        away = np.sort(np.abs(tiles[:, None] - places).sum(axis=-1), axis=1).min(axis=0)[1 : most + 1]
        least[: away.size] = away
        if away.size == most and away[-1] <= (reach + 1) * price:
            break
    return least


def by_cuts(graph: TrafficGraph, mesh: Mesh, rounds: int = ROUNDS) -> float:
    """The bound by what crosses the lines of the board.

    With s_c = +-1 for the side of line c, spikes x hops are the sum of s_c' L s_c / 4 over the lines, L the Laplacian of the
    traffic. As s_c^2 = 1, L may be given any diagonal r whose sum is taken off again. The matrix of all s_c s_c' has the trace
    lines x cores, and its largest eigenvalues are at most those that it has with a core in every place.
    """
    points = mesh.points(np.arange(mesh.n_cores))
    sides = [
        np.where(line <= one, -1.0, 1.0) * np.sqrt(other - one) for line in points.T for one, other in pairwise(np.unique(line))
    ]
    if not sides:
        return 0.0
    spread = np.maximum(np.linalg.eigvalsh(np.array(sides) @ np.array(sides).T)[::-1], 0.0)
    trace = float(sum(side[0] ** 2 for side in sides))
    room = np.maximum(trace * graph.n_cores - np.concatenate([[0.0], spread.cumsum()[:-1]]), 0.0)
    spread = np.minimum(spread, room)[: graph.n_cores]
    laplacian = np.zeros((graph.n_cores, graph.n_cores))
    laplacian[graph.owner, graph.core] = -graph.spikes
    unit = -laplacian.sum() / graph.n_cores
    laplacian = (laplacian - np.diag(laplacian.sum(axis=1))) / unit
    return unit * _climbed(laplacian, spread, trace, rounds) / 4


def _climbed(laplacian: Floats, spread: Floats, trace: float, rounds: int) -> float:
    """The largest value found over the weights r of the cores, by Adam (Kingma and Ba 2015) on the supergradient."""
    weights, best = 1 - np.diag(laplacian), 0.0
    mean, square = np.zeros(weights.size), np.zeros(weights.size)
    for turn in range(1, rounds + 1):
        values, vectors = eigh(laplacian + np.diag(weights), subset_by_index=[0, spread.size - 1])
        best = max(best, float(values @ spread - trace * weights.sum()))
        slope = vectors**2 @ spread - trace
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        step = (0.03 * 0.985**turn + 0.0005) / np.sqrt(square / (1 - 0.99**turn) + 1e-9)
        weights = weights + step * mean / (1 - 0.9**turn)
    return best
