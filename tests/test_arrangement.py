"""Cores onto boards: every move keeps its word, small boards are tried in full, and no rival is ever better."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from boards import board, flow_of
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.placement.arrangers import adjacent, at_random, force_directed
from neurodeploy.errors import PlacementError, RequestError
from neurodeploy.mapping.mesh_arrangement import (
    arrange,
    best_swaps,
    bisect,
    greedy,
    in_order,
    placement_costs,
    reassign,
    space_filling,
)
from neurodeploy.mapping.traffic import Flow, Mesh, core_subset, hilbert, independent_sets, spike_hops, traffic_graph, travel_cost


def line(n_cores: int) -> Flow:
    return flow_of(*((core, core + 1, 1.0) for core in range(n_cores - 1)))


def layers(width: int, height: int, depth: int, *, skip: bool = True) -> Flow:
    """Layers of width x height cores; each talks to the 3 x 3 that overlap it in the next, and to itself two layers on."""
    edges = []
    for z in range(depth - 1):
        for y in range(height):
            for x in range(width):
                core = (z * height + y) * width + x
                for ny in range(max(0, y - 1), min(height, y + 2)):
                    for nx in range(max(0, x - 1), min(width, x + 2)):
                        near = 1.0 if (nx, ny) == (x, y) else 0.3
                        edges.append((core, ((z + 1) * height + ny) * width + nx, near))
                if skip and z + 2 < depth:
                    edges.append((core, core + 2 * width * height, 0.5))
    return flow_of(*edges)


# ---------------------------------------------------------------------------------------------- moves keep their word


def test_strangers_do_not_talk_and_everybody_has_a_turn() -> None:
    graph = traffic_graph(layers(4, 3, 4), 48)
    draw = independent_sets(graph, np.random.default_rng(0))
    sets = [next(draw) for _ in range(20)]
    for members in sets:
        chosen = np.zeros(48, bool)
        chosen[members] = True
        assert not (chosen[graph.owner] & chosen[graph.core]).any()
    assert np.unique(np.concatenate(sets)).size == 48


def test_prices_are_what_a_core_would_pay() -> None:
    mesh, graph = board(), traffic_graph(layers(2, 2, 3), 12)
    points, at = mesh.points(np.arange(16)), np.random.default_rng(1).permutation(16)[:12]
    subset = core_subset(graph, np.array([0, 5, 11]))
    paid = placement_costs(subset, points[at[subset.core]], points)
    for row, core in enumerate((0, 5, 11)):
        for place in range(16):
            near = slice(graph.first[core], graph.first[core + 1])
            slow = graph.spikes[near] @ mesh.cost(np.full(near.stop - near.start, place), at[graph.core[near]])
            assert paid[row, place] == pytest.approx(slow)


@given(st.integers(0, 999), st.integers(4, 20))
@examples(20)
def test_settling_and_exchanging_never_cost(seed: int, size: int) -> None:
    mesh, graph, rng = board(2, (2,)), traffic_graph(layers(3, 2, 4), 24), np.random.default_rng(seed)
    points, at = mesh.points(np.arange(32)), rng.permutation(32)[:24]
    draw, before = independent_sets(graph, rng), travel_cost(graph, points[at])
    for _ in range(5):
        reassign(graph, at, points, next(draw), size, rng)
        after = travel_cost(graph, points[at])
        assert after <= before + 1e-9
        before = after
    best_swaps(graph, at, points, 50)
    assert travel_cost(graph, points[at]) <= before + 1e-9
    assert np.unique(at).size == 24


def test_after_exchanging_no_exchange_gains() -> None:
    mesh, graph = board(), traffic_graph(layers(2, 2, 3), 12)
    points, at = mesh.points(np.arange(16)), np.random.default_rng(2).permutation(16)[:12]
    best_swaps(graph, at, points, 1000)
    best = travel_cost(graph, points[at])
    for core in range(12):
        for place in range(16):
            tried = at.copy()
            tried[at == place] = at[core]
            tried[core] = place
            assert travel_cost(graph, points[tried]) >= best - 1e-9


def test_bisection_keeps_two_cliques_apart() -> None:
    mesh = board(2, (2,))
    groups = np.random.default_rng(0).permutation(32).reshape(2, 16)
    flow = flow_of(*((a, b, 1.0) for group in groups for a in group for b in group if a < b))
    order = np.random.default_rng(1).random(32)
    at = bisect(traffic_graph(flow, 32), mesh.points(np.arange(32)), order, smoothing=50, trades=5, rng=np.random.default_rng(0))
    assert sorted(at.tolist()) == list(range(32))
    assert all(np.unique(at[group] // 16).size == 1 for group in groups)


# ---------------------------------------------------------------------------------------------- the ways of others


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_curve_visits_every_tile_by_steps(width: int, height: int) -> None:
    walk = list(hilbert(width, height))
    assert sorted(walk) == [(x, y) for x in range(width) for y in range(height)]
    steps = [abs(x - p) + abs(y - q) for (x, y), (p, q) in pairwise(walk)]
    assert all(step == 1 or (step == 2 and (width % 2 or height % 2)) for step in steps)


def test_pairs_that_may_trade_stand_side_by_side() -> None:
    mesh = board(2, (2,))
    pairs = adjacent(mesh, np.arange(32))
    assert len(pairs) == 2 * (7 * 2 + 8)  # two cores a tile: seven seams in two rows, eight between the rows
    assert set((mesh.cost(*pairs.T) % 10).tolist()) == {1.0}


def test_forces_improve_on_the_curve_and_greed_on_order() -> None:
    mesh, flow = board(2, (2,)), layers(4, 2, 4)
    assert spike_hops(flow, force_directed(flow, 32, mesh, 0), mesh) < spike_hops(flow, space_filling(32, mesh), mesh)
    assert spike_hops(flow, greedy(traffic_graph(flow, 32), mesh), mesh) < spike_hops(flow, in_order(32), mesh)


# ---------------------------------------------------------------------------------------------- arrange


def best_of_all(flow: Flow, n_cores: int, mesh: Mesh) -> float:
    ways = np.array(list(permutations(range(mesh.n_cores), n_cores)))
    return float((mesh.cost(ways[:, flow.source], ways[:, flow.target]) @ flow.spikes).min())


CROSSBARS = Mesh(chips=2, chip_mesh=(2,), cores_per_chip=3, cores_per_tile=1, tile_mesh=(), chip_hop_cost=10.0)
RING = flow_of(*((core, (core + 1) % 6, 1.0 + core) for core in range(6)))
STAR = flow_of(*((0, core, float(core)) for core in range(1, 7)))
ALL_TO_ALL = flow_of(*((a, b, 1.0 + (3 * a + b) % 4) for a in range(6) for b in range(6) if a != b))


@pytest.mark.parametrize(
    ("flow", "n_cores", "mesh"),
    [
        (line(7), 7, board(tiles=(7, 1), per_tile=1)),
        (line(6), 6, board(tiles=(3, 2), per_tile=1)),
        (line(6), 6, board(tiles=(4, 2), per_tile=1)),
        (RING, 6, board(tiles=(3, 2), per_tile=1)),
        (STAR, 7, board(tiles=(7, 1), per_tile=1)),
        (ALL_TO_ALL, 6, board(tiles=(3, 2), per_tile=1)),
        (line(6), 6, board(chips=3, chip_mesh=(3,), tiles=(2, 1), per_tile=1)),
        (RING, 6, CROSSBARS),
    ],
    ids=["line", "folded line", "line with room", "ring", "star", "all to all", "line of chips", "crossbar"],
)
def test_small_boards_are_solved(flow: Flow, n_cores: int, mesh: Mesh) -> None:
    assert spike_hops(flow, arrange(flow, n_cores, mesh), mesh) == pytest.approx(best_of_all(flow, n_cores, mesh))


def test_a_line_of_cores_costs_one_hop_a_tile() -> None:
    mesh = board(tiles=(4, 4), per_tile=4)
    assert spike_hops(line(64), arrange(line(64), 64, mesh), mesh) == 15


FLOWS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11), st.floats(0.1, 10)), min_size=1, max_size=40)
BOARDS = st.sampled_from([board(), board(tiles=(3, 3), per_tile=2), board(2, (2,), (2, 2), 2), board(2, (1, 2), (), 1)])


@given(FLOWS, BOARDS, st.integers(0, 5))
@examples(25)
def test_nobody_does_better(edges: list[tuple[int, int, float]], mesh: Mesh, seed: int) -> None:
    flow = flow_of(*edges)
    found = arrange(flow, 12, mesh, seed=seed, effort=0.02)
    assert np.unique(found).size == 12
    assert found.min() >= 0
    assert found.max() < mesh.n_cores
    starts = [in_order(12), space_filling(12, mesh)]
    rivals = [at_random(12, mesh, seed), greedy(traffic_graph(flow, 12), mesh), force_directed(flow, 12, mesh, seed)]
    for rival in (*starts, *rivals):
        assert np.unique(rival).size == 12
    for start in starts:  # which it begins with
        assert spike_hops(flow, found, mesh) <= spike_hops(flow, start, mesh) + 1e-9
    for rival in rivals:  # which it does not know
        assert spike_hops(flow, found, mesh) <= 1.1 * spike_hops(flow, rival, mesh) + 1e-9


@given(FLOWS, st.integers(0, 99))
@examples(6)
def test_small_nets_are_near_the_best(edges: list[tuple[int, int, float]], seed: int) -> None:
    flow = flow_of(*((a % 6, b % 6, spikes) for a, b, spikes in edges))
    mesh = board(tiles=(3, 2), per_tile=1)
    assert spike_hops(flow, arrange(flow, 6, mesh, seed=seed), mesh) <= 1.05 * best_of_all(flow, 6, mesh) + 1e-9


def test_layers_that_overlap_travel_at_most_six_tenths_of_in_order() -> None:
    flow, mesh = layers(8, 8, 7), board(chips=4, chip_mesh=(2, 2), tiles=(8, 4), per_tile=4)
    reported: list[float] = []
    found = arrange(flow, 448, mesh, effort=0.3, progress=reported.append)
    assert spike_hops(flow, found, mesh) <= 0.6 * spike_hops(flow, in_order(448), mesh)
    assert (reported[0], reported[-1]) == (0.0, 1.0)
    assert reported == sorted(reported)


def test_the_same_seed_gives_the_same_arrangement() -> None:
    flow, mesh = layers(3, 3, 3), board(chips=2, chip_mesh=(2,))
    one, same, other = (arrange(flow, 27, mesh, seed=seed, effort=0.1) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_small_net_stays_together_on_a_large_board() -> None:
    mesh = board(chips=64, chip_mesh=(8, 8))
    flow = layers(2, 2, 8)
    found = arrange(flow, 32, mesh, effort=0.1)
    chips = np.unique(found // 16)
    assert chips.size == 2
    assert mesh.hops(chips[:1] * 16, chips[1:] * 16)[2].tolist() == [1]
    assert arrange(flow_of(), 0, mesh).size == 0
    assert np.unique(arrange(flow_of(), 5, mesh)).size == 5


@pytest.mark.parametrize(
    ("flow", "n_cores", "effort", "error", "said"),
    [
        (line(3), 17, 1.0, PlacementError, "the board: 17 cores > 16. Take a larger board"),
        (line(5), 4, 1.0, RequestError, "flow: core 4 has traffic, but there are 4 logical cores"),
        (line(3), 3, 0.0, RequestError, "effort: 0.0 is not a positive number"),
    ],
)
def test_what_cannot_be_arranged_is_refused(flow: Flow, n_cores: int, effort: float, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        arrange(flow, n_cores, board(), effort=effort)
