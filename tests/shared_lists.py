"""What a convolution's lists take on Loihi 1, pixel by pixel: nengo-loihi's algorithm told anew, and what it leaves open."""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.connectivity import ConvWiring

if TYPE_CHECKING:
    from neurodeploy.resources.usage import Region


def bits_of_list(n_synapses: int, bits: int, chip: HardwareProfile) -> int:
    """One list of synapses of so many bits each, as the data sheet has it: in blocks of whole units, each with a header."""
    block, unit = chip.number("synapses_per_block", max(1, n_synapses)), chip.number("memory_unit_bits", 1)
    header = chip.number("block_header_bits", 0)
    return sum(unit * ceil((min(block, n_synapses - first) * bits + header) / unit) for first in range(0, n_synapses, block))


def index_for(last: int, chip: HardwareProfile) -> int:
    """Bits of an index that reaches from 0 to `last`: the narrowest that the chip has, none where there is but one target."""
    return 0 if last == 0 else next(bits for bits in chip["index_bits"].choices if 2**bits > last)


def published_bits(
    kernel: tuple[int, int, int, int], image: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], bits: int
) -> int:
    """Synapse memory of a whole convolution, by nengo-loihi's ``conv2d_loihi_weights`` and ``bits_per_axon``.

    Of every input pixel, the kernel's rows and columns by which some output hears it are marked, and the first such output
    is its offset, of which 256 at a time go into the list's indices. Pixels with the same marks and the same part of the
    offset in the indices have one list: all channels one after another, all filters of every marked place. All lists have
    indices as long as the largest of them needs. It numbers neurons as the network did, filters last or first; here it may
    choose.

    Parameters
    ----------
    kernel : (filters, channels, rows, columns)
    """
    filters, channels, *sides = kernel
    outs = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(image, padding, sides, stride, strict=True)]
    found = []
    for filters_last in (False, True):
        lists: dict[tuple[object, ...], int] = {}
        largest = 0
        for pixel in product(*map(range, image)):
            marks, firsts, reaches = [], [], []
            for at, pad, k, s, n in zip(pixel, padding, sides, stride, outs, strict=True):
                unstrided = [at + pad - (k - 1) + row for row in range(k)]
                marked = [0 <= o <= (n - 1) * s and o % s == 0 for o in unstrided]
                outputs = [o // s for o, yes in zip(unstrided, marked, strict=True) if yes]
                marks.append(tuple(marked))
                firsts.append(outputs[0] if outputs else None)
                reaches.append(len(outputs))
            if None in firsts:
                continue
            y, x = (first or 0 for first in firsts)
            offset = (y * outs[1] + x) * (filters if filters_last else 1)
            in_index = offset - offset % 256
            lists[(*marks, in_index)] = channels * reaches[0] * reaches[1] * filters
            down, right = reaches[0] - 1, reaches[1] - 1
            spatial = down * outs[1] + right
            last = spatial * filters + filters - 1 if filters_last else (filters - 1) * outs[0] * outs[1] + spatial
            largest = max(largest, in_index + last)
        index = 0 if largest == 0 else next(width for width in (6, 7, 8, 9, 10, 11, 12) if 2**width > largest)
        blocks = (min(64, n - first) for n in lists.values() for first in range(0, n, 64))
        found.append(sum(64 * ceil((n * (bits + index) + 4 + 6) / 64) for n in blocks))
    return min(found)


def first_alike(weight: NDArray[np.generic], axis: int) -> list[int]:
    """Of every row (2) or column (3) of a kernel, the first that is equal to it."""
    lines = np.moveaxis(weight, axis, 0)
    return [next(j for j in range(i + 1) if np.array_equal(lines[i], lines[j])) for i in range(len(lines))]


def meetings(conv: ConvWiring, region: Region, axis: int, at: int) -> list[tuple[int, int]]:
    """The outputs of a region, counted from its first, that hear an input row (0) or column (1), each with its kernel row."""
    start, stop = region.starts[1 + axis], region.stops[1 + axis]
    return [
        (output - start, row)
        for output in range(start, stop)
        for row in range(conv.weight.shape[2 + axis])
        if output * conv.stride[axis] - conv.padding[axis] + row * conv.dilation[axis] == at
    ]


def shared_bits(conv: ConvWiring, region: Region, bits: int, chip: HardwareProfile) -> int:
    """Synapse memory of a region in shared lists, where the published algorithm is asked for more than it was written for.

    The region's outputs are numbered among themselves. Pixels that meet equal weights in the same order share a list, be it
    by other rows of the kernel (those of a pool are all alike). Weights of zero are no synapses; a list has, for every
    channel of the groups that the region is in, as many as the channel with most.
    """
    filters, height, width = region.sides
    per_group = conv.weight.shape[0] // conv.groups
    groups = range(region.starts[0] // per_group, (region.stops[0] - 1) // per_group + 1)
    of_group = [[f for f in range(region.starts[0], region.stops[0]) if f // per_group == group] for group in groups]
    present = np.stack([(conv.weight[mine] != 0).sum(axis=0) for mine in of_group])  # group, channel, row, column
    alike = [first_alike(conv.weight, axis) for axis in (2, 3)]
    reach = chip.number("axon_base_neurons", 1 << 40)
    met = [[meetings(conv, region, axis, at) for at in range(conv.input_shape[1 + axis])] for axis in (0, 1)]
    found = []
    for step, plane in ((1, height * width), (filters, 1)):
        lists: dict[tuple[object, ...], int] = {}
        largest = 0
        for down, right in product(*met):
            if down and right:
                (y, _), (x, _) = down[0], right[0]
                in_index = (y * width + x) * step // reach * reach
                key = tuple(
                    tuple((o - first, like[k]) for o, k in hits)
                    for hits, first, like in zip((down, right), (y, x), alike, strict=True)
                )
                rows, columns = [k for _, k in down], [k for _, k in right]
                lists[(key, in_index)] = (
                    int(present[:, :, rows][:, :, :, columns].sum(axis=(2, 3)).max()) * present[..., 0, 0].size
                )
                largest = max(largest, in_index + ((down[-1][0] - y) * width + right[-1][0] - x) * step + (filters - 1) * plane)
        if largest < 2 ** chip["index_bits"].choices[-1]:
            index = index_for(largest, chip)
            found.append(sum(bits_of_list(n, bits + index, chip) for n in lists.values()))
    return min(found)
