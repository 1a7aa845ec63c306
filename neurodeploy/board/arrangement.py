"""How logical cores are put on the physical cores of a board so that spikes travel least.

`arrange` cuts board and traffic in two again and again from several beginnings, takes the best, and lets cores change places
until nothing gains any more. The ways in which others do it stand beside it (`rivals.py`); those that are quick are run too, and
the best of all is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from neurodeploy.board.bisection import bisect
from neurodeploy.board.mesh import Floats, Integers, Mesh, Position
from neurodeploy.board.refinement import anneal, exchange, settle
from neurodeploy.board.rivals import at_random, force_directed, greedy, in_order, space_filling
from neurodeploy.board.traffic import Flow, Talk, spike_hops, strangers, talk_of, travel
from neurodeploy.errors import PlacementError, RequestError

__all__ = [
    "Flow",
    "Mesh",
    "Position",
    "arrange",
    "at_random",
    "force_directed",
    "greedy",
    "in_order",
    "space_filling",
    "spike_hops",
]

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
