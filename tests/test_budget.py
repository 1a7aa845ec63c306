"""Budgets: whoever keeps within the slices fits the chip, counted here without the package's own counting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError, RequestError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import Dense, Network
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.budget import Budget, SliceBudget
from neurodeploy.mapping.place import lay_out
from neurodeploy.resources.usage import slice_usage

MakeNetwork, MakeChip = Callable[..., Network], Callable[..., HardwareProfile]

TINY, LOIHI1 = load_profile("tiny"), load_profile("loihi1")
SIZES = st.lists(st.integers(1, 60), min_size=2, max_size=5)
CHIPS = st.fixed_dictionaries({
    "cores_per_chip": st.integers(1, 8), "neurons_per_core": st.integers(8, 64), "input_axons_per_core": st.integers(4, 128),
    "output_axons_per_core": st.integers(4, 200), "synapse_memory_bits_per_core": st.integers(256, 16_384),
    "memory_unit_bits": st.sampled_from([1, 8, 64]),
})  # fmt: skip


def shared(network: Network, chip: HardwareProfile) -> Budget | None:
    """A budget, or None where the chip is too small for any."""
    try:
        return share_budget(network, chip, explain=False)
    except BudgetError:
        return None


def stored_bits(mask: NDArray[np.bool_], chip: HardwareProfile, width: int) -> int:
    """Memory of a slice by the formula of the data sheet, synapse lists one by one, the cheaper encoding."""
    index = next(bits for bits in chip["index_bits"].choices if 2**bits >= mask.shape[0])
    unit, block, header = chip["memory_unit_bits"].number, chip["synapses_per_block"].number, chip["block_header_bits"].number

    def list_bits(n: int, synapse: int) -> int:
        blocks = [min(block, n - first) for first in range(0, n, block)]
        return sum(unit * ceil((size * synapse + header) / unit) for size in blocks)

    fan_outs = [int(n) for n in mask.sum(axis=0) if n]
    return min(sum(list_bits(n, width + index) for n in fan_outs), len(fan_outs) * list_bits(mask.shape[0], width))


def overfull(network: Network, budget: Budget) -> list[str]:
    """What the chip cannot hold of a network cut into the budget's slices, counted pair by pair."""
    chip = budget.profile
    core_of = {(part.layer, n): part.core for part in budget.slices for n in range(part.start, part.stop)}
    neurons, memory = [0] * budget.cores, [0] * budget.cores
    inputs, outputs = [0] * budget.cores, [0] * budget.cores
    for layer in network:
        present = layer.weight != 0
        for part in budget.of(layer.name):
            rows = present[part.start : part.stop]
            neurons[part.core] += part.neurons
            memory[part.core] += stored_bits(rows, chip, budget.weight_bits)
            for source in np.flatnonzero(rows.any(axis=0)):
                inputs[part.core] += 1
                if layer.connections[0].source != "input":
                    outputs[core_of[layer.connections[0].source, int(source)]] += 1
    limits = {
        "neurons": (neurons, chip["neurons_per_core"]),
        "memory": (memory, chip["synapse_memory_bits_per_core"]),
        "input axons": (inputs, chip["input_axons_per_core"]),
        "output axons": (outputs, chip["output_axons_per_core"]),
    }
    return [
        f"{what} of core {core}: {used[core]} > {limit.number}"
        for what, (used, limit) in limits.items()
        for core in range(budget.cores)
        if used[core] > limit.number
    ]


def pruned_into(network: Network, budget: Budget) -> Network:
    """The plainest pruning there is: drop sources past the caps, then synapses one by one until the memory is enough."""
    layers = []
    for layer in network:
        weight = np.array(layer.weight)
        for part in budget.of(layer.name):
            rows = weight[part.start : part.stop]
            for cap in part.sources:
                rows[:, cap.start + cap.axons : cap.stop] = 0
            used = np.flatnonzero(rows.any(axis=0))
            rows[:, used[part.input_axons :]] = 0
            while stored_bits(rows != 0, budget.profile, budget.weight_bits) > part.synapse_memory_bits:
                row, column = np.argwhere(rows)[-1]
                rows[row, column] = 0
        connection = layer.connections[0]
        layers.append(replace(layer, connections=(Connection(source=connection.source, synapse=Dense(weight=weight)),)))
    return replace(network, layers=tuple(layers))


# ---------------------------------------------------------------------------------------------- the promise


def network_within_slices_fits(network: Network, budget: Budget) -> None:
    pruned = pruned_into(network, budget)
    budget.check(pruned)
    assert overfull(pruned, budget) == []


def slices_add_up_to_no_more_than_a_core_has(budget: Budget) -> None:
    chip = budget.profile
    for core in range(budget.cores):
        here = [part for part in budget.slices if part.core == core]
        assert sum(part.neurons for part in here) <= chip["neurons_per_core"].number
        assert sum(part.synapse_memory_bits for part in here) <= chip["synapse_memory_bits_per_core"].number
        assert sum(part.input_axons for part in here) <= chip["input_axons_per_core"].number
        sent = sum(
            cap.axons
            for source in here
            for part in budget.slices
            for cap in part.sources
            if source_of(part) == source.layer and (cap.start, cap.stop) == (source.start, source.stop)
        )
        assert sent <= chip["output_axons_per_core"].number


def source_of(part: SliceBudget) -> str:
    """The layer before: `make_network` counts its layers from 1."""
    return f"layer{int(part.layer.removeprefix('layer')) - 1}"


def every_neuron_stands_on_one_core_and_every_source_under_one_cap(network: Network, budget: Budget) -> None:
    for layer in network:
        slices = budget.of(layer.name)
        assert [n for part in slices for n in range(part.start, part.stop)] == list(range(layer.n_neurons))
        for part in slices:
            assert 0 <= part.core < budget.cores
            assert [n for cap in part.sources for n in range(cap.start, cap.stop)] == list(range(layer.weight.shape[1]))
            assert all(0 <= cap.axons <= cap.stop - cap.start for cap in part.sources)


def every_slice_has_room_for_a_synapse(budget: Budget) -> None:
    for part in budget.slices:
        single = np.zeros((part.neurons, 1))
        single[0] = 1
        assert slice_usage(single, budget.weight_bits, budget.profile).synapse_memory_bits <= part.synapse_memory_bits
        assert part.input_axons >= 1
        assert sum(cap.axons for cap in part.sources) >= part.input_axons


def a_layers_budget_is_the_sum_of_its_slices(network: Network, budget: Budget) -> None:
    for layer, mine in zip(network, budget.layers, strict=True):
        slices = budget.of(layer.name)
        assert (mine.layer, mine.neurons) == (layer.name, layer.n_neurons)
        assert mine.cores == len({part.core for part in slices})
        assert mine.synapse_memory_bits == sum(part.synapse_memory_bits for part in slices)
        assert mine.input_axons == sum(part.input_axons for part in slices)
        assert mine.synapses <= layer.weight.size
        resources = {overrun.resource for overrun in budget.overruns(network) if overrun.slice.layer == layer.name}
        assert (mine.binds in resources) if mine.binds else resources <= {"output_axons"}


@given(sizes=SIZES, numbers=CHIPS, seed=st.integers(0, 99), connectivity=st.sampled_from([0.1, 0.5, 1.0]))
@example(sizes=[1, 5, 11, 32, 2], seed=0, connectivity=1.0, numbers={
    # a slice has less memory than it needs, on a core with room for all of its slices
    "cores_per_chip": 4, "neurons_per_core": 14, "input_axons_per_core": 10, "output_axons_per_core": 4,
    "synapse_memory_bits_per_core": 1679, "memory_unit_bits": 1,
})  # fmt: skip
def test_a_budget_keeps_its_promises(
    make_network: MakeNetwork, make_chip: MakeChip, sizes: list[int], numbers: dict[str, int], seed: int, connectivity: float
) -> None:
    """One drawn budget for all of them: to share it out takes longer than to look at it."""
    network, whole = (make_network(sizes, seed=seed, connectivity=share) for share in (connectivity, 1.0))
    if (budget := shared(network, make_chip(**numbers))) is not None:
        network_within_slices_fits(network, budget)
        slices_add_up_to_no_more_than_a_core_has(budget)
        every_neuron_stands_on_one_core_and_every_source_under_one_cap(network, budget)
        every_slice_has_room_for_a_synapse(budget)
        a_layers_budget_is_the_sum_of_its_slices(whole, budget)


# ---------------------------------------------------------------------------------------------- what is shared, and how


@given(sizes=SIZES)
def test_where_nothing_binds_the_network_is_kept_whole_on_as_few_cores_as_hold_it(
    make_network: MakeNetwork, sizes: list[int]
) -> None:
    """Loihi 1 has room for any of these on one core."""
    network = make_network(sizes)
    budget = share_budget(network, LOIHI1)
    assert list(budget.overruns(network)) == []
    assert {part.core for part in budget.slices} == {0}
    assert all(layer.binds == "" for layer in budget.layers)


def test_it_is_printed_as_a_line_a_layer(make_network: MakeNetwork) -> None:
    lines = str(share_budget(make_network([64, 500, 500, 10]), load_profile("loihi2"), cores=1)).splitlines()
    assert lines[0] == "Budget: 1 core of loihi2, 8-bit weights"
    assert len(lines) == 4
    assert lines[2].startswith("layer2: 500 neurons on 1 core, may keep ")
    assert lines[2].endswith(" of its synapse memory; binds: synapse_memory_bits")


def test_neurons_alone_decide_where_memory_is_plenty(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    chip = make_chip(synapse_memory_bits_per_core=1 << 20, input_axons_per_core=4096, output_axons_per_core=4096)
    cut = [(part.name, part.core) for part in share_budget(make_network([10, 100, 60]), chip).slices]
    assert cut == [("layer1[0:32]", 0), ("layer1[32:96]", 1), ("layer1[96:100]", 2), ("layer2[0:60]", 2)]


def test_a_network_that_fits_the_chip_unpruned_is_not_asked_to_prune_axons(
    make_network: MakeNetwork, make_chip: MakeChip
) -> None:
    """Three layers of 100 inputs would share the 128 input axons of one core; there are cores for each."""
    network = make_network([100, 30, 30, 30])
    chip = make_chip(synapse_memory_bits_per_core=1 << 20)
    budget = share_budget(network, chip)
    assert list(budget.overruns(network)) == []


def test_a_small_readout_is_kept_whole_while_a_large_layer_is_pruned(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    network = make_network([64, 100, 10])
    budget = share_budget(network, make_chip(input_axons_per_core=256))
    hidden, readout = budget.layers
    assert (hidden.binds, readout.binds) == ("synapse_memory_bits", "")


def test_fewer_cores_leave_less(make_network: MakeNetwork) -> None:
    network = make_network([64, 60, 10])
    given_bits = [sum(part.synapse_memory_bits for part in share_budget(network, TINY, cores=n).slices) for n in (2, 3, 4)]
    assert given_bits == sorted(given_bits)
    assert share_budget(network, TINY, cores=2).cores == 2
    assert share_budget(network, TINY).cores == TINY.cores


def test_narrower_weights_leave_room_for_more(make_network: MakeNetwork) -> None:
    network = make_network([64, 100, 10])
    at_8, at_4, at_7 = (share_budget(network, TINY, bits=bits) for bits in (8, 4, 7))
    assert at_4.layers[0].synapses > at_8.layers[0].synapses
    assert at_7.weight_bits == 8  # tiny has no 7


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("cores", [0, -1, 5])
def test_cores_the_chip_does_not_have_are_refused(make_network: MakeNetwork, cores: int) -> None:
    with pytest.raises(
        RequestError, match=rf"^cores: {cores} is outside 1\.\.4 \(tiny\.yaml: cores_per_chip\)\. Give 1 to 4 cores"
    ):
        share_budget(make_network([4, 3]), TINY, cores=cores)


def test_too_many_neurons_are_nothing_that_pruning_helps(make_network: MakeNetwork) -> None:
    with pytest.raises(BudgetError, match=r"Pruning synapses does not help\. Allow 3 cores or remove neurons\.$") as caught:
        share_budget(make_network([4, 150, 10]), TINY, cores=2)
    error = caught.value
    assert (error.where, error.need, error.limit, error.source) == ("layer 'layer1'", 160, 128, "tiny.yaml: neurons_per_core")


def test_an_overrun_says_what_to_do(make_network: MakeNetwork) -> None:
    network = make_network([64, 60, 10])
    budget = share_budget(network, TINY, cores=2)
    first = next(budget.overruns(network))
    with pytest.raises(
        BudgetError, match=r"synapse_memory_bits of neurons 0\.\..* Prune \d+% more, or allow more than 2 cores\.$"
    ) as caught:
        budget.check(network)
    error = caught.value
    assert error.where == "layer 'layer1'"
    assert (error.need, error.limit) == (first.need, first.limit)
    assert error.source == "tiny.yaml: synapse_memory_bits_per_core"
    assert first.need == slice_usage(network.layers[0].weight[: first.slice.stop], 8, TINY).synapse_memory_bits


@pytest.mark.parametrize(("resource", "limit"), [("input_axons", 20), ("output_axons", 12)])
def test_axons_overrun_too(make_network: MakeNetwork, make_chip: MakeChip, resource: str, limit: int) -> None:
    chip = make_chip(**{f"{resource}_per_core": limit, "synapse_memory_bits_per_core": 1 << 20, "cores_per_chip": 2})
    network = make_network([15, 40, 40])
    budget = share_budget(network, chip)
    assert resource in {overrun.resource for overrun in budget.overruns(network)}
    error = next(overrun for overrun in budget.overruns(network) if overrun.resource == resource).error(budget)
    assert str(error).startswith(f"layer '{error.where[7:-1]}': {error.need} {resource} of neurons ")
    assert error.source == f"tiny.yaml: {resource}_per_core"


def test_a_core_of_the_plan_is_found_on_the_board(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    network, chip = make_network([40, 50, 5]), make_chip()
    plan = share_budget(network, chip)
    laid_out = lay_out(network, chip, plan=plan.cuts)
    moved = laid_out.moved(np.array(laid_out.cores)[::-1])
    assert [plan.core_in(moved, core) for core in laid_out.cores] == list(laid_out.cores)[::-1]
