"""Pieces that share cores: how they are cut and packed, and how many cores are estimated for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import examples, with_values
from hypothesis import given
from hypothesis import strategies as st
from recount import assert_true_to

from benchmarks.placement.drawing import Drawing
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping import place as layout
from neurodeploy.mapping.core_estimate import estimate_cores
from neurodeploy.mapping.packing import FanOut, best_fit_decreasing, cut_layer
from neurodeploy.mapping.place import counts_of, lay_out
from neurodeploy.resources.usage import grid_of, limited_resources

MakeChip = Callable[..., HardwareProfile]


def three_convolutions() -> QuantizedNetwork:
    drawing = Drawing((2, 8, 8), seed=0)
    heard = drawing.conv("conv2", drawing.conv("conv1", (INPUT,), 12), 16)
    drawing.conv("conv3", heard, 20, stride=2)
    return drawing.network()


def small() -> HardwareProfile:
    return with_values(load_profile("loihi2"), memory_bits_per_core=40_000)


@given(needs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_packed_pieces_fit_and_leave_no_two_cores_that_one_could_be(needs: list[tuple[int, int]]) -> None:
    table, capacity = np.array(needs), np.array([10, 10])
    cores = best_fit_decreasing(table, capacity)
    used = np.stack([table[cores == core].sum(axis=0) for core in range(cores.max() + 1)])
    assert (used <= capacity).all()
    both = used[:, None] + used
    assert (both > capacity).any(axis=2)[~np.eye(len(used), dtype=np.bool_)].all()


def test_the_largest_choose_first_and_the_small_fill_what_is_left() -> None:
    needs = np.array([[3], [7], [4], [6], [5], [5]])
    cores = best_fit_decreasing(needs, np.array([10]))
    assert cores.max() == 2
    assert [cores[0], cores[2], cores[4]] == [cores[1], cores[3], cores[5]]


@pytest.mark.parametrize("block", [(20, 4, 4), (1, 4, 4), (7, 4, 1), (3, 3, 3)])
def test_cut_pieces_part_the_layer_and_fit_a_core(block: tuple[int, int, int]) -> None:
    network, profile = three_convolutions(), small()
    counts = counts_of(network.layers, {layer.name: 8 for layer in network.layers}, profile)
    layer = network["conv3"]
    counter = FanOut(network.layers, counts, profile).counter(layer)
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    regions, covered = cut_layer(counter, block, capacity), np.zeros(grid_of(layer), dtype=np.int64)
    for region in regions:
        covered[region.box] += 1
        assert (counter.needs(region) <= capacity).all()
    assert (covered == 1).all()


@examples(50)
@given(sizes=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 30)), min_size=1, max_size=6))
def test_estimated_cores_are_those_of_the_fullest_core_that_holds_each_piece(sizes: list[tuple[int, int]]) -> None:
    left: list[int] = []
    for size in sorted((size for size, n in sizes for _ in range(n)), reverse=True):
        holds = [room for room in left if room >= size]
        if holds:
            left.remove(min(holds))
        left.append((min(holds) if holds else 100) - size)
    shares, pieces = np.array(sizes).T
    assert estimate_cores(shares / 100, pieces) == pytest.approx(len(left), abs=1 + len(left) // 20)


def test_cutting_first_takes_fewer_cores_and_is_recounted(monkeypatch: pytest.MonkeyPatch) -> None:
    network, profile = three_convolutions(), small()
    ours = lay_out(network, profile)
    assert_true_to(network, ours)
    monkeypatch.setattr(layout, "MAX_ANNEALED_LAYERS", 0)
    assert ours.cores_used <= lay_out(network, profile).cores_used
