"""Distances on a board, on paper; traffic by a slow count; what cannot be a board or a flow."""

from __future__ import annotations

import numpy as np
import pytest
from boards import board, flow_of
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.placement.arrangers import at_random
from neurodeploy.errors import NetworkError, RequestError
from neurodeploy.mapping.traffic import Flow, Mesh, spike_hops, traffic_graph, travel_cost

# ---------------------------------------------------------------------------------------------- the mesh, on paper


def test_cores_count_along_tiles_rows_and_chips() -> None:
    mesh = board(chips=5, chip_mesh=(3, 2))
    at = mesh.position(np.array([0, 1, 2, 8, 16, 79]))
    assert at.chip.tolist() == [0, 0, 0, 0, 1, 4]
    assert at.tile_x.tolist() == [0, 0, 1, 0, 0, 3]
    assert at.tile_y.tolist() == [0, 0, 0, 1, 0, 1]
    assert (at.chip_x.tolist(), at.chip_y.tolist(), at.chip_z.tolist()) == ([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1], [0] * 6)
    assert mesh.n_cores == 80


@pytest.mark.parametrize(
    ("a", "b", "hops", "cost"),
    [
        (0, 1, (0, 0, 0), 0),  # one tile
        (0, 15, (3, 1, 0), 4),  # corner to corner
        (6, 16, (1, 0, 1), 11),  # across the seam of two chips
        (0, 16, (4, 0, 1), 14),
        (0, 32, (0, 2, 1), 12),  # the chip below
        (15, 127, (4, 2, 3), 36),  # one east, one south, one storey up: the last pays for its crossing alone
    ],
)
def test_distances_on_paper(a: int, b: int, hops: tuple[int, int, int], cost: float) -> None:
    mesh = board(chips=8, chip_mesh=(2, 2, 2))
    for one, two in ((a, b), (b, a)):
        got = mesh.hops(np.array([one]), np.array([two]))
        assert tuple(int(part[0]) for part in got) == hops
        assert mesh.cost(np.array([one]), np.array([two])).tolist() == [cost]


def test_a_crossbar_is_one_hop_wide() -> None:
    mesh = board(chips=2, chip_mesh=(2,), tiles=(), per_tile=2)
    assert mesh.n_cores == 32
    assert mesh.cost(np.array([3, 0, 0]), np.array([3, 15, 16])).tolist() == [0, 1, 11]


@given(st.data())
def test_points_say_what_the_mesh_says(data: st.DataObject) -> None:
    chip_mesh = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    mesh = board(chips=int(np.prod(chip_mesh)), chip_mesh=tuple(chip_mesh), tiles=(3, 2), per_tile=1)
    a, b = np.divmod(np.arange(mesh.n_cores**2), mesh.n_cores)
    points = mesh.points(np.arange(mesh.n_cores))
    assert np.allclose(np.abs(points[a] - points[b]).sum(1), mesh.cost(a, b))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"chips": 0}, r"Mesh.chips: 0 is not 1 or more"),
        ({"chip_mesh": (1, 1, 1, 2)}, r"Mesh.chip_mesh: \(1, 1, 1, 2\) is not one to three numbers"),
        ({"chips": 7}, r"Mesh.chip_mesh: 7 chips > 4"),
        ({"tile_mesh": (4,)}, r"Mesh.tile_mesh: \(4,\) is neither \(\) nor two numbers"),
        ({"tile_mesh": (3, 2)}, r"Mesh.tile_mesh: 8 tiles > 6"),
        ({"chip_hop_cost": -1.0}, r"Mesh.chip_hop_cost: -1.0 is not a number of hops"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(wrong: dict[str, object], said: str) -> None:
    right = {"chips": 4, "chip_mesh": (2, 2), "cores_per_chip": 16, "cores_per_tile": 2, "tile_mesh": (4, 2)}
    with pytest.raises(RequestError, match=said):
        Mesh(**{**right, **wrong})  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- traffic


@pytest.mark.parametrize(
    ("edges", "error", "said"),
    [
        ([(0, -1, 1.0)], RequestError, "core -1 is not a core"),
        ([(0, 1, -2.0)], RequestError, "-2.0 is negative"),
        ([(0, 1, np.inf)], NetworkError, "Flow.spikes: is not finite"),
    ],
)
def test_a_flow_that_cannot_be_is_refused(edges: list[tuple[int, int, float]], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        flow_of(*edges)


def test_a_flow_has_one_number_for_each_edge() -> None:
    with pytest.raises(RequestError, match=r"are not the shapes of three arrays \(n_edges,\)"):
        Flow(source=np.arange(2), target=np.arange(3), spikes=np.ones(2))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 10)), max_size=30), st.integers(0, 99))
@examples(30)
def test_spike_hops_by_a_slow_count(edges: list[tuple[int, int, float]], seed: int) -> None:
    mesh, flow = board(chips=3, chip_mesh=(2, 2)), flow_of(*edges)
    position = at_random(10, mesh, seed)
    slow = 0.0
    for source, target, spikes in edges:
        a, b = position[source], position[target]
        tile_a, tile_b = a % 16 // 2, b % 16 // 2
        chip_a, chip_b = a // 16, b // 16
        slow += spikes * abs((chip_a % 2 * 4 + tile_a % 4) - (chip_b % 2 * 4 + tile_b % 4))
        slow += spikes * abs((chip_a // 2 * 2 + tile_a // 4) - (chip_b // 2 * 2 + tile_b // 4))
        slow += spikes * 10 * (abs(chip_a % 2 - chip_b % 2) + abs(chip_a // 2 - chip_b // 2))
    assert spike_hops(flow, position, mesh) == pytest.approx(slow)
    assert travel_cost(traffic_graph(flow, 10), mesh.points(position)) == pytest.approx(slow)
