"""Memory and axons of convolutions whose input pixels share lists of synapses.

An input pixel lies under the kernel at some kernel rows and columns, depending on the output position. Pixels that see the same
weights in the same order share one list of synapses, moved by an offset (nengo-loihi, ``conv.py: conv2d_loihi_weights``):

- A list holds the synapses of all input channels, one channel after another, each padded to the longest.
- Where the largest offset of the chip is shorter than the slice, each section of that length has lists of its own.
- Target indices are as wide as the largest needs; a list onto a single target needs none.
- The slice's neurons are numbered with channels first or channels last, whichever takes less memory.

For plans, the lists are also counted as expected if each weight is kept with a probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Integers, Mask
from neurodeploy.ir.connectivity import ConvWiring
from neurodeploy.resources.usage import Formula, Region, expected_bits, index_bits, power_of_two


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edge:
    """Input rows (or columns) with synapses onto outputs o..o+n-1 along one axis, grouped by the kernel rows they lie under.

    Attributes
    ----------
    inputs : array (m,)
        Input rows with synapses onto the region.
    first : array (m,)
        First output row, counted within the region, that each input row has synapses onto.
    kind : array (m,)
        Index of each input row into `kinds`: rows of one kind see the same kernel rows in the same order.
    kinds : array (n_kinds, kernel)
        How often a kind lies under each kernel row; equal kernel rows count as the first of them.
    reach : array (n_kinds,)
        Distance in output rows from the first to the last that an input row of the kind has synapses onto.
    taps : array (3, n_taps)
        Numbers of kernel rows that inputs lie under; how many kinds, and how many inputs, lie under as many.
    key : bytes
        Equal for edges that differ only by a shift of the input rows.
    """

    inputs: Integers
    first: Integers
    kind: Integers
    kinds: Integers
    reach: Integers
    taps: Integers
    key: bytes

    @property
    def span(self) -> int:
        """Largest `reach`."""
        return int(self.reach.max(initial=0))

    @property
    def n_of_kind(self) -> Integers:
        """Number of input rows of each kind: (n_kinds,)."""
        return np.bincount(self.kind, minlength=len(self.kinds))


def first_equal_lines(wiring: ConvWiring, axis: int) -> Integers:
    """First kernel row (axis 0) or column (1) with the weights of each: (kernel,). Folded average pools repeat rows."""
    lines = np.moveaxis(wiring.weight, 2 + axis, 0)

    def are_equal(i: int, j: int) -> bool:
        # most differ in the first channel already
        return i == j or (np.array_equal(lines[i, 0], lines[j, 0]) and np.array_equal(lines[i], lines[j]))

    return np.array([next(j for j in range(i + 1) if are_equal(i, j)) for i in range(len(lines))])


def geometry_of(wiring: ConvWiring, cache: MutableMapping[Any, Any]) -> tuple[bool, tuple[Any, ...]]:
    """Whether no weight is zero, and all else that the counts of a convolution depend on; it reads the weights once."""
    key = ("geometry", id(wiring))
    if key not in cache:
        # Equal kernel rows, as of folded average pools, share lists, so they belong to the geometry.
        equal_lines = tuple(tuple(first_equal_lines(wiring, axis).tolist()) for axis in (0, 1))
        sides = wiring.input_shape, wiring.stride, wiring.padding, wiring.dilation
        # kept alive, because the key is its id
        cache[key] = wiring, bool(wiring.weight.all()), (wiring.weight.shape, *sides, wiring.groups, equal_lines)
    found: tuple[bool, tuple[Any, ...]] = cache[key][1:]
    return found


def edge(wiring: ConvWiring, axis: int, start: int, stop: int, equal_lines: Integers) -> Edge:
    """Edge of outputs start..stop-1 along rows (0) or columns (1); `equal_lines` is `first_equal_lines` of the axis."""
    stride, padding, dilation = wiring.stride[axis], wiring.padding[axis], wiring.dilation[axis]
    side, lines = wiring.input_shape[1 + axis], tuple(equal_lines.tolist())
    low, high = start * stride - padding, (stop - 1) * stride - padding + (len(lines) - 1) * dilation
    if low < 0 or high >= side:
        return edge_by_numbers(stride, padding, dilation, side, start, stop, lines)
    # No padding in sight: equal to the same run at the beginning of an image without padding, moved.
    moved = edge_by_numbers(stride, 0, dilation, high - low + 1, 0, stop - start, lines)
    return replace(moved, inputs=moved.inputs + low) if low else moved


# Layers of one geometry, and plans with fewer channels, ask for the same edges.
@lru_cache(maxsize=1 << 14)
def edge_by_numbers(
    stride: int, padding: int, dilation: int, side: int, start: int, stop: int, equal_lines: tuple[int, ...]
) -> Edge:
    """`edge` by numbers: of a kernel with `equal_lines` on `side` input rows."""
    outputs, kernel = np.arange(start, stop), np.arange(len(equal_lines))
    positions = outputs[:, None] * stride - padding + kernel * dilation
    # Pairs of an output row and a kernel row that lie on the input, not in the padding.
    output, place = np.nonzero((positions >= 0) & (positions < side))
    inputs, which = np.unique(positions[output, place], return_inverse=True)
    first = np.full(inputs.size, stop - start)
    np.minimum.at(first, which, output)
    # Rank of each pair among those of its input, in the order of outputs: its place after sorting, less that of the first.
    by_input = np.lexsort((output, which))
    rank = np.empty(output.size, dtype=np.int64)
    rank[by_input] = np.arange(output.size) - np.searchsorted(which[by_input], which[by_input])
    # For each input, in the order of outputs: distance from its first output, and kernel row, in one number.
    # -1 fills up the rows of inputs that meet fewer outputs.
    met = np.full((inputs.size, kernel.size), -1)
    met[which, rank] = (output - first[which]) * kernel.size + np.array(equal_lines)[place]
    orders, kind = np.unique(met, axis=0, return_inverse=True)
    # NumPy 2.0 returns the inverse in another shape.
    kind = kind.reshape(-1)
    kinds = ((orders % kernel.size)[:, :, None] == kernel).astype(np.int64)
    # -1 % size is a valid kernel row: take out what only fills up.
    kinds = (kinds * (orders >= 0)[:, :, None]).sum(axis=1)
    key = np.concatenate([[stop - start], first, kind]).tobytes() + orders.tobytes()
    reach = orders.max(axis=1, initial=0) // kernel.size
    n_taps, of_kind = np.unique(kinds.sum(axis=1), return_inverse=True)
    taps = np.stack([n_taps, np.bincount(of_kind, minlength=n_taps.size), np.bincount(of_kind[kind], minlength=n_taps.size)])
    return Edge(inputs=inputs, first=first, kind=kind, kinds=kinds, reach=reach, taps=taps, key=key)


def inputs_of_cut(wiring: ConvWiring, axis: int, runs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Input rows (0) or columns (1) with synapses onto runs of outputs, summed over the runs, and most runs of one input."""
    stride, padding, dilation = wiring.stride[axis], wiring.padding[axis], wiring.dilation[axis]
    side, kernel = wiring.input_shape[1 + axis], np.arange(wiring.weight.shape[2 + axis])
    starts, stops = np.array(runs).T
    positions = np.arange(starts[0], stops[-1])[:, None] * stride - padding + kernel * dilation
    run = np.broadcast_to(np.repeat(np.arange(len(runs)), stops - starts)[:, None], positions.shape)
    inside = (positions >= 0) & (positions < side)
    pairs = np.unique(run[inside] * side + positions[inside])
    return pairs.size, int(np.bincount(pairs % side).max(initial=0))


def kept_weights(wiring: ConvWiring, region: Region, share: float) -> int:
    """Weights that an input channel keeps onto a region's output channels, of all that it has: at least one."""
    full = region.sides[0] * wiring.weight.shape[2] * wiring.weight.shape[3]
    return max(int(share * full), 1)


class Window:
    """Counter of a convolution with shared lists on any region of its outputs; results are cached.

    Parameters
    ----------
    most : int
        Weights that an input channel keeps, at most: the lists are then an upper bound for any choice of them.
    connectivity : float, optional
        Probability of every weight, zeros too, to be kept; None counts the weights that are not zero.
    equal_lines : tuple of array, optional
        `first_equal_lines` of rows and columns, where they are known: they read every weight.
    """

    def __init__(
        self,
        wiring: ConvWiring,
        formula: Formula,
        profile: HardwareProfile,
        most: int = UNLIMITED,
        connectivity: float | None = None,
        equal_lines: tuple[Integers, Integers] | None = None,
    ) -> None:
        self.wiring, self.formula, self.profile, self.most, self.connectivity = wiring, formula, profile, most, connectivity
        # Without zeros all input channels of a group count the same; without groups, one stands for all.
        self.is_full = connectivity is not None or bool(wiring.weight.all())
        self.has_equal_channels = wiring.groups == 1 and self.is_full
        if not self.has_equal_channels:
            present = wiring.weight != 0 if connectivity is None else np.ones(wiring.weight.shape, dtype=np.bool_)
            # Running counts over output channels: those of any range are one subtraction.
            self._running = np.zeros((present.shape[0] + 1, *present.shape[1:]), dtype=np.int32)
            np.cumsum(present, axis=0, out=self._running[1:])
        self.equal_lines = equal_lines or (first_equal_lines(wiring, 0), first_equal_lines(wiring, 1))
        self._edges: dict[tuple[int, int, int], Edge] = {}
        self._counted: dict[tuple[int, int, bytes, bytes], tuple[int, int, int]] = {}

    @property
    def has_equal_lines(self) -> bool:
        """Whether kernel rows or columns are equal, as those of a folded pooling."""
        return any((lines != np.arange(lines.size)).any() for lines in self.equal_lines)

    def edge(self, axis: int, start: int, stop: int) -> Edge:
        """The edge of outputs start..stop-1 along rows (0) or columns (1)."""
        key = (axis, start, stop)
        if key not in self._edges:
            self._edges[key] = edge(self.wiring, axis, start, stop, self.equal_lines[axis])
        return self._edges[key]

    def edges(self, region: Region) -> tuple[Edge, Edge]:
        """The region's edges along rows and along columns."""
        _, rows, columns = zip(region.starts, region.stops, strict=True)
        return self.edge(0, *rows), self.edge(1, *columns)

    def key(self, region: Region) -> tuple[int, int, bytes, bytes]:
        """Hashable that is equal for regions with equal usage."""
        rows, columns = self.edges(region)
        # Groups without zeros are equal: only where in a group the region begins counts.
        size = self.wiring.weight.shape[0] // self.wiring.groups if self.is_full else UNLIMITED
        first = 0 if self.has_equal_channels else region.starts[0] % size
        return first, first + region.sides[0], rows.key, columns.key

    def count(self, region: Region) -> tuple[int, int, int]:
        """Memory bits, input axons and synapses of a region whose lists are shared."""
        key = self.key(region)
        if key not in self._counted:
            rows, columns = self.edges(region)
            counted = self.count_many(
                np.array([region.starts[0]]), np.array([region.stops[0]]), (region.sides[1], region.sides[2]), rows, columns
            )
            self._counted[key] = int(counted[0][0]), int(counted[1][0]), int(counted[2][0])
        return self._counted[key]

    def count_many(
        self, starts: Integers, stops: Integers, sides: tuple[int, int], rows: Edge, columns: Edge
    ) -> tuple[Integers, Integers, Integers]:
        """Memory bits, input axons and synapses, each (n,), of n ranges of channels on the rows and columns of these edges."""
        if self.is_full:
            # Lists of kinds that lie under as many kernel rows and columns are as long.
            taps, times, pixels = (np.outer(a, b).reshape(-1) for a, b in zip(rows.taps, columns.taps, strict=True))
            n_groups, most = self._groups_of(starts, stops)
            c_group = self.wiring.weight.shape[1]
            atoms, longest, there = n_groups * c_group, most[:, None] * taps, (c_group * (stops - starts))[:, None] * taps
        else:
            pixels = np.outer(rows.n_of_kind, columns.n_of_kind).reshape(-1)
            times = np.ones_like(pixels)
            ranges = zip(starts.tolist(), stops.tolist(), strict=True)
            each = (self._lengths_of(start, stop, rows, columns) for start, stop in ranges)
            met = [lengths.reshape(len(lengths), pixels.size) for lengths in each]
            atoms = np.array([len(lengths) for lengths in met])
            there = np.stack([lengths.sum(axis=0) for lengths in met])
            longest = np.stack([lengths.max(axis=0, initial=0) for lengths in met])
        chance = 1.0 if self.connectivity is None else self.connectivity
        # An axon exists if at least one of its synapses is kept. 1e-9 keeps rounding errors from adding an axon.
        kept = there > 0 if chance == 1 else 1 - (1 - chance) ** there
        axons = np.ceil(kept @ pixels - 1e-9).astype(np.int64)
        synapses = np.rint(there @ pixels * chance).astype(np.int64)
        if "dynapcnn" in self.profile["encodings"].names:
            bits = np.array([self._kernel_bits(a, b) for a, b in zip(starts, stops, strict=True)])
            return bits, axons, synapses
        bits = self._shared_bits(starts, stops, sides, rows, columns, atoms, np.minimum(longest, self.most), times)
        if (bits == UNLIMITED).any():
            index_bits(int((stops - starts).max()) * sides[0] * sides[1], self.profile)  # raises, with the chip's widths
        return bits + axons * self.formula.entry, axons, synapses

    def lengths(self, region: Region) -> Integers:
        """Synapses of a pixel of each input channel onto the region, by kind: (atoms, kinds of row, kinds of column).

        If all channels have equal connectivity, there is one atom for all of them.
        """
        return self._lengths_of(region.starts[0], region.stops[0], *self.edges(region))

    def _lengths_of(self, start: int, stop: int, rows: Edge, columns: Edge) -> Integers:
        if self.has_equal_channels:
            met: Integers = (stop - start) * self._lengths_of_one(rows, columns)[None]
            return met
        atoms = self._atoms(start, stop)
        # kron pairs every kind of row with every kind of column. In doubles, because NumPy has no fast product of integer
        # matrices; the counts are far below 2**53.
        places = np.kron(rows.kinds, columns.kinds).astype(np.float64)
        counts: Integers = np.rint(atoms.reshape(len(atoms), -1).astype(np.float64) @ places.T).astype(np.int64)
        return counts.reshape(len(atoms), len(rows.kinds), len(columns.kinds))

    @staticmethod
    def _lengths_of_one(rows: Edge, columns: Edge) -> Integers:
        """Synapses of a pixel onto one output channel, by kind, where no weight is zero."""
        met: Integers = np.outer(rows.kinds.sum(axis=1), columns.kinds.sum(axis=1))
        return met

    def channels(self, region: Region) -> Integers:
        """Input channels of the region's groups: (channels,)."""
        first, last = self._groups(region.starts[0], region.stops[0])
        c_group = self.wiring.weight.shape[1]
        return np.arange(first * c_group, (last + 1) * c_group)

    def _groups(self, start: int, stop: int) -> tuple[int, int]:
        """First and last group of output channels start..stop-1."""
        per_group = self.wiring.weight.shape[0] // self.wiring.groups
        return start // per_group, (stop - 1) // per_group

    def _groups_of(self, starts: Integers, stops: Integers) -> tuple[Integers, Integers]:
        """Number of groups of ranges of output channels, and channels of the group with most of them: each (n,)."""
        size = self.wiring.weight.shape[0] // self.wiring.groups
        first, last = starts // size, (stops - 1) // size
        ends = np.maximum((first + 1) * size - starts, stops - last * size)  # only groups between two others are surely whole
        return last - first + 1, np.where(last == first, stops - starts, np.where(last - first > 1, size, ends))

    def n_channels(self, start: int, stop: int) -> int:
        """Number of input channels of the groups of output channels start..stop-1."""
        first, last = self._groups(start, stop)
        return int(last - first + 1) * self.wiring.weight.shape[1]

    def _atoms(self, start: int, stop: int) -> Integers:
        """Number of these output channels with a weight at each kernel position: (atoms, kernel rows, kernel columns)."""
        per_group = self.wiring.weight.shape[0] // self.wiring.groups
        first, last = self._groups(start, stop)
        firsts = np.arange(first, last + 1) * per_group
        # The range may begin and end within a group.
        low, high = np.maximum(firsts, start), np.minimum(firsts + per_group, stop)
        of_groups: Integers = self._running[high].astype(np.int64) - self._running[low]
        return of_groups.reshape(-1, *of_groups.shape[2:])

    def _shared_bits(
        self, starts: Integers, stops: Integers, sides: tuple[int, int], rows: Edge, columns: Edge, atoms: Integers,
        longest: Integers, times: Integers,
    ) -> Integers:  # fmt: skip
        """Memory in bits of the shared lists of n slices: (n,); `UNLIMITED` where the chip has no index wide enough.

        Parameters
        ----------
        atoms : array (n,)
            Input channels of each slice.
        longest : array (n, n_lists)
            Synapses of the longest atom of lists, and how many lists are as long: `times` (n_lists,).
        """
        reach, widths = self.profile.number("axon_base_neurons", UNLIMITED), np.array(self.profile["index_bits"].choices)
        channels, (height, width) = stops - starts, sides
        # Index of channel c at pixel p: c * pixels + p with channels first, p * channels + c with channels last.
        step = np.stack([np.ones_like(channels), channels])
        across = (channels - 1) * np.array([[height * width], [1]])
        local = (rows.span * width + columns.span) * step + across
        # `far`: the chip's largest offset does not reach the last pixel of the slice.
        far, fits = (height * width - 1) * step >= reach, local < 1 << widths[-1]
        # frexp has the bits of an integer; a list onto a single target needs none.
        width_of = np.concatenate([[0], widths[np.searchsorted(widths, np.arange(1, widths[-1] + 1))]])
        index = width_of[np.frexp(np.where(fits, local, 0))[1]]
        bits = np.where(fits, self._list_bits(atoms, longest, index) @ times, UNLIMITED)
        for order, i in zip(*np.nonzero(far & fits), strict=True):
            bits[order, i] = self._sectioned_bits(
                int(starts[i]), int(stops[i]), int(step[order, i]), int(across[order, i]), width, rows, columns
            )
        least: Integers = bits.min(axis=0)
        return least

    def _list_bits(self, atoms: Integers, longest: Integers, index: Integers) -> Integers:
        """Memory in bits of lists (n, n_lists) of input channels `atoms` (n,), with indices of several widths (orders, n)."""
        if self.connectivity is None or self.connectivity >= 1:
            return self.formula.lists(atoms[:, None] * longest, index[:, :, None])
        expected = [
            [
                [expected_bits(size, n, self.connectivity, self.formula, i) for size in row]
                for row, n, i in zip(*lists, strict=True)
            ]
            for lists in ((longest.tolist(), atoms.tolist(), of) for of in index.tolist())
        ]
        rounded: Integers = np.ceil(np.array(expected)).astype(np.int64)
        return rounded

    def _sectioned_bits(self, start: int, stop: int, step: int, across: int, width: int, rows: Edge, columns: Edge) -> int:
        """Memory in bits where the chip's largest offset is shorter than the region: lists are per section of that length."""
        reach, widest = self.profile.number("axon_base_neurons", UNLIMITED), self.profile["index_bits"].choices[-1]
        local = ((rows.reach[:, None] * width + columns.reach) * step + across).reshape(-1)
        moved = (rows.first[:, None] * width + columns.first) * step // reach
        # Kind of pixel and section as one number: pixels with equal numbers share a list.
        different = np.unique(rows.kind[:, None] * len(columns.kinds) + columns.kind + moved * local.size)
        moved, which = np.divmod(different, max(local.size, 1))
        last = int((moved * reach + local[which]).max(initial=0))
        if last >= 1 << widest:
            return UNLIMITED
        longest = np.minimum(self._lengths_of(start, stop, rows, columns).max(axis=0, initial=0).reshape(1, -1), self.most)
        index = np.full((1, 1), index_bits(last + 1, self.profile) if last else 0)
        return int(self._list_bits(np.array([self.n_channels(start, stop)]), longest, index).reshape(-1)[which].sum())

    def one_by_one(self, region: Region) -> tuple[Integers, Integers]:
        """Lengths of the lists, and how many there are of each, if every input neuron has a list of its own."""
        rows, columns = self.edges(region)
        lengths = self.lengths(region)
        copies = self.n_channels(region.starts[0], region.stops[0]) // len(lengths)
        how_many = np.broadcast_to(np.outer(rows.n_of_kind, columns.n_of_kind) * copies, lengths.shape)
        return lengths.reshape(-1), how_many.reshape(-1)

    def _kernel_bits(self, start: int, stop: int) -> int:
        """Memory in bits of the kernels of output channels start..stop-1 on DYNAP-CNN."""
        kernel = power_of_two(int(np.prod(self.wiring.weight.shape[2:])))
        return self.n_channels(start, stop) * kernel * power_of_two(int(stop - start)) * self.formula.synapse_bits

    def target_slices(self, regions: Sequence[Region]) -> NDArray[np.int32] | None:
        """Number of the regions that each input neuron has synapses onto, in the input's shape; None where weights are zero."""
        if not self.is_full:
            return None
        by_groups, n_slices = defaultdict[tuple[int, int], list[Region]](list), np.zeros(self.wiring.input_shape, dtype=np.int32)
        for region in regions:
            by_groups[self._groups(region.starts[0], region.stops[0])].append(region)
        for (first, last), some in by_groups.items():
            on_rows, on_columns = (np.zeros((len(some), side)) for side in self.wiring.input_shape[1:])
            for n, region in enumerate(some):
                rows, columns = self.edges(region)
                on_rows[n, rows.inputs], on_columns[n, columns.inputs] = 1.0, 1.0
            c_group = self.wiring.weight.shape[1]
            # rows and columns of a region are independent of each other
            n_slices[first * c_group : (last + 1) * c_group] += np.rint(on_rows.T @ on_columns).astype(np.int32)
        return n_slices

    def reached(self, region: Region) -> tuple[Region, Mask]:
        """Input neurons with synapses onto a region: their bounding box, and a mask in it."""
        return self._spread(region, self.lengths(region) > 0)

    def fan_out(self, region: Region) -> Integers:
        """Synapses from every neuron of the box that `reached` returns onto the region."""
        return self._spread(region, self.lengths(region))[1]

    def _spread(self, region: Region, of_kinds: NDArray[Any]) -> tuple[Region, NDArray[Any]]:
        """Values by channel and kind of pixel, spread over the bounding box of the pixels with synapses onto the region."""
        (rows, columns), channels = self.edges(region), self.channels(region)
        inside = of_kinds[:, rows.kind[:, None], columns.kind]
        if not inside.size:
            return Region((0, 0, 0), (0, 0, 0)), np.zeros((0, 0, 0), dtype=of_kinds.dtype)
        starts = (int(channels[0]), int(rows.inputs[0]), int(columns.inputs[0]))
        stops = (int(channels[-1]) + 1, int(rows.inputs[-1]) + 1, int(columns.inputs[-1]) + 1)
        box, spread = Region(starts, stops), inside
        if inside.shape[1:] != box.sides[1:]:  # some pixels of the box have no synapse, as with large strides
            spread = np.zeros((len(of_kinds), *box.sides[1:]), dtype=of_kinds.dtype)
            spread[:, (rows.inputs - starts[1])[:, None], columns.inputs - starts[2]] = inside
        return box, np.broadcast_to(spread, box.sides)
