"""Links that a spike crosses when its copies share their routes: on paper, and against routes walked neuron by neuron."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from boards import board
from conftest import examples, with_values
from grammar import quantized_graphs
from hypothesis import given
from hypothesis import strategies as st
from paper import in_integers, layer_of
from recount import neurons_of, unrolled

from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping import place
from neurodeploy.mapping.energy import Traffic, mesh_of, multicast_hops
from neurodeploy.mapping.place import arrange_placement, counts_of, lay_out, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.mapping.traffic import Copies, Mesh, links_of
from neurodeploy.resources.usage import Region

LOIHI1 = load_profile("loihi1")
BOARD = with_values(
    LOIHI1, chips=4, chip_mesh=(2, 1, 2), cores_per_chip=12, cores_per_tile=2, tile_mesh=(3, 2), neurons_per_core=2,
    weight_bits=tuple(range(1, 10)),
)  # fmt: skip
"""Two chips side by side on each of two levels, each of 3 x 2 tiles of 2 cores of 2 neurons."""


def spike_to(*targets: int, source: int = 0, spikes: float = 1.0) -> Copies:
    """One group of neurons, with slices numbered as their cores."""
    group = np.zeros(len(targets), np.int64)
    return Copies(np.array([source]), np.array([spikes]), group, np.array(targets, np.int64))


def traffic_of(placement: Placement) -> Traffic:
    traffic = placement.traffic()
    assert traffic is not None
    return traffic


# ---------------------------------------------------------------------------------------------- on paper
# One chip of 4 x 2 tiles of one core: core 4 * y + x.


@pytest.mark.parametrize(
    ("source", "targets", "links"),
    [
        (0, (3,), 3),  # one target: its distance
        (0, (7,), 4),
        (0, (1, 2, 3), 3),  # all on the way to the last
        (0, (3, 7), 4),  # the row is shared, then one link down
        (0, (4, 5, 6, 7), 7),  # along the row, and down each of four columns
        (5, (4, 6), 2),  # two ways
        (5, (0, 3), 5),  # west and north; east, east and north
        (0, (0,), 0),  # its own core
        (0, (3, 3, 0), 3),  # two slices of one core
        (0, (), 0),
    ],
)
def test_links_of_the_union_on_paper(source: int, targets: tuple[int, ...], links: float) -> None:
    mesh = board(per_tile=1)
    assert multicast_hops(spike_to(*targets, source=source), np.arange(8), mesh) == links
    assert multicast_hops(spike_to(*targets, source=source, spikes=0.25), np.arange(8), mesh) == links / 4


def test_copies_to_another_chip_cross_once() -> None:
    """Two chips of 4 x 2 tiles: three links in the first, one to the next that costs 10 more, then east and down."""
    mesh = board(chips=2, chip_mesh=(2,), per_tile=1)
    assert multicast_hops(spike_to(8, 9, 12), np.arange(16), mesh) == 3 + (1 + 10) + 1 + 1
    above = board(chips=2, chip_mesh=(1, 1, 2), per_tile=1)
    assert multicast_hops(spike_to(9, 1), np.arange(16), above) == 1 + 10
    assert multicast_hops(spike_to(9, 8), np.arange(16), above) == 1 + 10 + 10  # it changes level last, over each target


def test_a_crossbar_has_a_hop_to_each_core_and_shares_the_way_to_a_chip() -> None:
    mesh = board(chips=2, chip_mesh=(2,), tiles=(), per_tile=1)
    position = np.array([0, 1, 8, 9, 9])
    assert multicast_hops(spike_to(1, 2, 3, 4), position, mesh) == 3 + 10


def test_neurons_of_a_slice_go_different_ways() -> None:
    """A's neurons, which fire at 0.5 and 0.25, send to b0 and b1, and to b1 alone: cores 0, 2 and 6 of 4 x 2 tiles."""
    network = in_integers(layer_of([[1], [1]], name="a", vth=1), layer_of([[1, 0], [1, 1]], name="b", source="a", vth=1))
    chip = with_values(LOIHI1, cores_per_chip=8, cores_per_tile=1, tile_mesh=(4, 2), routings=("unicast", "multicast"))
    slices = [("a", Region.run(0, 2)), ("b", Region.run(0, 1)), ("b", Region.run(1, 2))]
    links = links_of(slices, network.layers, counts_of(network.layers, {"a": 8, "b": 8}, chip), {"a": np.array([0.5, 0.25])})
    traffic = Traffic(links=links, homes=np.array([0, 2, 6]), neurons=np.array([2.0, 1.0, 1.0]), profile=chip)
    assert traffic.spike_hops() == 0.5 * 2 + 0.75 * 3
    assert traffic.multicast_hops() == 0.5 * 3 + 0.25 * 3
    assert traffic.routings == ("unicast", "multicast")


# ---------------------------------------------------------------------------------------------- neuron by neuron


def route(mesh: Mesh, source: int, target: int) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Links from core to core, between tiles by column, row and level of the board."""
    at = mesh.position(np.array([source, target]))
    columns, rows = mesh.tile_mesh
    ends = np.stack([at.chip_x * columns + at.tile_x, at.chip_y * rows + at.tile_y, at.chip_z], axis=1).tolist()
    here, links = ends[0], set()
    for axis in range(3):
        while here[axis] != ends[1][axis]:
            there = list(here)
            there[axis] += 1 if ends[1][axis] > here[axis] else -1
            links.add((tuple(here), tuple(there)))
            here = there
    return links


def price(mesh: Mesh, link: tuple[tuple[int, ...], tuple[int, ...]]) -> float:
    """A hop within a chip; one and the crossing to the chip beside; the crossing alone to another level."""
    (x, y, z), (to_x, to_y, to_z) = link
    columns, rows = mesh.tile_mesh
    crossed = (x // columns, y // rows, z) != (to_x // columns, to_y // rows, to_z)
    return (z == to_z) + mesh.chip_hop_cost * crossed


@examples(20)
@given(network=quantized_graphs().filter(lambda network: network.n_neurons <= 30), seed=st.integers(0, 99))
def test_spikes_cross_the_links_of_their_routes_once(network: QuantizedNetwork, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rates = {layer.name: rng.random(layer.n_neurons) for layer in network}
    placement = with_traffic(lay_out(network, BOARD), network, rates)
    placement = placement.moved(rng.permutation(BOARD.cores)[: placement.cores_used])
    mesh, traffic = mesh_of(BOARD), traffic_of(placement)
    home, targets = {}, defaultdict(set)
    for part in placement.slices:
        home.update({(part.layer, n): part.core for n in neurons_of(network, part)})
        for connection in network[part.layer].connections:
            there = unrolled(connection.synapse)[neurons_of(network, part)] != 0
            for n in np.flatnonzero(there.any(axis=0)).tolist() if connection.source != "input" else ():
                targets[connection.source, n].add(part.core)
    expected = 0.0
    for (layer, n), cores in targets.items():
        links = set().union(*(route(mesh, home[layer, n], core) for core in cores))
        expected += rates[layer][n] * sum(price(mesh, link) for link in links)
    assert traffic.multicast_hops() == pytest.approx(expected)
    assert traffic.multicast_hops() <= traffic.spike_hops() + 1e-9


def test_a_spike_with_one_target_crosses_as_many_links_as_hops() -> None:
    network = in_integers(
        layer_of(np.eye(6, dtype=int), name="a", vth=1), layer_of(np.eye(6, dtype=int), name="b", source="a", vth=1)
    )
    placement = with_traffic(lay_out(network, BOARD), network)
    traffic = traffic_of(placement.moved(np.random.default_rng(1).permutation(BOARD.cores)[: placement.cores_used]))
    assert traffic.multicast_hops() == pytest.approx(traffic.spike_hops()) != 0


def test_where_routers_copy_cores_stand_for_the_fewest_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers of 16 neurons, all to all: 24 cores of 2 neurons, two a tile, each with 8 targets."""
    ones = np.ones((16, 16), dtype=int)
    network = in_integers(*(
        layer_of(ones, name=name, source=source, vth=1) for name, source in (("a", "input"), ("b", "a"), ("c", "b"))
    ))  # fmt: skip
    laid = with_traffic(lay_out(network, BOARD), network)
    anywhere = np.random.default_rng(0).permutation(BOARD.cores)[: laid.cores_used]
    monkeypatch.setattr(place, "arrange", lambda *_, **__: anywhere)
    assert arrange_placement(laid).cores == tuple(sorted(anywhere.tolist()))
    shared = traffic_of(arrange_placement(replace(laid, profile=with_values(BOARD, routings=("multicast",)))))
    ways = (anywhere, np.arange(laid.cores_used))
    assert shared.multicast_hops() <= min(traffic_of(laid.moved(way)).multicast_hops() for way in ways)
    assert shared.multicast_hops() < shared.spike_hops()


def test_what_profiles_say_of_copies() -> None:
    network = in_integers(layer_of([[1]], vth=1))
    traffic = traffic_of(with_traffic(lay_out(network, BOARD), network))
    assert traffic.routing == "how this chip sends copies is not known"
    for name, said in (
        ("hala_point", "this chip sends a copy to each core and one for all cores of another chip"),
        ("tiny", "how this chip sends copies is not known"),
    ):
        assert replace(traffic, profile=load_profile(name)).routing == said
