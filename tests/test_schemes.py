"""How layers are cut: blocks that part a grid evenly, and layers that agree on theirs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from conftest import with_values
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.placement.drawing import Drawing
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.partition import (
    BlockOptions,
    BlockSelection,
    Scheme,
    block_lengths,
    block_options,
    even_cuts,
    longest_fit,
    middle_run,
)
from neurodeploy.mapping.place import counts_of, lay_out
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, bits_of, grid_of, usage_vector

MakeChip = Callable[..., HardwareProfile]
SIDES = st.integers(1, 60)


@given(side=SIDES, block=SIDES)
def test_even_cuts_are_few_and_even(side: int, block: int) -> None:
    cuts = even_cuts(side, block)
    lengths = [stop - start for start, stop in cuts]
    assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts)][:-1]
    assert cuts[-1][1] == side
    assert len(cuts) == math.ceil(side / block)
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= block
    start, stop = middle_run(side, block)
    assert (start, stop) in cuts
    assert stop - start == max(lengths)


@given(side=SIDES, step=st.sampled_from([1.1, 1.5]))
def test_blocks_are_those_of_even_cuts(side: int, step: float) -> None:
    lengths = block_lengths(side, step)
    assert lengths == sorted(set(lengths), reverse=True)
    assert lengths[0] == side
    assert lengths[-1] == 1
    assert all(math.ceil(side / math.ceil(side / length)) == length for length in lengths)


@given(grid=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)), data=st.data())
def test_strips_part_the_grid(grid: tuple[int, int, int], data: st.DataObject) -> None:
    block = tuple(data.draw(st.integers(1, side)) for side in grid)
    scheme = Scheme.of(grid, block)
    covered = np.zeros(grid, dtype=np.int64)
    for strip in scheme.strips():
        assert (strip.start, strip.stop) == (0, grid[scheme.axis])
        covered[strip.region.box] += 1
    assert (covered == 1).all()


def test_a_layer_is_cut_where_most_pieces_stand_in_a_row() -> None:
    scheme = Scheme.of((64, 8, 8), (10, 4, 8))  # 7 x 2 x 1 blocks
    assert (scheme.axis, scheme.block) == (0, (64, 4, 8))
    assert [strip.region.sides for strip in scheme.strips()] == [(64, 4, 8), (64, 4, 8)]


@given(most=st.integers(0, 200), limit=st.integers(0, 250), guess=st.integers(0, 250))
def test_the_longest_is_found_from_any_guess(most: int, limit: int, guess: int) -> None:
    assert longest_fit(lambda n: n <= limit, most, guess) == min(most, limit)


# ---------------------------------------------------------------------------------------------- layers agree


def option(*rows: tuple[int, int, float, float], source: str | None = None) -> BlockOptions:
    """Blocks of (pieces, neurons of each, share of a core, neurons that all pieces hear)."""
    pieces, neurons, own, heard = np.array(rows, dtype=np.float64).T
    return BlockOptions(
        blocks=neurons[:, None].astype(np.int64), pieces=pieces, neurons=neurons, own=np.stack([own, 0 * own], axis=1),
        received={source: heard} if source is not None else {}, peak={source: heard / 100} if source is not None else {},
    )  # fmt: skip


def test_a_layer_takes_more_cores_where_that_spares_its_source_more() -> None:
    """8 pieces fill 4 cores, but then each of 100 neurons has 8 output axons, 20 of which fill a core: 40 cores. 5 pieces: 25."""
    axon = np.array([0.0, 1 / 20])
    second = option((8, 1, 0.5, 800), (5, 1, 1.0, 500), source="first")
    layers = {"first": option((100, 1, 0.01, 0), (10, 10, 0.1, 0)), "second": second}
    chosen = BlockSelection(layers, {"first": 100, "second": 8}, axon).select()
    assert chosen["second"].cores == pytest.approx(5.0)
    assert chosen["first"].block == (1,)
    assert chosen["first"].cores >= 25
    free = BlockSelection(layers, {"first": 100, "second": 8}, np.zeros(2)).select()
    assert free["second"].cores == pytest.approx(4.0)


def drawn(channels: int, side: int) -> QuantizedNetwork:
    drawing = Drawing((4, side, side), seed=1)
    heard = drawing.conv("first", (INPUT,), channels)
    drawing.conv("second", heard, channels)
    return drawing.network()


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_options_are_as_counted(chip: str) -> None:
    """The table that is made of a whole row of blocks at once says of each what counting its middle piece says."""
    profile, network = load_profile(chip), drawn(12, 10)
    counts = counts_of(network.layers, {layer.name: bits_of(layer, 8) for layer in network.layers}, profile)
    layer = network.layers[1]
    options = block_options(counts["second"], grid_of(layer), profile)
    capacity = np.array([profile.capacity(name) for name in lay_out(network, profile).resources])
    for n in range(0, len(options.blocks), 7):
        cut = [middle_run(side, int(block)) for side, block in zip(grid_of(layer), options.blocks[n], strict=True)]
        region = Region(tuple(a for a, _ in cut), tuple(b for _, b in cut))
        assert options.own[n] == pytest.approx(usage_vector(counts["second"].usage(region), 0, profile) / capacity)
        pieces = Scheme(grid=grid_of(layer), block=tuple(options.blocks[n].tolist()), axis=0)
        heard = [counts["second"].n_sources(part.region)["first"] for part in pieces.strips()]
        assert options.received["first"][n] == sum(heard)
        assert options.pieces[n] == len(heard)
        targets = np.zeros((12, 10, 10), dtype=np.int64)
        for strip in pieces.strips():
            for each in counts["second"].sources(strip.region):
                targets[each.box.box] += each.mask
        assert options.peak["first"][n] == targets.max()


# ---------------------------------------------------------------------------------------------- counted once


def test_equal_synapses_of_several_sources_are_stored_once() -> None:
    """A sum of two layers' spikes: the lists once, an axon for each source."""
    profile = with_values(load_profile("loihi2"), neurons_per_core=1000)
    drawing = Drawing((2, 6, 6), seed=0)
    first = drawing.conv("first", (INPUT,), 3)
    second = drawing.conv("second", (INPUT,), 3)
    drawing.conv("sum", first + second, 5)
    drawing.conv("one", second, 5)
    network = drawing.network()
    counts = counts_of(network.layers, dict.fromkeys(("first", "second", "sum", "one"), 8), profile)
    region = Region.whole((5, 6, 6))
    both, single = counts["sum"].usage(region), counts["one"].usage(region)
    entries = single.input_axons * profile["input_axon_bits"].number
    assert both.synapse_memory_bits == single.synapse_memory_bits + entries
    assert (both.input_axons, both.synapses) == (2 * single.input_axons, 2 * single.synapses)
    assert (both.fan_in, both.synapse_formats) == (2 * single.fan_in, 1)
    assert counts["sum"].n_sources(region) == {"first": 108, "second": 108}


@given(seed=st.integers(0, 20), side=st.integers(3, 9), channels=st.integers(1, 9))
def test_layers_of_equal_geometry_count_alike_with_and_without_company(seed: int, side: int, channels: int) -> None:
    network, profile = drawn(channels, side), load_profile("loihi1")
    widths = {layer.name: 8 for layer in network.layers}
    together = counts_of(network.layers, widths, profile)
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        alone = LayerCount(layer, 8, profile)
        starts = [int(rng.integers(0, n)) for n in layer.shape]
        stops = [int(rng.integers(a + 1, n + 1)) for a, n in zip(starts, layer.shape, strict=True)]
        region = Region(tuple(starts), tuple(stops))
        assert alone.usage(region) == together[layer.name].usage(region)
