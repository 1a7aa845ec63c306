"""How the level is found at which all layers fit: roughly first, where there are many slices to lay."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_values
from norse.torch import LICell, LIFCell, SequentialState

from benchmarks.placement.drawing import Drawing
from neurodeploy.errors import BudgetError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping import allocation as plan
from neurodeploy.mapping import channel_counts
from neurodeploy.mapping.allocation import PrunedLayerCount, Unpruned, count_cores, share_budget
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.mapping.partition import block_options, middle_run
from neurodeploy.mapping.place import pack_layers
from neurodeploy.passes.quantize import dequantize
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, grid_of, limited_resources


def test_networks_of_many_slices_are_laid_in_all_ways_only_near_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing((40,), seed=0)
    drawing.dense("fc3", drawing.dense("fc2", drawing.dense("fc1", (INPUT,), 90), 70), 10)
    network, profile = drawing.network(), with_values(load_profile("loihi2"), memory_bits_per_core=12_000)
    thorough = share_budget(network, profile, cores=19)
    ways: list[bool] = []

    def laid(*args: Any, is_quick: bool = False, pack_layers: Any = plan.pack_layers, **options: Any) -> Any:
        ways.append(is_quick)
        return pack_layers(*args, is_quick=is_quick, **options)

    monkeypatch.setattr(plan, "pack_layers", laid)
    monkeypatch.setattr(plan, "MANY_SLICES", 0)
    roughly = share_budget(network, profile, cores=19)
    kept = [sum(layer.synapse_memory_bits for layer in budget.layers) for budget in (thorough, roughly)]
    assert 0.97 * kept[0] < kept[1] < 1.03 * kept[0]
    assert 0.5 < min(layer.kept for layer in roughly.layers) < 1
    assert ways.count(False) <= 6 < ways.count(True)


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_what_blocks_take_at_a_share_is_what_the_plan_counts(chip: str) -> None:
    drawing, profile = Drawing((3, 12, 12), seed=0), load_profile(chip)
    drawing.conv("conv2", drawing.conv("conv1", (INPUT,), 8), 12)
    layer = drawing.network().layers[1]
    pruned = PrunedLayerCount(LayerCount(layer, 8, profile, connectivity=1.0), 0.3)
    options = block_options(pruned, grid_of(layer), profile)
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    for n in range(0, len(options.blocks), 7):
        cut = [middle_run(side, int(block)) for side, block in zip(grid_of(layer), options.blocks[n], strict=True)]
        region = Region(tuple(a for a, _ in cut), tuple(b for _, b in cut))
        assert options.own[n] == pytest.approx(pruned.usage_vector(region) / capacity, abs=1e-5)


def test_a_neuron_that_brings_a_bias_and_hears_nobody_needs_no_room_for_synapses() -> None:
    model = SequentialState(torch.nn.Linear(64, 40), LIFCell(), torch.nn.Linear(40, 10, bias=False), LICell())
    network = extract(model, torch.zeros(1, 64))
    assert network.layers[0].name == "bias"
    for chip in ("loihi1", "loihi2"):
        budget = share_budget(network, load_profile(chip), cores=1)
        assert [layer.kept for layer in budget.layers] == [1, 1, 1]
        budget.check(network)


def test_layers_in_narrower_weights_are_shared_out_in_these() -> None:
    """As `lay_out` counts them, and as they will be stored: no budget of 8 bits asks less of weights of 4."""
    drawing = Drawing((40,), seed=0)
    drawing.dense("fc2", drawing.dense("fc1", (INPUT,), 90), 70)
    wide, profile = drawing.network(), load_profile("loihi2")
    layers = []
    for layer in wide.layers:
        (connection,) = layer.connections
        synapse = replace(connection.synapse, weight=np.where(connection.synapse.weight > 0, 2, -2), weight_bits=4)
        layers.append(replace(layer, connections=(replace(connection, synapse=synapse),)))
    narrow = replace(wide, layers=tuple(layers))
    assert [layer.weight_bits for layer in share_budget(narrow, profile).layers] == [4, 4]
    assert [layer.weight_bits for layer in share_budget(narrow, profile, bits=2).layers] == [2, 2]
    assert [layer.weight_bits for layer in share_budget(wide, profile).layers] == [8, 8]


@cache
def four_convolutions() -> QuantizedNetwork:
    drawing = Drawing((64, 8, 8), seed=0)
    heard = drawing.conv("conv1", (INPUT,), 64)
    for k in range(2, 5):
        heard = drawing.conv(f"conv{k}", heard, 64)
    return drawing.network()


@cache
def unpruned_convolutions() -> tuple[Unpruned, HardwareProfile]:
    """The four of them laid out once, on cores that hold a part of one."""
    profile = with_values(load_profile("loihi2"), memory_bits_per_core=330_000)
    return Unpruned(four_convolutions(), profile, 8), profile


def test_no_core_stays_empty_while_layers_are_compressed() -> None:
    """Whole, the layers' output axons alone would fill the cores that there are; compressed, they are cut less, and send less."""
    unpruned, profile = unpruned_convolutions()
    budget = share_budget(four_convolutions(), profile, cores=20, unpruned=unpruned)
    assert {part.core for part in budget.slices} == set(range(20))
    assert min(layer.kept for layer in budget.layers) > 0


def test_where_neurons_and_axons_alone_are_too_much_the_error_says_for_how_many_cores_they_are_not() -> None:
    network, profile = four_convolutions(), with_values(load_profile("loihi2"), memory_bits_per_core=265_000)
    with pytest.raises(
        BudgetError, match="cores for the neurons, axons and one synapse a slice that remain however much is pruned > 4 "
    ) as caught:
        share_budget(network, profile, cores=4, unpruned=(unpruned := Unpruned(network, profile, 8)))
    error = caught.value
    # they are equal but for their sources: which of them takes most cores depends on how they are packed
    assert error.where.startswith("layer 'conv")
    assert (error.limit, error.source) == (4, "loihi2.yaml: memory_bits_per_core")
    assert error.need is not None
    assert error.remedy == f"Allow {error.need} cores or remove neurons."
    assert share_budget(network, profile, cores=int(error.need), unpruned=unpruned)
    with pytest.raises(BudgetError, match=r"Use a chip with at least .* cores \(loihi2 has .*\) or remove neurons\.$"):
        share_budget(network, with_values(profile, cores_per_chip=4), cores=4)


def test_a_layout_that_is_enough_is_taken_as_it_is() -> None:
    unpruned, profile = unpruned_convolutions()
    best = count_cores(unpruned.slices)
    ways: list[int] = []
    for enough in (1, best, best + 3):
        slices = pack_layers(unpruned.layers, profile, unpruned.counts, enough=enough)
        ways.append(count_cores(slices))
    assert ways[:2] == [best, best]
    assert best <= ways[2] <= best + 3


def test_what_is_far_too_large_is_laid_in_one_way_before_it_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is as good: what the layers need whole says only in which proportion they are compressed."""
    network, (laid_out, profile) = four_convolutions(), unpruned_convolutions()
    thorough = share_budget(network, profile, cores=30, unpruned=laid_out)
    monkeypatch.setattr(plan, "MANY_SLICES", 10)
    unpruned = Unpruned(network, profile, 8)
    roughly = share_budget(network, profile, cores=30, unpruned=unpruned)
    assert "slices" not in vars(unpruned)
    kept = [sum(layer.synapse_memory_bits for layer in budget.layers) for budget in (thorough, roughly)]
    assert kept[1] > 0.95 * kept[0]


def test_numbers_of_channels_are_compared_roughly_where_slices_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One budget alone is made in all ways, and it is about as good as the best of budgets that all are."""
    monkeypatch.setattr(channel_counts, "LEVEL_FRACTIONS", (1.0, 0.5))
    drawn, profile = four_convolutions(), unpruned_convolutions()[1]
    network = dequantize(replace(drawn, layers=tuple(replace(layer, scale=np.ones(())) for layer in drawn)))
    thorough = narrow_budget(network, profile, cores=12)
    refined: list[bool] = []

    def planned(*args: Any, is_coarse: bool = False, plan_slices: Any = plan.plan_slices) -> Any:
        refined.append(not is_coarse)
        return plan_slices(*args, is_coarse=is_coarse)

    monkeypatch.setattr(plan, "MANY_SLICES", 10)
    monkeypatch.setattr(plan, "plan_slices", planned)
    roughly = narrow_budget(network, profile, cores=12)
    assert refined.count(True) == 1 < len(refined)
    kept = [sum(layer.synapse_memory_bits for layer in budget.layers) for budget in (thorough, roughly)]
    assert kept[1] > 0.9 * kept[0]
