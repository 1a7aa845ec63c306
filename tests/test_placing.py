"""How a network is placed: laid out on the fewest cores, then put where its spikes travel least."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import examples, with_values
from hypothesis import given
from hypothesis import strategies as st
from paper import in_integers, layer_of

from neurodeploy.errors import PlacementError, RequestError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.energy import mesh_of
from neurodeploy.mapping.place import arrange_placement, lay_out, place, with_traffic
from neurodeploy.mapping.placement import Placement

TINY, LOIHI1 = load_profile("tiny"), load_profile("loihi1")
BOARD = with_values(LOIHI1, chips=2, chip_mesh=(2, 1), cores_per_chip=8, cores_per_tile=1, tile_mesh=(4, 2), neurons_per_core=3)
"""Two chips of 4 x 2 cores of three neurons."""


def chain(sizes: list[int], seed: int, connectivity: float = 0.5) -> QuantizedNetwork:
    rng = np.random.default_rng(seed)
    layers = []
    for depth, (n_in, n_out) in enumerate(pairwise(sizes)):
        weight = rng.integers(1, 9, (n_out, n_in)) * (rng.random((n_out, n_in)) < connectivity)
        layers.append(layer_of(weight, name=f"layer{depth}", source=f"layer{depth - 1}" if depth else "input", vth=1))
    return in_integers(*layers)


def hops(placement: Placement) -> float:
    traffic = placement.traffic()
    assert traffic is not None
    return traffic.spike_hops()


@examples(12)
@given(sizes=st.lists(st.integers(1, 12), min_size=3, max_size=4), seed=st.integers(0, 99))
def test_spikes_never_travel_farther_than_as_laid_out(sizes: list[int], seed: int) -> None:
    network = chain(sizes, seed)
    rng = np.random.default_rng(seed)
    rates: dict[str, Any] = {layer.name: rng.random(layer.n_neurons) for layer in network}
    laid = with_traffic(lay_out(network, BOARD), network, rates)
    put = place(network, BOARD, rates=rates, seed=seed)
    assert hops(put) <= hops(laid) + 1e-9
    assert put.cores_used == laid.cores_used
    assert set(put.cores) <= set(range(BOARD.cores))


def test_the_same_seed_gives_the_same_places() -> None:
    network = chain([12, 12, 12, 9], 3)
    assert place(network, BOARD, seed=5) == place(network, BOARD, seed=5)


def test_it_does_gain_something() -> None:
    """A layer that talks to a layer far behind it: in order they stand apart, and need not."""
    first, last = layer_of([[1]], name="a", vth=1), layer_of([[1]], name="z", source="a", vth=1)
    between = [layer_of([[1]], name=f"b{n}", source=source, vth=1) for n, source in enumerate(["input", "b0", "b1", "b2", "b3"])]
    network = in_integers(first, *between, last)
    chip = with_values(BOARD, neurons_per_core=1)
    rates = {"a": np.array(1.0)} | {f"b{n}": np.array(0.0) for n in range(5)}
    laid = with_traffic(lay_out(network, chip), network, rates)
    assert hops(laid) > hops(arrange_placement(laid)) == 1


def test_as_many_chips_as_were_given_are_used() -> None:
    network = chain([9, 9, 9], 1)  # six cores of three neurons
    placement = place(network, BOARD, chips=1)
    assert (placement.cores_available, placement.cores_used, placement.chips_used) == (8, 6, 1)
    assert place(network, BOARD, cores=6).cores_available == 6
    with pytest.raises(PlacementError, match=r"^network: 6 cores > 5 \(cores allowed\).*, or allow 6\.$"):
        place(network, BOARD, cores=5)
    with pytest.raises(PlacementError, match=r"^network: 10 cores > 8 .*, or allow 10\.$"):
        place(chain([3, 30], 1), BOARD, chips=1)
    with pytest.raises(PlacementError, match=r"^network: 20 cores > 16 .*, or take a larger chip\.$"):
        place(chain([3, 60], 1), BOARD)
    with pytest.raises(RequestError, match=r"^chips: 3 is outside 1\.\.2 \(.*\)\. Give 1 to 2 chips, or a profile with more\.$"):
        place(network, BOARD, chips=3)


def test_a_chip_whose_cores_differ_keeps_them_as_laid_out(make_chip: Callable[..., HardwareProfile]) -> None:
    """The second layer has the core that holds it; no other place would."""
    chip = make_chip(cores_per_chip=2, neurons_per_core=(2, 9), cores_per_layer=1, slices_per_core=1)
    network = in_integers(layer_of(np.ones((7, 2)), name="wide", vth=1), layer_of(np.ones((2, 7)), name="thin", source="wide"))
    placement = place(network, chip)
    assert {part.layer: part.core for part in placement.slices} == {"wide": 1, "thin": 0}


def test_what_is_too_large_for_the_board_stays_as_laid_out() -> None:
    network = chain([3, 60], 1)
    laid = with_traffic(lay_out(network, BOARD), network)
    assert arrange_placement(laid) == laid
    assert laid.cores_used > BOARD.cores


def test_nobody_is_asked_where_nobody_talks(make_network: Callable[..., Network]) -> None:
    laid = lay_out(make_network([4, 9, 9]), BOARD)
    assert arrange_placement(laid) == laid


def test_what_is_expected_is_placed_as_what_is_there(make_network: Callable[..., Network]) -> None:
    """Half of the weights, expected or there: about as many spikes meet about half the synapses."""
    network = make_network([20, 30, 10])
    whole, half = (with_traffic(lay_out(network, TINY, connectivity=c), network, connectivity=c).links for c in (1.0, 0.5))
    assert whole is not None
    assert half is not None
    sparse = half.encoding == 1
    assert half.synops[sparse].sum() < whole.synops.sum()
    assert whole.spikes.sum() == pytest.approx(0.1 * (20 + 30))


def test_how_far_it_is_is_told() -> None:
    told: list[float] = []
    place(chain([6, 6, 6], 0), BOARD, progress=told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


def test_what_takes_more_chips_than_it_was_given_is_arranged_on_those_that_it_takes() -> None:
    network = chain([3, 30], 1)  # ten cores, where a chip has eight
    placement = arrange_placement(with_traffic(lay_out(network, BOARD, cores=8), network))
    assert (placement.fits, placement.cores_used, placement.chips_used) == (False, 10, 2)


def test_a_placement_as_a_graph_has_its_cores_and_the_spikes_between_them() -> None:
    network, chip = chain([4, 9, 9, 9], 0), BOARD
    packed = lay_out(network, chip)
    assert list(packed.to_networkx().edges) == []
    placement = with_traffic(packed, network)
    graph, traffic = placement.to_networkx(), placement.traffic()
    assert traffic is not None
    assert list(graph.nodes) == list(placement.cores)
    for core, node in graph.nodes.items():
        assert node["usage"] == placement.on_core(core)
        assert node["chip"] == placement.chip_of(core)
        assert node["slices"] == tuple(part.name for part in placement.slices if part.core == core)
        assert len(node["position"]) == 3
    spikes = sum(edge["spikes"] for _, edge in graph.edges.items())
    assert spikes == pytest.approx(traffic.flow.spikes.sum())
    cost = mesh_of(chip).chip_hop_cost
    travelled = sum(e["spikes"] * (e["hops"] + cost * e["chip_crossings"]) for _, e in graph.edges.items())
    assert travelled == pytest.approx(traffic.spike_hops())
