"""Who talks to whom, and how much: against every pair of neurons, looked at one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import examples, with_values
from grammar import graph_jobs, quantized_graphs
from hypothesis import given
from hypothesis import strategies as st
from paper import in_integers, layer_of
from recount import neurons_of, unrolled
from strategies import limits

from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile, Value
from neurodeploy.ir.graph import bias_sources
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.place import lay_out, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.mapping.traffic import ASSUMED_RATE, ENCODINGS, Links, Rates
from neurodeploy.mapping.traffic import links_of as links_between
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region
from neurodeploy.simulation.records import measured_rates
from neurodeploy.targets.simulate import simulate

MakeChip = Callable[..., HardwareProfile]
TINY = load_profile("tiny")


def links_of(placement: Placement, network: QuantizedNetwork, rates: Rates | None = None) -> Links:
    links = with_traffic(placement, network, rates).links
    assert links is not None
    return links


def one_by_one(network: QuantizedNetwork, placement: Placement, rates: Rates) -> list[tuple[int, int, float, float, float]]:
    """Source slice, target slice, spikes, the synapses that they meet and the pairs of neurons that they could, link by link."""
    found = []
    stands = [neurons_of(network, part) for part in placement.slices]
    for target, part in enumerate(placement.slices):
        for connection in network[part.layer].connections:
            there = unrolled(connection.synapse)[stands[target]] != 0
            senders = {n: mine for n, mine in enumerate(stands) if placement.slices[n].layer == connection.source}
            if connection.source == "input":
                senders = {-1: list(range(network.n_inputs))}
            rate = np.broadcast_to(rates[connection.source], there.shape[1])
            for source, neurons in senders.items():
                heard = [n for n in neurons if there[:, n].any()]
                if heard or source == -1:
                    spikes = float(sum(rate[n] for n in heard))
                    synops = float(sum(rate[n] * there[:, n].sum() for n in heard))
                    found.append((source, target, spikes, synops, spikes * len(stands[target])))
    return sorted(found)


def assert_as_one_by_one(network: QuantizedNetwork, placement: Placement, rates: Rates, links: Links) -> None:
    columns = links.source, links.target, links.spikes, links.synops, links.encoding
    said = sorted(zip(*(column.tolist() for column in columns), strict=True))
    expected = one_by_one(network, placement, rates)
    assert [(source, target) for source, target, *_ in said] == [(source, target) for source, target, *_ in expected]
    for (*_, spikes, synops, kind), (*_, all_spikes, met, pairs) in zip(said, expected, strict=True):
        assert spikes == pytest.approx(all_spikes)
        assert synops == pytest.approx(pairs if ENCODINGS[kind] == "dense" and "crossbar" not in _names(placement) else met)


def _names(placement: Placement) -> tuple[str, ...]:
    return placement.profile["encodings"].names


# ---------------------------------------------------------------------------------------------- one by one


@examples(70)
@given(network=quantized_graphs(), numbers=limits(), seed=st.integers(0, 99))
def test_links_are_those_of_the_synapses_one_by_one(
    make_chip: MakeChip, network: QuantizedNetwork, numbers: dict[str, Value | None], seed: int
) -> None:
    """At rates that were measured, at none, and at a spike a neuron and step, on one drawn placement."""
    rng = np.random.default_rng(seed)
    rates = {layer.name: rng.random(layer.n_neurons) for layer in network} | {"input": rng.random(network.n_inputs)}
    placement = lay_out(network, make_chip(**numbers))
    told = with_traffic(placement, network, rates)
    assert (told.slices, told.cores_lower_bound) == (placement.slices, placement.cores_lower_bound)
    assert told.links is not None
    assert told.links.measured
    assert_as_one_by_one(network, placement, rates, told.links)
    fired = [rates[part.layer][neurons_of(network, part)].sum() for part in placement.slices]
    np.testing.assert_allclose(told.links.fired, fired)
    assert_assumed_rate_where_nothing_was_measured(network, placement)
    assert_as_many_messages_as_output_axons(network, placement)


def assert_assumed_rate_where_nothing_was_measured(network: QuantizedNetwork, placement: Placement) -> None:
    links = links_of(placement, network)
    rates = dict.fromkeys([layer.name for layer in network] + ["input"], ASSUMED_RATE)
    # those that supply biases fire at every step
    assert_as_one_by_one(network, placement, rates | dict.fromkeys(bias_sources(network), 1.0), links)
    assert not links.measured


def assert_as_many_messages_as_output_axons(network: QuantizedNetwork, placement: Placement) -> None:
    """At a spike a neuron and step."""
    links = links_of(placement, network, {layer.name: np.array(1.0) for layer in network} | {"input": np.array(1.0)})
    for number, part in enumerate(placement.slices):
        assert links.spikes[links.source == number].sum() == part.output_axons
        if "convolution" not in _names(placement):
            assert links.spikes[links.target == number].sum() == part.usage.input_axons


# ---------------------------------------------------------------------------------------------- on paper


def test_two_layers_on_paper() -> None:
    """Slices a0 a1, b0 b1, b2: a0 is heard by b0 and b2, a1 by b0 and b1.

    Each input fires once in a step, a0 every second step, a1 every fourth.
    """
    network = in_integers(
        layer_of([[1, 1, 1], [0, 1, 1]], name="a", vth=1), layer_of([[1, 1], [0, 1], [1, 0]], name="b", source="a")
    )
    slices = [("a", Region.run(0, 2)), ("b", Region.run(0, 2)), ("b", Region.run(2, 3))]
    chip = with_values(TINY, encodings=("sparse",))
    counts = {layer.name: LayerCount(layer, 8, chip) for layer in network}
    links = links_between(slices, network.layers, counts, {"a": np.array([0.5, 0.25]), "input": np.array(1.0)})
    said = zip(links.source, links.target, links.spikes, links.synops, strict=True)
    assert sorted(said) == [(-1, 0, 3.0, 5.0), (0, 1, 0.75, 0.5 + 0.25 * 2), (0, 2, 0.5, 0.5)]
    assert links.fired.tolist() == [0.75, 2 * ASSUMED_RATE, ASSUMED_RATE]


def test_a_layer_that_was_not_measured_fires_at_the_rate_assumed() -> None:
    network = in_integers(layer_of([[1]], name="a", vth=1), layer_of([[1]], name="b", source="a", vth=1))
    placement = lay_out(network, TINY)
    links = links_of(placement, network, {"a": np.array(0.75)})
    assert sorted(links.fired) == [ASSUMED_RATE, 0.75]
    assert links.measured


def test_a_neuron_that_supplies_biases_fires_at_every_step() -> None:
    a = layer_of([[1]], name="a", vth=1)
    network = in_integers(
        layer_of([[0]], name="bias", vth=1),
        replace(a, connections=(*a.connections, *layer_of([[5]], name="a", source="bias", vth=1).connections)),
    )
    links = links_of(lay_out(network, TINY), network)
    assert sorted(links.fired) == [ASSUMED_RATE, 1.0]
    assert sorted(links.spikes) == [0, ASSUMED_RATE, 1.0]


# ---------------------------------------------------------------------------------------------- what was measured


@examples(40)
@given(job=graph_jobs)
def test_rates_are_spikes_over_samples_and_steps(job: tuple[QuantizedNetwork, Any]) -> None:
    network, spikes = job
    record = simulate(network, spikes, record="all")
    rates = measured_rates(record)
    for layer in network:
        counted = np.zeros(layer.n_neurons)
        for sample in record.spikes[layer.name]:
            for step in range(record.n_steps):
                counted += sample[..., step].reshape(-1)
        np.testing.assert_allclose(rates[layer.name], counted / (record.n_samples * record.n_steps))


def test_a_sum_of_spikes_is_heard_from_each_of_its_sources() -> None:
    """Connections with equal synapses store their lists once; messages and the synapses that they meet are those of each."""
    first, second = (layer_of(np.eye(4, dtype=int), name=name, vth=1) for name in ("first", "second"))
    sum_of = layer_of(2 * np.ones((3, 4), dtype=int), name="sum", source="first", vth=1)
    both = (*sum_of.connections, replace(sum_of.connections[0], source="second"))
    network = QuantizedNetwork(input_shape=(4,), layers=(first, second, replace(sum_of, connections=both)))
    placement = lay_out(network, TINY)
    rates = {name: np.array(0.5) for name in ("input", "first", "second", "sum")}
    assert_as_one_by_one(network, placement, rates, links_of(placement, network, rates))
