"""Where networks go: every core recounted from the weights alone, and what is said of what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import strategies
from conftest import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from paper import in_integers, layer_of
from recount import assert_true_to

from neurodeploy.errors import BudgetError, PlacementError, RequestError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Dense, Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.place import lay_out, place
from neurodeploy.passes.quantize import quantize
from neurodeploy.resources.usage import Region

MakeChip = Callable[..., HardwareProfile]
MakeNetwork = Callable[..., Network]

TINY = load_profile("tiny")
SIZES = st.lists(st.integers(1, 50), min_size=2, max_size=5)
CONNECTIVITY = st.sampled_from([0.05, 0.2, 0.6, 1.0])
CHIPS = st.fixed_dictionaries({
    "cores_per_chip": st.integers(1, 12),
    "neurons_per_core": st.integers(1, 40),
    "input_axons_per_core": st.integers(1, 128),
    "output_axons_per_core": st.integers(1, 100),
    "synapse_memory_bits_per_core": st.integers(64, 16_384),
    "memory_unit_bits": st.sampled_from([1, 8, 64]),
    "synapses_per_block": st.sampled_from([4, 60, 64]),
})  # fmt: skip


@given(sizes=SIZES, numbers=CHIPS, connectivity=CONNECTIVITY, seed=st.integers(0, 99))
def test_a_placement_is_as_counted_from_the_weights_alone(
    make_network: MakeNetwork, make_chip: MakeChip, sizes: list[int], numbers: dict[str, int], connectivity: float, seed: int
) -> None:
    network = make_network(sizes, connectivity=connectivity, seed=seed)
    placement = lay_out(network, make_chip(**numbers))
    assert_true_to(network, placement)
    assert placement.cores_used >= placement.cores_lower_bound or not placement.fits


@given(network=strategies.networks() | strategies.quantized_networks(), profile=strategies.profiles(), bits=st.integers(1, 9))
def test_so_it_is_on_any_chip(network: Network | QuantizedNetwork, profile: HardwareProfile, bits: int) -> None:
    try:
        placement = lay_out(network, profile, bits=bits)
    except BudgetError:  # the chip has no weights as wide, or no index as long
        assume(False)
        raise
    assert_true_to(network, placement)
    assert placement.cores_used >= placement.cores_lower_bound or not placement.fits


def test_the_lower_bound_counts_no_rounding_that_a_cut_can_save(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    """92 synapses of an axon take 9 + 4 units as blocks of 64 and 28, but cut into 46 and 46 no more than 6 + 6."""
    placement = lay_out(make_network([1, 92]), make_chip(synapse_memory_bits_per_core=6 * 64))
    assert (placement.cores_used, placement.cores_lower_bound, placement.fits) == (2, 2, True)


@given(sizes=SIZES, numbers=CHIPS, connectivity=CONNECTIVITY, data=st.data())
def test_a_pruned_network_takes_no_core_more_than_where_it_stood(
    make_network: MakeNetwork,
    make_chip: MakeChip,
    sizes: list[int],
    numbers: dict[str, int],
    connectivity: float,
    data: st.DataObject,
) -> None:
    """Laid out afresh it may, rarely: smaller pieces end elsewhere and leave other gaps. Its old cuts still hold it."""
    network, chip = make_network(sizes, connectivity=connectivity), make_chip(**numbers)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    pruned = with_weights(network, [layer.weight * (rng.random(layer.weight.shape) < 0.7) for layer in network])
    before = lay_out(network, chip)
    after = lay_out(pruned, chip, plan=[(part.layer, part.core, part.region) for part in before.slices])
    assert after.cores_used <= before.cores_used or not before.fits
    assert after.cores_lower_bound <= before.cores_lower_bound


# ---------------------------------------------------------------------------------------------- the budget's promise


def with_weights(network: Network, weights: list[NDArray[np.float64]]) -> Network:
    synapses = [replace(layer.connections[0], synapse=Dense(weight=w)) for layer, w in zip(network, weights, strict=True)]
    layers = tuple(replace(layer, connections=(synapse,)) for layer, synapse in zip(network, synapses, strict=True))
    return replace(network, layers=layers)


def pruned_at_random(network: Network, budget: Budget, rng: np.random.Generator) -> Network:
    """Take a fifth of the axons, and of the synapses, from every slice over its budget until none is."""
    while over := list(budget.overruns(network)):
        weights = {layer.name: np.array(layer.weight) for layer in network}
        for part in {overrun.slice for overrun in over}:
            rows = weights[part.layer][part.start : part.stop]
            rows[:, rng.random(rows.shape[1]) < 0.2] = 0
            rows[rng.random(rows.shape) < 0.2] = 0
        network = with_weights(network, list(weights.values()))
    return network


@examples(60)
@given(sizes=SIZES, numbers=CHIPS, connectivity=CONNECTIVITY, seed=st.integers(0, 99))
def test_a_network_within_its_budget_is_placed_within_its_cores(
    make_network: MakeNetwork, make_chip: MakeChip, sizes: list[int], numbers: dict[str, int], connectivity: float, seed: int
) -> None:
    network, chip = make_network(sizes, connectivity=connectivity, seed=seed), make_chip(**numbers)
    try:
        budget = share_budget(network, chip, explain=False)
    except BudgetError:  # no pruning can make it fit
        assume(False)
        raise
    kept = quantize(pruned_at_random(network, budget, np.random.default_rng(seed)), chip)
    placement = place(kept, chip, cores=budget.cores, plan=budget.cuts)
    assert_true_to(kept, placement)
    assert placement.cores_used <= budget.cores


FORKED = in_integers(layer_of([[1]], name="fork", vth=1), layer_of([[1], [1], [0]], name="targets", source="fork"))


def test_a_plan_is_kept_where_laying_closely_would_cut_the_targets_apart(make_chip: MakeChip) -> None:
    """The fork has one output axon. Filled from the end, two targets to a core, cores hold targets 1 and 2, and target 0."""
    chip = make_chip(neurons_per_core=2, output_axons_per_core=1)
    plan = [("fork", 0, Region.run(0, 1)), ("targets", 1, Region.run(0, 2)), ("targets", 2, Region.run(2, 3))]
    with pytest.raises(
        PlacementError, match=r"^layer 'fork': 2 output_axons on core 0 > 1 \(tiny\.yaml: output_axons_per_core\)"
    ):
        place(FORKED, chip)
    placement = place(FORKED, chip, plan=plan)
    assert [(part.layer, part.core, part.region) for part in placement.slices] == plan
    assert_true_to(FORKED, placement)


def test_a_plan_is_not_needed_where_laying_closely_fits() -> None:
    plan = [("fork", 3, Region.run(0, 1)), ("targets", 1, Region.run(0, 2)), ("targets", 2, Region.run(2, 3))]
    assert place(FORKED, TINY, plan=plan) == place(FORKED, TINY)
    assert place(FORKED, TINY).cores_used == 1


@pytest.mark.parametrize("start", [0, 2])
def test_a_plan_for_another_network_is_refused(make_chip: MakeChip, start: int) -> None:
    chip = make_chip(neurons_per_core=2, output_axons_per_core=1)
    plan = [("fork", 0, Region.run(0, 1)), ("targets", 1, Region.run(0, 1)), ("targets", 2, Region.run(start, 3))]
    with pytest.raises(RequestError, match=r"^plan: puts some neurons of layer 'targets' on no core, or on several\.$"):
        place(FORKED, chip, plan=plan)


# ---------------------------------------------------------------------------------------------- on paper


def test_three_layers_on_two_cores_worked_by_hand(make_chip: MakeChip) -> None:
    """Cores of 4 neurons, filled from the end: c0 c1 b1 b2 on the last, b0 a0 a1 on the first.

    Neuron a0 reaches b0, b1 and b2, so two cores; a1 reaches b2 alone; b0 reaches c0, b1 nothing, b2 c0 and c1 on one core.
    A list of n 8-bit synapses takes 8 n + 10 bits; with indices of 6 bits 14 n + 10. Dense, it holds all neurons of the slice.
    So a is cheaper sparse, 2 * 24 to 2 * 26; b0 dense, 18 to 24; b1 b2 and c0 c1 dense, 2 * 26 to 24 + 38.
    """
    network = in_integers(
        layer_of([[5, 0], [0, 7]], name="a", vth=1),
        layer_of([[1, 0], [1, 0], [1, 1]], name="b", source="a", vth=1),
        layer_of([[3, 0, 3], [0, 0, 3]], name="c", source="b"),
    )
    placement = place(network, make_chip(neurons_per_core=4, memory_unit_bits=1))
    where = [(part.core, part.layer, part.region.starts[0], part.region.stops[0], part.output_axons) for part in placement.slices]
    assert where == [(0, "a", 0, 2, 2 + 1), (0, "b", 0, 1, 1), (1, "b", 1, 3, 0 + 1), (1, "c", 0, 2, 0)]
    assert list(placement.on_core(0).items()) == [
        ("neurons", 3), ("synapse_memory_bits", 48 + 18), ("input_axons", 2 + 1), ("output_axons", 3 + 1)
    ]  # fmt: skip
    assert list(placement.on_core(1).items()) == [
        ("neurons", 4), ("synapse_memory_bits", 52 + 52), ("input_axons", 2 + 2), ("output_axons", 1)
    ]  # fmt: skip
    assert list(placement.utilization(1).values()) == [4 / 4, 104 / 16_384, 4 / 128, 1 / 128]
    of_b = placement.of("b")
    assert (of_b.cores, of_b.neurons, of_b.synapses, of_b.input_axons, of_b.output_axons) == (2, 3, 4, 3, 2)
    assert (of_b.synapse_memory_bits, of_b.encoding, of_b.weight_bits) == (18 + 52, "dense", 8)
    assert placement.of("a").encoding == "sparse"
    assert (placement.cores_used, placement.cores_available, placement.cores_lower_bound) == (2, 4, 2)
    assert dict(placement.n_weights) == {layer.name: layer.n_weights for layer in network}
    assert dict(placement.connectivity) == {layer.name: layer.connectivity for layer in network}


def test_slices_of_a_layer_may_be_stored_each_in_its_own_way(make_chip: MakeChip) -> None:
    """Neuron 0 alone is stored dense; of neurons 1 and 2, each with an axon of its own, half a dense store would be zeros."""
    network = in_integers(layer_of([[1, 1], [1, 0], [0, 1]]))
    placement = place(network, make_chip(neurons_per_core=2, memory_unit_bits=1))
    assert [part.usage.encoding for part in placement.slices] == ["dense", "sparse"]
    assert placement.of("only").encoding == "dense+sparse"


def test_the_first_layer_stands_on_the_first_core(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    placement = lay_out(make_network([4, 9, 9, 9]), make_chip(neurons_per_core=4))
    where = [(part.core, part.layer, part.region) for part in placement.slices]
    assert where == sorted(where)
    assert {part.core for part in placement.slices} == set(range(placement.cores_used))


# ---------------------------------------------------------------------------------------------- what does not fit


def test_too_many_cores() -> None:
    network = in_integers(layer_of(np.ones((150, 1))))
    with pytest.raises(
        PlacementError, match=r"^network: 3 cores > 2 .*Of neurons, 'only' takes 100%. Compress it to 2 cores, or allow 3\.$"
    ) as caught:
        place(network, TINY, cores=2)
    error = caught.value
    assert (error.need, error.limit, error.source) == (3, 2, "cores allowed")
    assert place(network, TINY, cores=3).cores_used == 3


@pytest.mark.parametrize(
    ("limits", "resource", "need", "remedy"),
    [
        ({"input_axons_per_core": 9}, "input_axons", 10, "inputs, or sum them over intermediate neurons"),
        ({"synapse_memory_bits_per_core": 639}, "synapse_memory_bits", 640, "inputs, or sum them over intermediate neurons"),
        ({"output_axons_per_core": 1, "neurons_per_core": 2}, "output_axons", 2, "targets"),
    ],
)
def test_a_neuron_too_large_for_a_core_gets_one_to_itself_and_is_named(
    make_chip: MakeChip, limits: dict[str, int], resource: str, need: int, remedy: str
) -> None:
    """Ten inputs to each neuron of the first layer, axons of 64 bits, and three targets on two cores for each spike."""
    network = in_integers(layer_of(np.ones((1, 10)), name="big", vth=1), layer_of(np.ones((3, 1)), name="small", source="big"))
    chip = make_chip(**limits)
    placement = lay_out(network, chip)
    (alone,) = (part for part in placement.slices if part.layer == "big")
    assert [part.core for part in placement.slices].count(alone.core) == 1
    with pytest.raises(
        PlacementError, match=rf"This slice is a single neuron and cannot be cut further: prune its {remedy}\.$"
    ) as caught:
        place(network, chip)
    error, limit = caught.value, limits[f"{resource}_per_core"]
    assert (error.where, error.what, error.need, error.limit) == ("layer 'big'", f"{resource} on core {alone.core}", need, limit)
    assert error.source == f"tiny.yaml: {resource}_per_core"


@pytest.mark.parametrize("cores", [0, -1, 5])
def test_cores_that_the_chip_does_not_have(cores: int) -> None:
    said = rf"^cores: {cores} is outside 1\.\.4 \(tiny\.yaml: cores_per_chip\)\. Give 1 to 4 cores, or a profile with more\.$"
    with pytest.raises(RequestError, match=said):
        place(FORKED, TINY, cores=cores)
