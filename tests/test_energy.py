"""What a step costs: worked on paper, and what no network can change."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper import in_integers, layer_of

from benchmarks.loihi2_energy import ratios
from neurodeploy.errors import NetworkError, ProfileError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.mapping.energy import OUTSIDE, EventCost, Figures, StepEstimate, StepEvents, estimate_step
from neurodeploy.mapping.place import lay_out, with_traffic
from neurodeploy.report.summary import board_json
from neurodeploy.report.text import traffic_lines

LOIHI2 = load_profile("loihi2")

ROUND = Figures(  # a joule's digits say which events there were: 1 dense synop, 10 accesses, ...
    synop_dense=EventCost(energy_j=1, time_s=10),
    synop_sparse=EventCost(energy_j=1, time_s=11),
    synop_convolution=EventCost(energy_j=1, time_s=9),
    neuron_access=EventCost(energy_j=10, time_s=5),
    neuron_update=EventCost(energy_j=100, time_s=4),
    neuron_spike=EventCost(energy_j=1000, time_s=30),
    message_in=EventCost(energy_j=0, time_s=16),
    message_out=EventCost(energy_j=10_000, time_s=6),
    hop_east_west=EventCost(energy_j=100_000, time_s=3),
    hop_north_south=EventCost(energy_j=1_000_000, time_s=7),
    hop_between_chips=EventCost(energy_j=10_000_000, time_s=50),
    sync_tiles=(1, 2, 4),
    sync_time_s=(600, 1000, 1400),
)
PER_CORE = ("synops_dense", "synops_sparse", "synops_convolution", "neuron_accesses", "neuron_updates", "spikes")
PER_FLOW = ("flow_messages", "flow_hops_east_west", "flow_hops_north_south", "flow_hops_between_chips")


def events(n_cores: int, flows: list[tuple[int, int]], *, tiles_used: int = 1, **counts: Any) -> StepEvents:
    """Events that are zero unless told."""
    fields: dict[str, Any] = {name: np.zeros(n_cores) for name in PER_CORE} | {name: np.zeros(len(flows)) for name in PER_FLOW}
    source, target = np.array(flows, dtype=np.int64).reshape(-1, 2).T
    return StepEvents(**fields | counts, flow_source=source, flow_target=target, tiles_used=tiles_used)


def on_paper(**changed: Any) -> StepEvents:
    """Three neurons on two cores two tiles apart: both of core 0 fire, onto the one of core 1 by 2 dense synapses."""
    told = {
        "neuron_accesses": [2, 1], "neuron_updates": [2, 0], "spikes": [2, 0], "synops_dense": [0, 2],
        "flow_messages": [2], "flow_hops_east_west": [1], "flow_hops_north_south": [1], "tiles_used": 2,
    }  # fmt: skip
    return events(2, [(0, 1)], **told | changed)


def test_three_neurons_on_two_cores_on_paper() -> None:
    estimate = estimate_step(on_paper(), ROUND)
    # energy: 2 synops, 3 accesses, 2 updates, 2 spikes, 2 messages out, 2 hops each way
    assert estimate.energy_j == 2 + 3 * 10 + 2 * 100 + 2 * 1000 + 2 * 10_000 + 2 * 100_000 + 2 * 1_000_000 == 2_222_232
    # core 0 sends: 2 x (5 + 4 + 30 + 6) = 90; core 1 accesses 5, receives 2 x (16 + 10) = 52; way 3 + 7; 2 tiles 1000
    assert (estimate.busiest_core, estimate.sending_s, estimate.receiving_s) == (0, 90, 0)
    assert (estimate.flight_s, estimate.sync_s, estimate.time_s) == (10, 1000, 1100)


def test_the_busiest_core_is_the_one_that_takes_longest_not_the_one_that_spends_most() -> None:
    estimate = estimate_step(on_paper(synops_dense=[0, 20]), ROUND)  # core 1 receives 2 x 16 + 20 x 10 = 232
    assert (estimate.busiest_core, estimate.sending_s, estimate.receiving_s, estimate.time_s) == (1, 5, 232, 1242)


def test_each_kind_of_synapse_has_its_price() -> None:
    for name, kind, time in (("synops_sparse", "synop_sparse", 11), ("synops_convolution", "synop_convolution", 9)):
        estimate = estimate_step(events(1, [], **{name: [4]}), ROUND)
        assert (estimate.energy_j_by_kind[kind], estimate.energy_j, estimate.receiving_s) == (4, 4, 4 * time)


def test_a_silent_network_pays_for_its_neurons_and_for_the_end_of_the_step() -> None:
    estimate = estimate_step(events(2, [], neuron_accesses=[3, 4], neuron_updates=[1, 0]), ROUND)
    assert {kind: joules for kind, joules in estimate.energy_j_by_kind.items() if joules} == {
        "neuron_access": 70,
        "neuron_update": 100,
    }
    assert estimate.time_s == 4 * 5 + 600


def test_nothing_costs_nothing() -> None:
    estimate = estimate_step(events(0, [], tiles_used=0), ROUND)
    assert (estimate.energy_j, estimate.time_s, estimate.busiest_core) == (0, 0, -1)


def test_input_from_outside_costs_its_target_alone() -> None:
    estimate = estimate_step(events(1, [(OUTSIDE, 0)], flow_messages=[3]), ROUND)
    assert estimate.energy_j_by_kind["message_out"] == 0
    assert (estimate.sending_s, estimate.receiving_s) == (0, 3 * 16)


def test_a_flow_seen_in_one_step_of_ten_lengthens_the_average_by_a_tenth_of_its_way() -> None:
    estimate = estimate_step(on_paper(flow_messages=[0.1], flow_hops_between_chips=[1]), ROUND)
    assert estimate.flight_s == pytest.approx(0.1 * (3 + 7 + 50))


@pytest.mark.parametrize(("tiles", "time"), [(0, 0), (1, 600), (2, 1000), (3, 1000), (4, 1400), (32, 1400)])
def test_synchronisation_takes_the_last_entry_that_the_tiles_reach(tiles: int, time: float) -> None:
    assert ROUND.sync_s(tiles) == time


counts = st.lists(st.floats(0, 1000), min_size=3, max_size=3)
hops = st.lists(st.integers(0, 7), min_size=2, max_size=2)


@st.composite
def any_events(draw: st.DrawFn) -> StepEvents:
    told = {name: draw(counts) for name in PER_CORE} | {name: draw(hops) for name in PER_FLOW}
    return events(3, [(0, 1), (OUTSIDE, 2)], tiles_used=draw(st.integers(1, 32)), **told)


@given(any_events(), st.sampled_from([*PER_CORE, *PER_FLOW]), st.integers(1, 5))
def test_more_of_anything_is_never_cheaper_or_faster(some: StepEvents, name: str, more: int) -> None:
    less, greater = (estimate_step(step, ROUND) for step in (some, replace(some, **{name: getattr(some, name) + more})))
    assert greater.energy_j >= less.energy_j
    assert greater.time_s >= less.time_s


@given(any_events(), any_events())
def test_energy_adds_up_over_kinds_and_steps_and_time_lies_between_the_race_and_the_queue(a: StepEvents, b: StepEvents) -> None:
    def estimate(step: StepEvents) -> StepEstimate:
        return estimate_step(step, ROUND)

    b = replace(b, **{name: getattr(a, name) for name in PER_FLOW if "hops" in name}, tiles_used=a.tiles_used)
    both = replace(a, **{name: getattr(a, name) + getattr(b, name) for name in (*PER_CORE, "flow_messages")})
    assert estimate(both).energy_j == pytest.approx(estimate(a).energy_j + estimate(b).energy_j)
    assert estimate(both).energy_j == pytest.approx(sum(estimate(both).energy_j_by_kind.values()))
    in_turn = estimate(a).time_s + estimate(b).time_s
    assert max(estimate(a).time_s, estimate(b).time_s) - 1e-6 <= estimate(both).time_s <= in_turn + 1e-6


@given(any_events())
def test_messages_are_counted_at_both_ends(some: StepEvents) -> None:
    assert some.messages_out.tolist() == [some.flow_messages[0], 0, 0]
    assert some.messages_in.tolist() == [0, some.flow_messages[0], some.flow_messages[1]]


def test_events_compare_by_value_and_cannot_be_changed() -> None:
    assert on_paper() == on_paper()
    assert on_paper() != on_paper(tiles_used=3)
    with pytest.raises(ValueError, match="read-only"):
        on_paper().spikes[0] = 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spikes": [1, 2, 3]}, r"StepEvents\.synops_dense: has shape \(2,\), not \(3,\)"),
        ({"flow_messages": [1, 2]}, r"StepEvents\.flow_source: has shape \(1,\), not \(2,\)"),
        ({"neuron_updates": [-1, 0]}, r"StepEvents\.neuron_updates: -1\.0 is outside 0\.\.inf"),
        ({"flow_hops_east_west": [0.5]}, r"StepEvents\.flow_hops_east_west: is not whole numbers"),
    ],
)
def test_events_that_cannot_be_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        on_paper(**changed)


@pytest.mark.parametrize("flow", [(-2, 0), (0, -1), (0, 2)])
def test_a_flow_goes_from_core_to_core(flow: tuple[int, int]) -> None:
    with pytest.raises(NetworkError, match=r"StepEvents\.flow_(source|target): -?\d is outside -?\d\.\.1"):
        events(2, [flow], flow_messages=[1])


def test_a_cost_below_zero_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"EventCost: -1 J and 0 s are not both finite and 0 or more"):
        EventCost(energy_j=-1, time_s=0)


@pytest.mark.parametrize(("tiles", "times"), [((), ()), ((2, 4), (1, 2)), ((1, 4, 2), (1, 2, 3)), ((1, 2), (1,))])
def test_a_synchronisation_table_that_is_none_is_refused(tiles: tuple[int, ...], times: tuple[float, ...]) -> None:
    with pytest.raises(ProfileError, match="has to ascend from 1 tile, with one sync_time_s for each"):
        replace(ROUND, sync_tiles=tiles, sync_time_s=times)


# -------------------------------------------------------------------------------- Loihi 2: ranges of assumed figures


def test_the_ranges_of_loihi2_are_those_of_what_intel_measured() -> None:
    """`benchmarks.loihi2_energy` has the measurements; the profile rounds what follows to two digits."""
    energies, times = ratios("loihi2")
    assert LOIHI2["energy_range"].factors == (float(f"{min(energies):.2g}"), float(f"{max(energies):.2g}"))
    # Intel's factors are its highest, so a step takes at least as long as they make it
    assert LOIHI2["time_range"].factors == (1, float(f"{max(times):.2g}"))
    assert min(times) > 1


def test_the_figures_of_loihi2_are_those_of_loihi1_by_the_factors_of_intels_brief() -> None:
    faster = {"synop": 5, "neuron_access": 2, "neuron_update": 2, "neuron_spike": 10}
    for limit in load_profile("loihi1"):
        event, _, quantity = limit.key.rpartition("_")
        if event == "sync" or quantity not in ("energy", "time"):
            continue
        factor = next((by for begin, by in faster.items() if event.startswith(begin) and quantity == "time"), 1)
        assert LOIHI2[limit.key].figure == pytest.approx(limit.figure / factor, abs=5e-4)
        assert LOIHI2[limit.key].assumed


def test_a_range_is_told_with_the_estimate_and_that_it_is_assumed() -> None:
    network = in_integers(layer_of([[1] * 8] * 8, vth=1))
    placement = with_traffic(lay_out(network, LOIHI2), network)
    traffic = placement.traffic()
    assert traffic is not None
    cost = traffic.estimate()
    assert cost is not None
    assert cost.is_assumed
    assert cost.energy_range_j == (0.48 * cost.energy_j, 1.6 * cost.energy_j)
    assert cost.time_range_s == (cost.time_s, 2.4 * cost.time_s)
    said = list(traffic_lines(placement))[1]
    assert re.match(
        r"Estimate per step: \S+ uJ \(\S+ to \S+\) and \S+ us \(\S+ to \S+\); of the energy .* Assumed: as on Loihi 1", said
    )
    told = board_json(placement)["estimate"]
    assert (told["energy_range_j"], told["time_range_s"], told["assumed"]) == (cost.energy_range_j, cost.time_range_s, True)


def test_figures_that_are_published_have_no_range() -> None:
    network = in_integers(layer_of([[1]], vth=1))
    traffic = with_traffic(lay_out(network, load_profile("loihi1")), network).traffic()
    assert traffic is not None
    cost = traffic.estimate()
    assert cost is not None
    assert (cost.is_assumed, cost.energy_range_j, cost.time_range_s) == (False, None, None)


@pytest.mark.parametrize(
    "value", ["1", "[1]", "[0.5, 1.5, 2]", "[1.1, 2]", "[0.5, 0.9]", "[-1, 2]", "[.nan, 2]", "[yes, 2]", "[a, 2]"]
)
def test_a_range_that_is_not_two_factors_around_1_is_refused(value: str, tmp_path: Path) -> None:
    text = f'name: x\ndescription: x\nextends: loihi2\nenergy_range: {{value: {value}, unit: factors, assumption: "a test"}}\n'
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError, match=r"energy_range.*Give two factors: one from 0 to 1, and one of 1 or more"):
        load_profile(tmp_path / "x.yaml")
