"""What a convolution's window needs: on paper, by nengo-loihi's published algorithm, and by its synapses one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import examples
from grammar import images, windows
from hypothesis import assume, given
from hypothesis import strategies as st
from shared_lists import published_bits, shared_bits

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.connectivity import ConvWiring
from neurodeploy.ir.network import Conv
from neurodeploy.resources.convolution_lists import Window
from neurodeploy.resources.usage import Formula, Region

LOIHI1 = load_profile("loihi1")
WIDTHS = st.sampled_from(LOIHI1["weight_bits"].choices)
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def window(conv: ConvWiring, chip: HardwareProfile = LOIHI1, bits: int = 8) -> Window:
    return Window(conv, Formula.of(chip, bits), chip)


def memory(conv: ConvWiring, chip: HardwareProfile = LOIHI1, bits: int = 8) -> int:
    return window(conv, chip, bits).count(Region.whole(conv.output_shape))[0]


def distinct(*shape: int) -> Any:
    """A kernel of which no weight is zero and no two are equal."""
    return np.arange(1.0, np.prod(shape) + 1).reshape(shape)


def part_of(grid: tuple[int, ...], data: st.DataObject) -> Region:
    ends = [sorted(data.draw(st.sets(st.integers(0, side), min_size=2, max_size=2))) for side in grid]
    return Region(tuple(a for a, _ in ends), tuple(b for _, b in ends))


# ---------------------------------------------------------------------------------------------- on paper


def test_no_two_pixels_of_a_small_image_meet_the_window_alike() -> None:
    """3 x 3 on 4 x 4: input rows 0..3 are met by 1, 2, 2, 1 rows of the kernel, each time others, and so are columns.

    So there are 16 lists: 4 of 1 synapse, 8 of 2, 4 of 4. The farthest target is a row of 2 and a column on, index 3: 6 bits.
    Lists of 1 and 2 take 14 + 10 and 28 + 10 bits, a unit; those of 4 take 56 + 10, two.
    """
    assert memory(Conv(weight=distinct(1, 1, 3, 3), input_shape=(1, 4, 4))) == 12 * 64 + 4 * 128 == 1280


def test_pixels_of_the_interior_share_a_list() -> None:
    """A row of 100 pixels and a window of 3: only the two at either end are met otherwise; sizes 1, 2, 3, 2, 1, a unit each."""
    used = window(Conv(weight=distinct(1, 1, 1, 3), input_shape=(1, 1, 100))).count(Region.whole((1, 1, 98)))
    assert used == (5 * 64, 100, 98 * 3)


def test_a_list_holds_all_channels_one_after_another() -> None:
    """One place, 40 channels onto 2 filters: 80 synapses of 8 + 6 bits, in blocks of 64 and 16: 906 and 234 bits."""
    assert memory(Conv(weight=distinct(2, 40, 1, 1), input_shape=(40, 5, 5))) == 15 * 64 + 4 * 64


def test_an_offset_beyond_256_goes_into_the_indices() -> None:
    """300 pixels with a target each: those from 256 on need a list of their own, and its index, 256, is of 9 bits."""
    assert memory(Conv(weight=distinct(1, 64, 1, 1), input_shape=(64, 1, 256))) == 64 * 9  # no index: 64 * 8 + 10 bits
    assert memory(Conv(weight=distinct(1, 64, 1, 1), input_shape=(64, 1, 300))) == 2 * 64 * 18  # 64 * (8 + 9) + 10 bits


def test_an_index_is_as_long_as_the_largest_that_there_is() -> None:
    """Three filters of 2 x 180 outputs, numbered filters first: filter 2 begins at 720.

    Offsets from 256 on are of the second row, from which a list reaches 2 columns on: 256 + 2 + 720 is the largest index, 10
    bits. (From the first row it reaches 182 on, but with an offset of 0.) Synapses of 18 bits: a list of 3 takes 64 bits, of
    6 128, of 9 192, of 12 256, of 18 384. The image's rows are met by 1, 2, 1 rows of the kernel, its columns by 1, 2, 3, 2, 1.
    """
    conv = Conv(weight=distinct(3, 1, 2, 3), input_shape=(1, 3, 182))
    first_row, middle_row = 64 + 128 + 192 + 128 + 64, 128 + 256 + 384 + 256 + 128
    last_row = (64 + 128 + 192) + (192 + 128 + 64)  # below 256, and from there on
    assert memory(conv) == first_row + middle_row + last_row == 2496


def test_neurons_are_numbered_channels_first_or_last_as_takes_less(make_chip: Callable[..., HardwareProfile]) -> None:
    """70 filters of 2 x 1 pixels, a window of one pixel: channels last, a list reaches 70 neurons, 7 bits; first, 139, 8 bits."""
    chip = make_chip(memory_unit_bits=1, axon_base_neurons=256)
    conv = Conv(weight=distinct(70, 1, 1, 1), input_shape=(1, 2, 1))
    assert memory(conv, chip) == 70 * (8 + 7) + 2 * 10


def test_a_numbering_that_no_index_can_hold_is_not_taken(make_chip: Callable[..., HardwareProfile]) -> None:
    """Channels first the last of 3 filters stands at 400 and more, beyond 8 bits; channels last, 2 neurons on."""
    chip = make_chip(memory_unit_bits=1)
    assert memory(Conv(weight=distinct(3, 1, 1, 1), input_shape=(1, 1, 200)), chip) == 3 * (8 + 6) + 10


def test_more_targets_than_any_numbering_can_name_are_refused(make_chip: Callable[..., HardwareProfile]) -> None:
    with pytest.raises(BudgetError, match=r"^target index: 10 bits > 8 \(tiny\.yaml: index_bits\)\.$"):
        memory(Conv(weight=distinct(300, 1, 1, 1), input_shape=(1, 1, 2)), make_chip())


def test_the_equal_rows_of_a_pool_share_lists() -> None:
    """Sum over 2 x 2, no overlap: whichever pixel of the four it is, it has one synapse of the same weight: one list in all."""
    pool = {"input_shape": (1, 6, 6), "stride": (2, 2)}
    assert memory(Conv(weight=np.ones((1, 1, 2, 2)), **pool)) == 64
    assert memory(Conv(weight=distinct(1, 1, 2, 2), **pool)) == 4 * 64


def test_a_channel_of_zeros_takes_as_much_of_a_list_as_the_others() -> None:
    """Two channels onto 3 filters, one of which nobody hears: 2 * 3 synapses of 14 bits are stored, 3 exist."""
    weight = distinct(3, 2, 1, 1)
    weight[:, 1] = 0
    assert window(Conv(weight=weight, input_shape=(2, 1, 1))).count(Region.whole((3, 1, 1))) == (128, 1, 3)


# ---------------------------------------------------------------------------------------------- by the published algorithm


@examples(150)
@given(
    filters=st.integers(1, 12), channels=st.integers(1, 5), kernel=PAIRS | st.tuples(st.integers(1, 5), st.integers(1, 5)),
    more=st.tuples(st.integers(0, 18), st.integers(0, 18)), stride=PAIRS, bits=WIDTHS, data=st.data(),
)  # fmt: skip
def test_memory_is_bit_for_bit_as_nengo_loihi_published_it(
    filters: int, channels: int, kernel: tuple[int, int], more: tuple[int, int], stride: tuple[int, int], bits: int, data: Any
) -> None:
    image = kernel[0] + more[0], kernel[1] + more[1]
    padding = data.draw(st.integers(0, kernel[0] - 1)), data.draw(st.integers(0, kernel[1] - 1))
    shape = (filters, channels, *kernel)
    conv = Conv(weight=distinct(*shape), input_shape=(channels, *image), stride=stride, padding=padding)
    assume(conv.n_out <= 4096)  # what an index of 12 bits can name
    assert memory(conv, bits=bits) == published_bits(shape, image, stride, padding, bits)


# ---------------------------------------------------------------------------------------------- by its synapses one by one


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    """Kernels with strides, padding, dilation and groups; with zeros among the weights, and rows alike."""
    _kind, wiring, shape = draw(windows(draw(images)))
    few = st.sampled_from([0.0, 1.0, 2.0])
    weight = np.array(draw(st.lists(few, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
    return Conv(weight=weight.reshape(shape), **wiring)


@st.composite
def chips(draw: st.DrawFn, make_chip: Callable[..., HardwareProfile]) -> HardwareProfile:
    return make_chip(
        axon_base_neurons=draw(st.sampled_from([1, 2, 5, 256])), memory_unit_bits=draw(st.sampled_from([1, 64])),
        synapses_per_block=draw(st.integers(1, 9)), index_bits=(1, 2, 3, 4, 5, 6, 7, 8, 12),
    )  # fmt: skip


@examples(200)
@given(conv=convolutions(), data=st.data())
def test_any_region_is_counted_as_by_its_synapses_one_by_one(
    make_chip: Callable[..., HardwareProfile], conv: Conv, data: st.DataObject
) -> None:
    """Regions are counted one after another, as the parts of a layer are: none may be taken for another."""
    chip, present = data.draw(chips(make_chip)), conv.matrix() != 0
    counted = window(conv, chip, 5)
    for _ in range(3):
        region = part_of(conv.output_shape, data)
        rows = present[region.neurons(conv.output_shape)]
        pixels = rows.any(axis=0).reshape(conv.input_shape[0], -1).any(axis=0)
        expected = shared_bits(conv, region, 5, chip), int(pixels.sum()), int(rows.sum())
        assert counted.count(region) == expected
        box, mask = counted.reached(region)
        heard = np.zeros(conv.input_shape, dtype=bool)
        heard[box.box] = mask
        np.testing.assert_array_equal(heard.reshape(-1), rows.any(axis=0))


def test_outputs_that_see_only_padding_tell_regions_apart(make_chip: Callable[..., HardwareProfile]) -> None:
    """Two filters over 1 x 6 pixels and padding of 1: columns 1..6 see a pixel, column 7 none.

    Numbered channels first, the second filter stands 6 on, 7 with column 7; last, 1 on, but then offsets reach 2 times 5.
    """
    chip = make_chip(memory_unit_bits=1, index_bits=(1, 2, 3, 4), axon_base_neurons=100)
    conv = Conv(weight=distinct(2, 1, 1, 1), input_shape=(1, 1, 6), padding=(0, 1))
    counted, narrow, wide = window(conv, chip), Region((0, 0, 1), (2, 1, 7)), Region((0, 0, 1), (2, 1, 8))
    assert counted.count(narrow) == window(conv, chip).count(narrow)
    assert counted.count(wide) == window(conv, chip).count(wide)


@given(conv=convolutions(), data=st.data())
def test_a_longer_region_has_no_fewer_axons_and_synapses(conv: Conv, data: st.DataObject) -> None:
    """Of memory it may take less: pixels that were cut off from some of their targets at the end may then share a list."""
    region, axis = part_of(conv.output_shape, data), data.draw(st.integers(0, 2))
    stops = tuple(side if a == axis else stop for a, (side, stop) in enumerate(zip(conv.output_shape, region.stops, strict=True)))
    counted = window(conv)
    shorter, longer = counted.count(region), counted.count(Region(region.starts, stops))
    assert shorter[1] <= longer[1]
    assert shorter[2] <= longer[2]
