"""How far spikes travel and what a step costs: against a slow router, a counted run, and sums on paper."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import examples, with_values
from grammar import quantized_graphs
from hypothesis import given
from hypothesis import strategies as st
from paper import in_integers, layer_of
from recount import neurons_of, unrolled

from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.energy import Traffic, figures_of, mesh_of, unpriced
from neurodeploy.mapping.place import lay_out, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.simulation.records import measured_rates
from neurodeploy.targets.simulate import random_spikes, simulate

TINY, LOIHI1, KAPOHO_BAY = (load_profile(name) for name in ("tiny", "loihi1", "kapoho_bay"))
BOARD = with_values(
    LOIHI1, chips=3, chip_mesh=(3, 1), cores_per_chip=12, cores_per_tile=2, tile_mesh=(3, 2), neurons_per_core=2,
    weight_bits=tuple(range(1, 10)),
)  # fmt: skip
"""Three chips side by side, each of 3 x 2 tiles of 2 cores of 2 neurons, with the figures of Loihi 1."""


def traffic_of(placement: Placement) -> Traffic:
    traffic = placement.traffic()
    assert traffic is not None
    return traffic


def shuffled(placement: Placement, seed: int) -> Placement:
    """The same slices on cores drawn at random from all of the board."""
    cores = np.random.default_rng(seed).permutation(placement.profile.cores)[: placement.cores_used]
    return placement.moved(cores)


def tile(core: int) -> tuple[int, int, int]:
    """The chip of `BOARD` that a core is on, and the column and row of its tile there."""
    chip, on_chip = divmod(core, 12)
    return chip, on_chip // 2 % 3, on_chip // 2 // 3


def routed(placement: Placement) -> tuple[Counter[tuple[int, int, int, int]], float, float]:
    """Spikes over each link, step by step along the row and then the column; spikes x hops; spikes that leave their chip.

    Chips adjoin: between two of them a spike crosses the columns on its way, and pays 8 hops more for each border.
    """
    loads: Counter[tuple[int, int, int, int]] = Counter()
    links = placement.links
    assert links is not None
    hops = leaving = 0.0
    for source, target, spikes in zip(links.source, links.target, links.spikes, strict=True):
        if source < 0:
            continue
        (chip, x, y), (there, to_x, to_y) = (tile(placement.slices[n].core) for n in (source, target))
        hops += spikes * (abs(3 * chip + x - 3 * there - to_x) + abs(y - to_y) + 8 * abs(chip - there))
        leaving += spikes * (chip != there)
        while chip == there and (x, y) != (to_x, to_y):
            move = (1, 0) if x < to_x else (-1, 0) if x > to_x else (0, 1) if y < to_y else (0, -1)
            loads[chip, y, x, [(1, 0), (-1, 0), (0, 1), (0, -1)].index(move)] += spikes
            x, y = x + move[0], y + move[1]
    return loads, hops, leaving


@st.composite
def placed(draw: st.DrawFn) -> tuple[QuantizedNetwork, Placement]:
    """A network somewhere on the board, with rates of its own for every neuron."""
    network = draw(quantized_graphs().filter(lambda network: network.n_neurons <= 40))
    seed = draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    rates = {layer.name: rng.random(layer.n_neurons) for layer in network}
    return network, shuffled(with_traffic(lay_out(network, BOARD), network, rates), seed)


# ---------------------------------------------------------------------------------------------- against a slow router


@examples(60)
@given(job=placed(), seed=st.integers(0, 99))
def test_traffic_is_a_slow_routers_and_moving_keeps_all_else(job: tuple[QuantizedNetwork, Placement], seed: int) -> None:
    """One drawn placement for the three: to lay it out takes longer than to look at it."""
    _network, placement = job
    assert_loads_are_a_slow_routers(placement)
    assert_flow_is_what_cores_send(placement)
    assert_moving_keeps_everything_but_the_cores(placement, seed)


def assert_loads_are_a_slow_routers(placement: Placement) -> None:
    traffic = traffic_of(placement)
    loads, hops, leaving = routed(placement)
    expected = np.zeros((3, 2, 3, 4))
    for at, spikes in loads.items():
        expected[at] = spikes
    used = np.unique([tile(piece.core)[0] for piece in placement.slices])
    np.testing.assert_allclose(traffic.on_links(), expected[used], atol=1e-9)
    assert traffic.spike_hops() == pytest.approx(hops)
    assert traffic.between_chips() == pytest.approx(leaving)


def test_a_spike_goes_along_its_row_and_then_along_its_column() -> None:
    """From tile (0, 1), core 6, to tile (2, 0), core 4: east over (0, 1) and (1, 1), then north over (2, 1)."""
    network = in_integers(layer_of([[1]], name="a", vth=1), layer_of([[1]], name="b", source="a", vth=1))
    apart = with_values(BOARD, neurons_per_core=1)
    placement = with_traffic(lay_out(network, apart), network, {"a": np.array(0.5)}).moved(np.array([6, 4]))
    loads = traffic_of(placement).on_links()
    assert {tuple(at): loads[tuple(at)] for at in np.argwhere(loads).tolist()} == {
        (0, 1, 0, 0): 0.5, (0, 1, 1, 0): 0.5, (0, 1, 2, 3): 0.5,
    }  # fmt: skip
    assert traffic_of(placement).spike_hops() == 0.5 * 3


def assert_flow_is_what_cores_send(placement: Placement) -> None:
    links, flow = placement.links, traffic_of(placement).flow
    assert links is not None
    expected: Counter[tuple[int, int]] = Counter()
    for source, target, spikes in zip(links.source, links.target, links.spikes, strict=True):
        if source >= 0:
            expected[placement.slices[source].core, placement.slices[target].core] += spikes
    cores = placement.cores
    said = {(cores[a], cores[b]): n for a, b, n in zip(flow.source, flow.target, flow.spikes, strict=True)}
    assert said == pytest.approx(dict(expected))


def assert_moving_keeps_everything_but_the_cores(placement: Placement, seed: int) -> None:
    moved = shuffled(placement, seed)
    assert [part.core for part in moved.slices] == sorted(part.core for part in moved.slices)
    assert sorted(map(_without_core, moved.slices), key=str) == sorted(map(_without_core, placement.slices), key=str)
    assert _told(moved) == pytest.approx(_told(placement))
    before, after = traffic_of(placement), traffic_of(moved)
    for name in ("synops_dense", "synops_sparse", "synops_convolution", "neuron_accesses", "spikes"):
        assert getattr(after.events(), name).sum() == pytest.approx(getattr(before.events(), name).sum())
    assert (moved.cores_used, moved.cores_lower_bound) == (placement.cores_used, placement.cores_lower_bound)
    assert sorted(map(str, map(moved.on_core, moved.cores))) == sorted(map(str, map(placement.on_core, placement.cores)))


def _without_core(part: Any) -> Any:
    return replace(part, core=0)


def _told(placement: Placement) -> dict[tuple[str, str, int], float]:
    """Spikes by the names of the slices that they go between, and the kind of list."""
    links, told = placement.links, Counter[tuple[str, str, int]]()
    assert links is not None
    for source, target, spikes, kind in zip(links.source, links.target, links.spikes, links.encoding, strict=True):
        told["input" if source < 0 else placement.slices[source].name, placement.slices[target].name, int(kind)] += spikes
    return dict(told)


# ---------------------------------------------------------------------------------------------- against a counted run


def counted_run(network: QuantizedNetwork, placement: Placement, record: Any, spikes: Any) -> dict[str, Any]:
    """What happens on each core in an average step: every spike of every sample and step, followed to its synapses."""
    place = {core: n for n, core in enumerate(placement.cores)}
    totals = {name: np.zeros(len(place)) for name in ("spikes", "messages_in", "messages_out", "synops")}
    hops, steps = 0.0, record.n_samples * record.n_steps
    fired = {name: np.moveaxis(array, -1, 1).reshape(steps, -1) for name, array in record.spikes.items()}
    fired["input"] = np.moveaxis(spikes, -1, 1).reshape(steps, -1)
    stands = [neurons_of(network, part) for part in placement.slices]
    home = {(part.layer, n): part.core for part, mine in zip(placement.slices, stands, strict=True) for n in mine}
    for part, mine in zip(placement.slices, stands, strict=True):
        totals["spikes"][place[part.core]] += fired[part.layer][:, mine].sum()
        for connection in network[part.layer].connections:
            there = unrolled(connection.synapse)[mine] != 0
            for neuron in np.flatnonzero(there.any(axis=0)):
                n = fired[connection.source][:, neuron].sum()
                totals["messages_in"][place[part.core]] += n
                totals["synops"][place[part.core]] += n * there[:, neuron].sum()
                if connection.source != "input":
                    sender = home[connection.source, int(neuron)]
                    totals["messages_out"][place[sender]] += n
                    (chip, x, y), (to_chip, to_x, to_y) = tile(sender), tile(part.core)
                    hops += n * (abs(3 * chip + x - 3 * to_chip - to_x) + abs(y - to_y))
    return {name: total / steps for name, total in totals.items()} | {"hops": hops / steps}


@pytest.mark.parametrize("seed", range(4))
def test_events_are_those_of_a_run_counted_spike_by_spike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(-20, 40, (9, 12)) * (rng.random((9, 12)) < 0.6) * 2
    again = rng.integers(-20, 20, (9, 9)) * (rng.random((9, 9)) < 0.4) * 2
    last = rng.integers(-20, 40, (5, 9)) * (rng.random((5, 9)) < 0.5) * 2
    hidden, back = layer_of(first, name="a", vth=30), layer_of(again, name="a", source="a", vth=30)
    hidden = replace(hidden, connections=hidden.connections + back.connections)
    readout, skip = layer_of(last, name="b", source="a", vth=40), layer_of(np.eye(5, 12, dtype=int) * 30, name="b", vth=1)
    readout = replace(readout, connections=readout.connections + skip.connections)
    network = QuantizedNetwork(input_shape=(12,), layers=(hidden, readout))
    spikes = random_spikes((12,), n_samples=3, n_steps=20, seed=seed)
    record = simulate(network, spikes, record="all")
    rates = {**measured_rates(record), "input": spikes.mean(axis=(0, 2))}
    sparse = with_values(BOARD, encodings=("sparse",))
    placement = shuffled(with_traffic(lay_out(network, sparse), network, rates), seed)
    events, counted = traffic_of(placement).events(), counted_run(network, placement, record, spikes)
    assert record.rates()["a"] > 0
    np.testing.assert_allclose(events.spikes, counted["spikes"])
    np.testing.assert_allclose(events.messages_in, counted["messages_in"])
    np.testing.assert_allclose(events.messages_out, counted["messages_out"])
    np.testing.assert_allclose(events.synops_sparse, counted["synops"])
    hops = events.flow_messages @ (events.flow_hops_east_west + events.flow_hops_north_south)
    assert hops == pytest.approx(counted["hops"])
    assert (events.synops_dense.sum(), events.synops_convolution.sum()) == (0, 0)
    assert events.neuron_accesses.tolist() == [placement.on_core(core)["neurons"] for core in placement.cores]
    assert events.tiles_used == len({tile(core) for core in placement.cores})


# ---------------------------------------------------------------------------------------------- what it costs


def test_a_chip_without_figures_gives_no_estimate() -> None:
    network = in_integers(layer_of([[1]], vth=1))
    assert traffic_of(with_traffic(lay_out(network, TINY), network)).estimate() is None
    assert lay_out(network, TINY).traffic() is None
    assert set(unpriced(TINY)) > {"synop_sparse", "neuron_update"}
    assert unpriced(KAPOHO_BAY) == ("hop_between_chips",)


@examples(40)
@given(job=placed())
def test_energy_is_the_sum_of_what_every_event_takes(job: tuple[QuantizedNetwork, Placement]) -> None:
    _network, placement = job
    estimate, events = traffic_of(placement).estimate(), traffic_of(placement).events()
    assert estimate is not None
    price = {event: BOARD[f"{event}_energy"].figure * 1e-12 for event in events.by_kind() if f"{event}_energy" in BOARD}
    expected = {event: float(n.sum()) * price.get(event, 0.0) for event, n in events.by_kind().items()}
    assert estimate.energy_j_by_kind == pytest.approx(expected)
    assert estimate.energy_j == pytest.approx(sum(expected.values()))


def test_figures_are_those_of_the_profile_in_joules_and_seconds() -> None:
    figures = figures_of(LOIHI1)
    assert figures is not None
    assert (figures.synop_dense.energy_j, figures.synop_dense.time_s) == pytest.approx((35.5e-12, 3.8e-9))
    assert (figures.hop_north_south.energy_j, figures.hop_between_chips.energy_j) == pytest.approx((4.2e-12, 0.0))
    assert figures.sync_tiles == (1, 2, 4, 29)
    assert figures.sync_time_s == pytest.approx((0.6e-6, 1.0e-6, 1.4e-6, 1.8e-6))
    untimed = figures_of(with_values(LOIHI1, sync_tiles=None, sync_time=None))
    assert untimed is not None
    assert untimed.sync_s(32) == 0


@pytest.mark.parametrize(("chip", "n_cores"), [(KAPOHO_BAY, 256), (TINY, 4), (BOARD, 36)])
def test_the_mesh_of_a_board_has_all_its_cores(chip: HardwareProfile, n_cores: int) -> None:
    assert mesh_of(chip).n_cores == n_cores
