"""No arrangement is below the bounds on traffic: small boards are tried in full."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from boards import flow_of
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.placement.least_travel import by_cuts, by_neighbours, least_spike_hops, nearest
from neurodeploy.mapping.mesh_arrangement import arrange
from neurodeploy.mapping.traffic import Mesh, spike_hops, traffic_graph


def small_board(tiles: tuple[int, int], chips: int) -> Mesh:
    return Mesh(chips=chips, chip_mesh=(chips,), cores_per_chip=tiles[0] * tiles[1], cores_per_tile=1, tile_mesh=tiles)


@examples(15)
@given(
    tiles=st.sampled_from([(3, 2), (2, 1), (1, 3)]), chips=st.integers(1, 2), n_cores=st.integers(2, 5),
    edges=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0.1, 3.0)), min_size=1, max_size=9),
)  # fmt: skip
def test_no_arrangement_of_few_cores_is_below(
    tiles: tuple[int, int], chips: int, n_cores: int, edges: list[tuple[int, int, float]]
) -> None:
    mesh = small_board(tiles, chips)
    n_cores = min(n_cores, mesh.n_cores)
    flow = flow_of(*((a % n_cores, b % n_cores, spikes) for a, b, spikes in edges))
    best = min(spike_hops(flow, np.array(at), mesh) for at in permutations(range(mesh.n_cores), n_cores))
    talk = traffic_graph(flow, n_cores)
    if not talk.core.size:
        assert least_spike_hops(flow, n_cores, mesh) == 0
    else:
        assert by_cuts(talk, mesh, rounds=40) <= best + 1e-9
        assert by_neighbours(talk, mesh) <= best + 1e-9


def test_two_cores_that_talk_are_a_hop_apart() -> None:
    assert by_neighbours(traffic_graph(flow_of((0, 1, 2.0)), 2), small_board((3, 2), 1)) == pytest.approx(2.0)


def test_all_that_talk_to_all_are_bounded_by_cuts() -> None:
    mesh = small_board((4, 4), 1)
    flow = flow_of(*((a, b, 1.0) for a in range(16) for b in range(a)))
    travelled = spike_hops(flow, arrange(flow, 16, mesh), mesh)  # wherever they stand
    assert 0.8 * travelled <= by_cuts(traffic_graph(flow, 16), mesh) <= travelled + 1e-9


@pytest.mark.parametrize("chips", [(1,), (2, 2), (3, 2, 2)])
def test_no_place_has_nearer_places_than_those_of_a_large_board(chips: tuple[int, ...]) -> None:
    mesh = Mesh(chips=int(np.prod(chips)), chip_mesh=chips, cores_per_chip=11, cores_per_tile=2, tile_mesh=(3, 2))
    points = mesh.points(np.arange(mesh.n_cores))
    away = np.sort(np.abs(points[:, None] - points).sum(axis=-1), axis=1)[:, 1:]
    assert (nearest(mesh, away.shape[1]) <= away.min(axis=0) + 1e-9).all()
