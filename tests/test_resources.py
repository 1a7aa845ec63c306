"""What a layer needs, counted three ways: on paper, by a slow recount, and by the published formula written out anew."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import Layer, Network
from neurodeploy.ir.quantized import QuantizedDense, QuantizedLayer, QuantizedLIF
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, Usage, axon_bits, bits_of, count, index_bits, slice_usage, weight_bits

LOIHI1 = load_profile("loihi1")
WEIGHT_BITS = st.sampled_from(LOIHI1["weight_bits"].choices)
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=90))


def published_axon_bits(n_synapses: int, weight_bits: int, index_bits: int) -> int:
    """Bits of one input axon as nengo-loihi has them (``block.py: Synapse.bits``), without delays and tags.

    In blocks of up to 64 synapses, each of n * (weight bits + index bits) + 4 + 6 bits, rounded up to 64-bit units.
    """
    bits = 0
    while n_synapses > 0:
        n = min(64, n_synapses)
        bits += 64 * ceil((n * (weight_bits + index_bits) + 4 + 6) / 64)
        n_synapses -= n
    return bits


def recounted(mask: NDArray[np.bool_], bits: int) -> Usage:
    """The slow way: axon by axon, synapse by synapse, on Loihi 1."""
    n_neurons, n_in = mask.shape
    index = next(width for width in (6, 7, 8, 9, 10, 11, 12) if 2**width >= n_neurons)
    fan_outs = [sum(bool(mask[row, column]) for row in range(n_neurons)) for column in range(n_in)]
    axons = [fan_out for fan_out in fan_outs if fan_out > 0]
    sparse = sum(published_axon_bits(fan_out, bits, index) for fan_out in axons)
    dense = sum(published_axon_bits(n_neurons, bits, 0) for _ in axons)
    return Usage(
        neurons=n_neurons, synapses=sum(axons), synapse_memory_bits=min(sparse, dense), input_axons=len(axons),
        encoding="dense" if dense <= sparse else "sparse",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- on paper


def test_a_layer_small_enough_for_paper(loihi1: HardwareProfile) -> None:
    """Three neurons, four sources; the last source has no synapse, so no axon.

    Dense: an axon is 3 * 8 + 10 = 34 bits, one 64-bit unit. Sparse: 1 * (8 + 6) + 10 = 24 or 2 * 14 + 10 = 38 bits, one
    unit too. Three axons, 192 bits either way, and dense is taken.
    """
    weight = np.array([[5, 0, 1, 0], [0, 2, 0, 0], [7, 0, 0, 0]])
    assert slice_usage(weight, 8, loihi1) == Usage(
        neurons=3, synapses=4, synapse_memory_bits=192, input_axons=3, encoding="dense"
    )


def test_a_thin_layer_is_cheaper_sparse(loihi1: HardwareProfile) -> None:
    """A hundred neurons of two synapses from one source: 2 * (8 + 7) + 10 = 40 -> 64 bits.

    Dense it is a block of 64 * 8 + 10 = 522 -> 576 and one of 36 * 8 + 10 = 298 -> 320 bits.
    """
    weight = np.zeros((100, 1))
    weight[[3, 77]] = 1.0
    assert slice_usage(weight, 8, loihi1) == Usage(
        neurons=100, synapses=2, synapse_memory_bits=64, input_axons=1, encoding="sparse"
    )


def test_a_full_core_of_loihi1_holds_what_its_memory_says(loihi1: HardwareProfile) -> None:
    """A dense axon onto 128 neurons is 2 blocks of 576 bits; 910 of them are the most that 1,048,576 bits hold."""
    memory = loihi1["synapse_memory_bits_per_core"].number
    assert slice_usage(np.ones((128, 910)), 8, loihi1).synapse_memory_bits == 910 * 2 * 576 <= memory
    assert slice_usage(np.ones((128, 911)), 8, loihi1).synapse_memory_bits > memory


def test_no_synapse_needs_nothing(loihi1: HardwareProfile) -> None:
    usage = slice_usage(np.zeros((5, 7)), 8, loihi1)
    assert (usage.synapses, usage.synapse_memory_bits, usage.input_axons) == (0, 0, 0)


# ---------------------------------------------------------------------------------------------- by the published formula


@given(n=st.integers(0, 1024), weight=WEIGHT_BITS, index=st.sampled_from((0, *LOIHI1["index_bits"].choices)))
def test_an_axon_is_as_large_as_published(n: int, weight: int, index: int) -> None:
    assert int(axon_bits(np.array(n), weight, index, LOIHI1)) == published_axon_bits(n, weight, index)


@given(mask=MASKS, bits=WEIGHT_BITS)
def test_a_slice_is_as_large_as_its_slow_recount(mask: NDArray[np.bool_], bits: int) -> None:
    assert slice_usage(mask, bits, LOIHI1) == recounted(mask, bits)


@given(mask=MASKS, bits=WEIGHT_BITS, data=st.data())
def test_any_run_of_neurons_counts_like_the_rows_alone(mask: NDArray[np.bool_], bits: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, mask.shape[0] - 1))
    stop = data.draw(st.integers(start + 1, mask.shape[0]))
    region = Region.run(start, stop)
    count = LayerCount(layer_of(mask), bits, LOIHI1)
    used, alone = count.usage(region), slice_usage(mask[start:stop], bits, LOIHI1)
    assert (used.synapses, used.synapse_memory_bits, used.input_axons, used.encoding) == (
        alone.synapses, alone.synapse_memory_bits, alone.input_axons, alone.encoding
    )  # fmt: skip
    (heard,) = count.sources(region)
    np.testing.assert_array_equal(heard.mask, mask[start:stop].any(axis=0))


# ---------------------------------------------------------------------------------------------- what must never happen


@given(mask=MASKS, bits=WEIGHT_BITS, data=st.data())
def test_pruning_never_raises_usage(mask: NDArray[np.bool_], bits: int, data: st.DataObject) -> None:
    kept = mask & data.draw(hnp.arrays(np.bool_, mask.shape))
    before, after = slice_usage(mask, bits, LOIHI1), slice_usage(kept, bits, LOIHI1)
    assert after.synapses <= before.synapses
    assert after.synapse_memory_bits <= before.synapse_memory_bits
    assert after.input_axons <= before.input_axons


@given(mask=MASKS, narrow=WEIGHT_BITS, wide=WEIGHT_BITS)
def test_wider_weights_never_need_less(mask: NDArray[np.bool_], narrow: int, wide: int) -> None:
    narrow, wide = sorted((narrow, wide))
    assert slice_usage(mask, narrow, LOIHI1).synapse_memory_bits <= slice_usage(mask, wide, LOIHI1).synapse_memory_bits


@given(mask=MASKS, bits=WEIGHT_BITS)
def test_a_cut_layer_never_has_fewer_axons_than_the_whole(mask: NDArray[np.bool_], bits: int) -> None:
    half = mask.shape[0] // 2
    parts = [slice_usage(part, bits, LOIHI1) for part in (mask[:half], mask[half:]) if part.shape[0]]
    whole = slice_usage(mask, bits, LOIHI1)
    assert sum(part.input_axons for part in parts) >= whole.input_axons
    assert sum(part.synapses for part in parts) == whole.synapses


# ---------------------------------------------------------------------------------------------- widths


@pytest.mark.parametrize(("n", "bits"), [(1, 6), (64, 6), (65, 7), (1024, 10), (1025, 11), (4096, 12)])
def test_an_index_tells_its_targets_apart(loihi1: HardwareProfile, n: int, bits: int) -> None:
    assert index_bits(n, loihi1) == bits


@pytest.mark.parametrize(("width", "bits"), [(0, 1), (1, 1), (6, 6), (7, 8), (8, 8)])
def test_a_weight_is_rounded_up_to_a_width_the_chip_has(loihi1: HardwareProfile, width: int, bits: int) -> None:
    assert weight_bits(width, loihi1) == bits


def test_a_weight_wider_than_the_chip_has_is_refused(loihi1: HardwareProfile) -> None:
    with pytest.raises(
        BudgetError, match=r"^weight: 9 bits > 8 \(loihi1\.yaml: weight_bits\)\. Take weights of at most 8 bits\.$"
    ) as caught:
        weight_bits(9, loihi1)
    assert (caught.value.need, caught.value.limit) == (9, 8)


def test_more_targets_than_an_index_can_name_are_refused(tiny: HardwareProfile) -> None:
    with pytest.raises(BudgetError, match=r"^target index: 9 bits > 8 \(tiny\.yaml: index_bits\)\.$"):
        index_bits(257, tiny)


def test_a_slice_is_counted_at_a_width_the_chip_has(loihi1: HardwareProfile) -> None:
    fan_outs = np.array([64])
    assert count(fan_outs, 64, 7, loihi1) == count(fan_outs, 64, 8, loihi1) != count(fan_outs, 64, 6, loihi1)


def test_a_layer_is_counted_at_its_own_width_once_it_has_one(make_network: Callable[..., Network]) -> None:
    quantized = QuantizedLayer(
        name="hidden", shape=(1,), neuron=QuantizedLIF(vth=1, du=0, dv=0), bias=0, scale=1.0,
        connections=(Connection(source="input", synapse=QuantizedDense(weight=np.array([[3]]), weight_bits=4)),),
    )  # fmt: skip
    assert bits_of(quantized, 8) == 4
    assert bits_of(make_network([2, 2]).output, 8) == 8
    assert bits_of(make_network([2, 2]).output, default=5) == 5


def layer_of(mask: NDArray[np.bool_]) -> Layer | QuantizedLayer:
    return QuantizedLayer(
        name="hidden", shape=(mask.shape[0],), neuron=QuantizedLIF(vth=1, du=0, dv=0), bias=0, scale=1.0,
        connections=(Connection(source="input", synapse=QuantizedDense(weight=mask, weight_bits=8)),),
    )  # fmt: skip
