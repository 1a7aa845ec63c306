"""Packing of slices onto cores: best fit for several resources at once, in compiled loops.

`OpenCores` cuts and packs one layer after another. `best_fit_decreasing` packs slices that are all cut beforehand: the largest
chooses first, each the fullest core that still holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.mapping import Array, CompiledLate
from neurodeploy.mapping.partition import Scheme, SelectedBlock, Strip, longest_fit, usage_of_cuts
from neurodeploy.mapping.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, Region, Usage, grid_of, limited_resources, usage_vector

# Full cores leave the list that every later slice is compared with.
MIN_FREE_SHARE = 0.03
"""A core with less than this share of any resource left is full."""
LEFTOVER_WEIGHT = 0.3
"""Weight of leftover space against the same space on a new core."""
MAX_OPEN_CORES_TRIED = 16
"""Open cores that are tried for a slice, the newest first."""


class FanOut:
    """Number of target slices of every neuron, as far as the targets are cut."""

    def __init__(self, layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile) -> None:
        self.layers, self.counts, self.profile = layers, counts, profile
        self._sizes = {layer.name: layer.n_neurons for layer in layers}
        self._targets: dict[str, NDArray[np.int32]] = {}

    def counter(self, layer: AnyLayer) -> SliceCounter:
        """The layer with its known targets, ready to count slices of it."""
        return SliceCounter(layer, self.counts[layer.name], self._targets.get(layer.name), self.profile)

    def add(self, layer: AnyLayer, regions: Sequence[Region]) -> None:
        """Count a layer's regions as targets of its sources."""
        for source, n_slices in self.counts[layer.name].target_slices(regions):
            if source not in self._sizes:  # the network's input takes no output axons
                continue
            if source not in self._targets:
                self._targets[source] = np.zeros(self._sizes[source], dtype=np.int32)
            self._targets[source].reshape(n_slices.shape)[...] += n_slices  # a view: this writes into the counts

    def add_margin(self, layer: AnyLayer, more: int) -> None:
        """Count `more` further target slices for each neuron of the layer that has any."""
        if layer.name in self._targets:
            self._targets[layer.name] += more * (self._targets[layer.name] > 0)

    def discard(self, layer: AnyLayer) -> None:
        """Drop the counts of a layer that is packed."""
        self._targets.pop(layer.name, None)


def output_axon_usage(profile: HardwareProfile) -> Integers:
    """Usage of each limited resource (n_resources,) by one output axon."""
    nothing = Usage(neurons=0, synapses=0, synapse_memory_bits=0, input_axons=0, encoding="")
    return usage_vector(nothing, 1, profile) - usage_vector(nothing, 0, profile)


def axon_share(profile: HardwareProfile) -> Floats:
    """Share of a core that an output axon takes, of each limited resource (n_resources,)."""
    capacity = np.maximum([profile.capacity(resource) for resource in limited_resources(profile)], 1.0)
    share: Floats = output_axon_usage(profile) / capacity
    return share


Box: TypeAlias = "NDArray[np.int64]"  # starts along three axes, then stops
MAX_ANSWERS = 256
"""Usages of irregular regions that are kept: more than a search for one slice asks for."""
TOO_MUCH = 1 << 61
"""Usage of a region for which no target index is wide enough."""


class UsageTable:
    """Usage of a layer's regions, without output axons, in arrays that compiled loops read; `fill` counts what they ask for.

    Usage of convolutions without zeros depends on the number of channels and on how the rows and columns lie on the input: on
    their kinds, of which there are few. Of other layers, the last regions that were asked for are kept.

    Attributes
    ----------
    rows, columns : array (side + 1, side + 1)
        Kind of the run from the first index to the second, less one; 0 where it is not known.
    pairs : array (kinds of rows, kinds of columns)
        Index in `usage`; 0 where nothing is counted.
    usage : array (n_pairs, channels + 1, n_resources)
        By number of channels; -1 where it is not counted.
    answers : array (MAX_ANSWERS, 6 + n_resources)
        Boxes, and their usage.
    """

    def __init__(self, count: LayerCount, profile: HardwareProfile) -> None:
        self.count, self.profile, n = count, profile, len(limited_resources(profile))
        self.windows, sides = count.uniform_windows(), image_of(count.grid)
        self._kinds: tuple[dict[Any, int], dict[Any, int]] = ({}, {})
        self.rows, self.columns = (np.zeros((side + 1, side + 1) if self.windows else (1, 1), np.int32) for side in sides[1:])
        self.pairs, self.n_pairs = np.zeros((16, 16), dtype=np.int32), 1
        self.usage = np.full((16 if self.windows else 1, sides[0] + 1 if self.windows else 1, n), -1)
        self.answers, self._n_answers = np.full((MAX_ANSWERS, 6 + n), -1), 0

    def fill(self, box: Box) -> None:
        """Count a box, and what is counted along with it."""
        region = region_of(box, self.count.grid)
        if self.windows is None:
            self.answers[self._n_answers % MAX_ANSWERS] = [*box, *self._counted(region)]
            self._n_answers += 1
            return
        (_, y, x), (_, v, w) = region.starts, region.stops
        self.rows[y, v], self.columns[x, w] = kinds = self._kind(0, y, v), self._kind(1, x, w)
        while max(kinds) >= len(self.pairs):
            self.pairs = np.pad(self.pairs, (0, len(self.pairs)))
        if not self.pairs[kinds]:
            if self.n_pairs == len(self.usage):
                self.usage = np.concatenate([self.usage, np.full_like(self.usage, -1)])
            self.pairs[kinds], self.n_pairs = self.n_pairs, self.n_pairs + 1
        usage = self.usage[self.pairs[kinds]]
        if self.count.share == 1 and usage[1, 0] < 0:
            with suppress(BudgetError):  # all numbers of channels that a core holds, where there is an index for all of them
                most = min(len(usage) - 1, max(self.profile.capacity("neurons") // ((v - y) * (w - x)), 1))
                cut = np.stack([np.zeros(most, dtype=np.int64), np.arange(1, most + 1)], axis=1)
                edges = [window.edge(0, y, v) for window, _ in self.windows], [window.edge(1, x, w) for window, _ in self.windows]
                usage[1 : most + 1] = usage_of_cuts(self.count, self.windows, cut, (v - y, w - x), edges, self.profile)
        if usage[region.sides[0], 0] < 0:
            usage[region.sides[0]] = self._counted(region)

    def _kind(self, axis: int, start: int, stop: int) -> int:
        key = tuple(window.edge(axis, start, stop).key for window, _ in self.windows or ())
        return self._kinds[axis].setdefault(key, len(self._kinds[axis]) + 1)

    def _counted(self, region: Region) -> Integers:
        try:
            return self.count.usage_vector(region)
        except BudgetError:
            return np.full(self.answers.shape[1] - 6, TOO_MUCH)


def image_of(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Channels, rows and columns of a grid; a row of neurons has one row and column."""
    return grid if len(grid) == 3 else (*grid, 1, 1)


def box_of(region: Region) -> Box:
    """The six numbers of a region."""
    return np.array([*(*region.starts, 0, 0)[:3], *image_of(region.stops)])


def region_of(box: Box, grid: tuple[int, ...]) -> Region:
    """The region of six numbers in a grid."""
    starts, stops = box[: len(grid)].tolist(), box[3 : 3 + len(grid)].tolist()
    return Region(tuple(starts), tuple(stops))


class SliceCounter:
    """Usage of any region of a layer as a slice, output axons included."""

    def __init__(self, layer: AnyLayer, count: LayerCount, targets: NDArray[np.int32] | None, profile: HardwareProfile) -> None:
        self.name, self.grid, self.count, self.profile = layer.name, grid_of(layer), count, profile
        if "usage" not in count.tables:
            count.tables["usage"] = UsageTable(count, profile)
        self.table: UsageTable = count.tables["usage"]
        self._axon = output_axon_usage(profile)
        # A summed-area table with a border of zeros: the axons of any box cost eight look-ups, not a sum over its neurons.
        self._outputs = np.zeros(tuple(side + 1 for side in image_of(self.grid)) if targets is not None else (0, 0, 0), np.int64)
        if targets is not None:
            inner = self._outputs[1:, 1:, 1:]  # a view: a copy would take as much memory again
            inner[:] = targets.reshape(inner.shape)
            for axis in range(inner.ndim):
                np.cumsum(inner, axis=axis, out=inner)
        self._need, self._asked = np.zeros(len(self._axon), dtype=np.int64), np.zeros(6, dtype=np.int64)

    def run(self, loop: Callable[..., bool], *state: Any) -> None:
        """Run a compiled loop to its end, and count the regions that it asks for in between."""
        table = self.table
        while not loop(
            *state, (table.rows, table.columns, table.pairs, table.usage, table.answers, self._outputs, self._axon), self._need,
            self._asked,
        ):  # fmt: skip
            table.fill(self._asked)

    def measure(self, region: Region, core: int) -> Slice:
        """The region as a slice on a core."""
        sent = count_box(box_of(region), self._outputs)
        return Slice(layer=self.name, core=core, region=region, usage=self.count.usage(region), output_axons=sent)

    def needs(self, region: Region) -> Integers:
        """Usage of each limited resource (n_resources,) by a region; more than any core has if no target index is wide enough."""
        self.run(take_needs, box_of(region))
        return self._need.copy()


@CompiledLate
def count_box(box: Array, outputs: Array) -> int:
    """Number of (neuron, target slice) pairs of a box, from a summed-area table; none where the table is empty."""
    if not outputs.size:
        return 0
    a, b, c, d, e, f = box[0], box[1], box[2], box[3], box[4], box[5]
    upper = outputs[d, e, f] - outputs[d, e, c] - outputs[d, b, f] + outputs[d, b, c]
    lower = outputs[a, e, f] - outputs[a, e, c] - outputs[a, b, f] + outputs[a, b, c]
    return int(upper - lower)


@CompiledLate
def take_needs(box: Array, tables: tuple[Array, ...], need: Array, asked: Array) -> bool:
    """Write the usage of a box to `need`, output axons included; False, with the box in `asked`, where it is not counted."""
    rows, columns, pairs, usage, answers, outputs, axon = tables
    pair, channels, known = 0, box[3] - box[0], -1
    if rows.size > 1:
        pair = pairs[rows[box[1], box[4]], columns[box[2], box[5]]]
    elif usage.shape[1] == 1:
        channels = 0
        for answer in range(len(answers)):
            differ = 0
            for k in range(6):
                differ += answers[answer, k] != box[k]
            known = known if differ else answer
    is_counted = known >= 0 or usage[pair, channels, 0] >= 0
    sent = count_box(box, outputs) if is_counted else 0
    for k in range(need.size):
        need[k] = (answers[known, 6 + k] if known >= 0 else usage[pair, channels, k]) + sent * axon[k]
    for k in range(6):
        asked[k] = box[k]
    return is_counted


class OpenCores:
    """Cores that are begun and not full: layers are packed on them before a new core is begun.

    Parameters
    ----------
    is_even : bool
        Do not use leftover space for slices smaller than the selected block.
    """

    def __init__(self, profile: HardwareProfile, *, is_even: bool = False) -> None:
        self.profile, self.is_even = profile, is_even
        self.capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
        # Open cores, cores begun, and slices on overfull cores; the number of each open core, and what it has left.
        self._board, self._numbers = np.zeros(3, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._left = np.zeros((0, len(self.capacity)), dtype=np.int64)

    @property
    def n_cores_and_overfull(self) -> tuple[int, int]:
        """Cores begun, and slices that overfill theirs."""
        return int(self._board[1]), int(self._board[2])

    def pack_layer(self, counter: SliceCounter, selected: SelectedBlock) -> list[Slice]:
        """Cut a layer from its last neuron to its first, and put each slice on a core."""
        strips = list((scheme := Scheme.of(counter.grid, selected.block)).strips())
        least = self._least_lines(counter, strips[-1], selected)
        waiting = waiting_strips(strips, selected.block[scheme.axis])
        sizes, found = np.array([len(waiting), 0]), np.zeros((len(waiting), 7), dtype=np.int64)
        while sizes[0]:  # the loop ends where an array is full
            waiting, found = with_free_rows(waiting, sizes[0]), with_free_rows(found, sizes[1])
            self._left, self._numbers = with_free_rows(self._left, self._board[0]), with_free_rows(self._numbers, self._board[0])
            counter.run(
                pack_strips, waiting, found, sizes, self._left, self._numbers, self._board, self.capacity,
                self.capacity * MIN_FREE_SHARE, least, scheme.axis,
            )  # fmt: skip
        return [counter.measure(region_of(each, counter.grid), int(each[6])) for each in found[: sizes[1]]]

    def _least_lines(self, counter: SliceCounter, strip: Strip, selected: SelectedBlock) -> int:
        """Smallest slice, in lines, that is put into leftover space: the output axons of a smaller one cost its sources more."""
        per_neuron = (selected.cores + selected.burden) / int(np.prod(counter.grid))

        def costs_more(n: int) -> bool:
            region = strip.between(strip.stop - n, strip.stop)
            received = counter.count.n_sources(region)
            burden = sum(neurons * selected.axon_costs.get(source, 0.0) for source, neurons in received.items())
            share = float((counter.needs(region) / self.capacity).max())
            return burden + LEFTOVER_WEIGHT * share > per_neuron * region.n_neurons

        length = strip.stop - strip.start
        at_least = min(selected.block[strip.axis], length) if self.is_even else 1
        # 1 more than the longest that does not pay.
        return max(at_least, 1 + longest_fit(lambda n: n == 0 or costs_more(n), length - 1, 1))


def waiting_strips(strips: Sequence[Strip], guess: int) -> Integers:
    """Rows (n, 8) of a stack: the box of a strip, its axis, and the length of slices to begin with."""
    return np.array([[*box_of(strip.region), strip.axis, guess] for strip in strips])


def with_free_rows(array: Integers, used: int, more: int = 2) -> Integers:
    """The array, with rows of zeros after its own if fewer than `more` of them are unused."""
    if len(array) - used >= more:
        return array
    return np.concatenate([array, np.zeros((len(array) + more, *array.shape[1:]), dtype=np.int64)])


@CompiledLate
def is_within(need: Array, left: Array) -> bool:
    """Whether no resource is needed more than there is left of it."""
    within = True
    for resource in range(need.size):
        within &= need[resource] <= left[resource]
    return within


@CompiledLate
def cut_across(waiting: Array, sizes: Array, box: Array, share: float) -> None:
    """Push a box as a strip along its longest side, with slices of a share of that."""
    along, last = 0, sizes[0]
    for k in range(6):
        waiting[last, k] = box[k]
        along = k if k < 3 and box[3 + k] - box[k] > box[3 + along] - box[along] else along
    waiting[last, 6], waiting[last, 7] = along, max(1, int((box[3 + along] - box[along]) * share))
    sizes[0] += 1


@CompiledLate
def longest_slice(
    strip: Array, guess: int, tried: Array, left: Array, box: Array, tables: tuple[Array, ...], need: Array, asked: Array
) -> int:  # fmt: skip
    """Lines of the longest slice at the end of a strip that one of the rows `tried` of `left` holds; -1 where one is not counted.

    Doubling steps from the guess, then bisection, as `longest_fit` searches.
    """
    along, most, line = strip[6], 0, 1
    for row in tried:
        # Column 0 is `neurons`, the first of RESOURCES: a cheap bound before anything is counted.
        most = max(most, left[row, 0])
    for k in range(3):
        line *= 1 if k == along else strip[3 + k] - strip[k]
    low, high, step, bisects = 0, min(strip[3 + along] - strip[along], most // line), 1, False
    n = min(max(guess, 1), high)
    while low < high:
        n = (low + high + 1) // 2 if bisects else n
        box[along] = strip[3 + along] - n
        if not take_needs(box, tables, need, asked):
            return -1
        fits = False
        for row in tried:
            fits = fits or is_within(need, left[row])
        low, high = (n, high) if fits else (low, n - 1)
        if not bisects:
            n = min(high, n + step) if fits else max(low, n - step)
            step *= 2
            bisects = n == low or n == high + 1 or high - low < step
    return low


@CompiledLate
def put_on_core(row: int, need: Array, left: Array, numbers: Array, board: Array, full: Array) -> None:
    """Take what a slice needs from an open core, or from the next one, and close it if it is full."""
    is_over = is_full = False
    if row == board[0]:
        numbers[row] = board[1]
        board[0] += 1
        board[1] += 1
    for k in range(need.size):
        left[row, k] -= need[k]
        is_over |= left[row, k] < 0
        is_full |= left[row, k] < full[k]
    board[2] += is_over
    board[0] -= is_full
    for later in range(row, board[0] if is_full else row):
        numbers[later] = numbers[later + 1]
        for k in range(need.size):
            left[later, k] = left[later + 1, k]


@CompiledLate
def pack_strips(
    waiting: Array, found: Array, sizes: Array, left: Array, numbers: Array, board: Array, capacity: Array, full: Array,
    least: int, axis: int, tables: tuple[Array, ...], need: Array, asked: Array,
) -> bool:  # fmt: skip
    """Cut the strips of a stack from the last on, each from its end, and put every slice on a core, as `OpenCores` keeps them.

    `found` (n, 7) receives boxes and their cores, `sizes` the numbers of waiting strips and of those. False where a region is
    not counted that is needed: then nothing has changed since the last slice.
    """
    box, rows = np.empty(6, dtype=np.int64), np.empty(MAX_OPEN_CORES_TRIED, dtype=np.int64)
    while 0 < sizes[0] < len(waiting) and sizes[1] < len(found) and board[0] < len(left):
        strip = waiting[sizes[0] - 1]
        along, guess, n_tried = strip[6], strip[7], 0
        first, last = strip[along], strip[3 + along]
        # `least` counts lines of the scheme's axis; a strip that was cut across has other lines.
        shortest = min(least if along == axis else 1, last - first)
        for k in range(6):
            box[k] = strip[k]
        box[along] = last - shortest
        if not take_needs(box, tables, need, asked):
            return False
        for row in range(board[0] - 1, -1, -1):
            if n_tried < MAX_OPEN_CORES_TRIED and is_within(need, left[row]):
                rows[n_tried], n_tried = row, n_tried + 1
        if n_tried:
            guess = max(shortest, min(guess, last - first))
        else:  # a new core
            rows[0], n_tried = board[0], 1
            for k in range(need.size):
                left[board[0], k] = capacity[k]
        n = longest_slice(strip, guess, rows[:n_tried], left, box, tables, need, asked)
        if n < 0:
            return False
        box[along] = last - max(n, 1)
        is_neuron = (box[3] - box[0]) * (box[4] - box[1]) * (box[5] - box[2]) == 1
        if n == 0 and not is_neuron:  # not even one line fits a core: cut across it
            strip[3 + along] = last - 1
            sizes[0] -= last - 1 == first
            cut_across(waiting, sizes, box, 0.0)
            continue
        # A single neuron that no core holds is packed anyway, and reported as overfull.
        if not take_needs(box, tables, need, asked):
            return False
        taker = rows[0]
        for k in range(n_tried - 1, -1, -1):
            taker = rows[k] if is_within(need, left[rows[k]]) else taker
        strip[3 + along], strip[7] = box[along], max(n, 1)
        sizes[0] -= box[along] == first
        for k in range(6):
            found[sizes[1], k] = box[k]
        found[sizes[1], 6] = numbers[taker] if taker < board[0] else board[1]
        sizes[1] += 1
        put_on_core(taker, need, left, numbers, board, full)
    return True


def cut_layer(counter: SliceCounter, block: tuple[int, ...], capacity: Integers) -> list[Region]:
    """Cut a layer into even slices of at most a block, and into more where a core does not hold them."""
    scheme = Scheme.of(counter.grid, block)
    waiting, side = waiting_strips(list(scheme.strips()), block[scheme.axis]), max(counter.grid)
    sizes, found = np.array([len(waiting), 0]), np.zeros((len(waiting), 7), dtype=np.int64)
    while sizes[0]:  # the loop ends where an array is full
        waiting, found = with_free_rows(waiting, sizes[0], side), with_free_rows(found, sizes[1], side)
        counter.run(cut_strips, waiting, found, sizes, capacity)
    return [region_of(each, counter.grid) for each in found[: sizes[1]]]


@CompiledLate
def cut_strips(
    waiting: Array, found: Array, sizes: Array, capacity: Array, tables: tuple[Array, ...], need: Array, asked: Array
) -> bool:  # fmt: skip
    """Cut each strip of a stack into the fewest even slices that cores hold; arrays and answer as of `pack_strips`."""
    box = np.empty(6, dtype=np.int64)
    while sizes[0]:
        strip = waiting[sizes[0] - 1]
        along, first, side = strip[6], strip[strip[6]], strip[3 + strip[6]] - strip[strip[6]]
        if sizes[0] + side > len(waiting) or sizes[1] + side > len(found):
            return True
        for k in range(6):
            box[k] = strip[k]
        block = -(-side // -(-side // strip[7]))
        while True:
            parts, fits = -(-side // block), True
            for i in range(parts):
                box[along], box[3 + along] = first + side * i // parts, first + side * (i + 1) // parts
                if not take_needs(box, tables, need, asked):
                    return False
                if not is_within(need, capacity):
                    fits = False
                    break
            if fits or block == 1:
                break
            # The next number of parts that makes the longest slice shorter: those between give the same length.
            block = -(-side // -(-side // (block - 1)))
        sizes[0] -= 1
        box[along], box[3 + along] = first, first + 1
        is_neuron = (box[3] - box[0]) * (box[4] - box[1]) * (box[5] - box[2]) == 1
        for i in range(parts):
            box[along], box[3 + along] = first + side * i // parts, first + side * (i + 1) // parts
            if fits or is_neuron:  # a neuron that no core holds is a slice by itself
                for k in range(6):
                    found[sizes[1], k] = box[k]
                sizes[1] += 1
            else:  # not even one line fits a core: cut across it
                cut_across(waiting, sizes, box, 0.5)
    return True


def best_fit_decreasing(needs: Integers, capacity: Integers) -> Integers:
    """Core of each slice (n_slices,), numbered as they are begun; a slice that no core holds gets one to itself.

    Parameters
    ----------
    needs : array (n_slices, n_resources)
    capacity : array (n_resources,)
    """
    shares = needs / np.maximum(capacity, 1)
    left, cores = np.tile(capacity, (len(needs), 1)), np.zeros(len(needs), dtype=np.int64)  # never more cores than slices
    n_cores = 0
    for piece in np.argsort(-shares.max(axis=1), kind="stable"):
        holds = np.flatnonzero((left[:n_cores] >= needs[piece]).all(axis=1))
        if holds.size:
            core = int(holds[(left[holds] / np.maximum(capacity, 1)).sum(axis=1).argmin()])  # the fullest that still holds it
        else:
            core, n_cores = n_cores, n_cores + 1
        cores[piece], left[core] = core, left[core] - needs[piece]
    return cores
