"""Packing of slices onto cores: best fit for several resources at once, and annealing of the blocks that layers are cut into.

`OpenCores` cuts and packs one layer after another. `best_fit_decreasing` packs slices that are all cut beforehand: the largest
chooses first, each the fullest core that still holds it. `assign_layers` is for chips that cannot cut a layer. `BlockAnnealing`
changes the blocks of the layers so that the slices of all of them together fill the cores better.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.mapping.partition import BlockOptions, Scheme, SelectedBlock, Strip, even_cuts, longest_fit
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


class SliceCounter:
    """Usage of any region of a layer as a slice, output axons included."""

    def __init__(self, layer: AnyLayer, count: LayerCount, targets: NDArray[np.int32] | None, profile: HardwareProfile) -> None:
        self.name, self.grid, self.count, self.profile = layer.name, grid_of(layer), count, profile
        self._outputs: Integers | None = None
        self._axon = output_axon_usage(profile)
        if targets is not None:
            # A summed-area table with a border of zeros: the axons of any box cost two look-ups an axis, not a sum over its
            # neurons.
            self._outputs = np.zeros(tuple(side + 1 for side in self.grid), dtype=np.int64)
            inner = self._outputs[(slice(1, None),) * len(self.grid)]  # a view: a copy would take as much memory again
            inner[:] = targets.reshape(self.grid)
            for axis in range(inner.ndim):
                np.cumsum(inner, axis=axis, out=inner)

    def output_axons(self, region: Region) -> int:
        """Number of (neuron, target slice) pairs of a region."""
        if self._outputs is None:
            return 0
        sums = self._outputs[tuple(slice(a, b + 1, b - a) for a, b in zip(region.starts, region.stops, strict=True))]  # corners
        for _ in region.starts:
            sums = sums[1] - sums[0]
        return int(sums)

    def measure(self, region: Region, core: int) -> Slice:
        """The region as a slice on a core."""
        usage = self.count.usage(region)
        return Slice(layer=self.name, core=core, region=region, usage=usage, output_axons=self.output_axons(region))

    def needs(self, region: Region) -> Integers:
        """Usage of each limited resource (n_resources,) by a region; the largest integer if no target index is wide enough."""
        try:
            return self.count.usage_vector(region) + self.output_axons(region) * self._axon
        except BudgetError:
            return np.full(len(limited_resources(self.profile)), np.iinfo(np.int64).max)


class OpenCores:
    """Cores that are begun and not full: layers are packed on them before a new core is begun.

    Parameters
    ----------
    is_even : bool
        Do not use leftover space for slices smaller than the selected block.
    """

    def __init__(self, profile: HardwareProfile, *, is_even: bool = False) -> None:
        self.profile, self.is_even, self.n_cores, self.n_overfull = profile, is_even, 0, 0
        self.capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
        self._numbers = np.zeros(0, dtype=np.int64)
        self._left = np.zeros((0, len(self.capacity)), dtype=np.int64)

    def pack_layer(self, counter: SliceCounter, selected: SelectedBlock) -> list[Slice]:
        """Cut a layer from its last neuron to its first, and put each slice on a core."""
        scheme = Scheme.of(counter.grid, selected.block)
        waiting = [(strip, selected.block[scheme.axis]) for strip in scheme.strips()]  # a stack: the last strip comes first
        least = self._least_lines(counter, waiting[-1][0], selected)
        slices: list[Slice] = []
        while waiting:
            strip, guess = waiting.pop()
            # `least` counts lines of the scheme's axis; a strip that was cut across has other lines.
            row, n = self._best(counter, strip, guess, least if strip.axis == scheme.axis else 1)
            line = strip.between(strip.stop - 1, strip.stop)
            if not n and line.n_neurons > 1:  # not even one line fits a core: cut across it
                waiting += self._rest(strip, 1, guess)
                waiting.append((Strip(line, int(np.argmax(line.sides))), 1))
                continue
            n = max(n, 1)  # a single neuron that no core holds is packed anyway, and reported as overfull
            part = counter.measure(strip.between(strip.stop - n, strip.stop), int(self._numbers[row]))
            slices.append(part)
            waiting += self._rest(strip, n, n)
            self._left[row] -= usage_vector(part.usage, part.output_axons, self.profile)
            self.n_overfull += int((self._left[row] < 0).any())
            if (self._left[row] < self.capacity * MIN_FREE_SHARE).any():
                self._numbers, self._left = np.delete(self._numbers, row), np.delete(self._left, row, axis=0)
        return slices

    @staticmethod
    def _rest(strip: Strip, n: int, guess: int) -> list[tuple[Strip, int]]:
        """The rest of a strip without its last n lines, if any."""
        left = strip.stop - n
        return [(Strip(strip.between(strip.start, left), strip.axis), guess)] if left > strip.start else []

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

    def _fitting(self, counter: SliceCounter, strip: Strip, guess: int, left: Integers) -> int:
        """Length of the longest part at the end of the strip that fits one of the rows of `left` (n, n_resources)."""

        def fits(n: int) -> bool:
            return n == 0 or bool((counter.needs(strip.between(strip.stop - n, strip.stop)) <= left).all(axis=1).any())

        line = strip.between(strip.start, strip.start + 1).n_neurons
        # Column 0 is `neurons`, the first of RESOURCES: a cheap bound before anything is counted.
        return longest_fit(fits, min(strip.stop - strip.start, int(left[:, 0].max()) // line), guess)

    def _best(self, counter: SliceCounter, strip: Strip, guess: int, least: int) -> tuple[int, int]:
        """Row of the open core that takes the longest slice, or of a new core, and the lines of that slice."""
        length = strip.stop - strip.start
        least = min(least, length)
        smallest = counter.needs(strip.between(strip.stop - least, strip.stop))
        rows = np.flatnonzero((self._left >= smallest).all(axis=1))[::-1][:MAX_OPEN_CORES_TRIED]
        if rows.size:
            left = self._left[rows]
            n = self._fitting(counter, strip, max(least, min(guess, length)), left)
            part = strip.between(strip.stop - n, strip.stop)
            return int(rows[(left >= counter.needs(part)).all(axis=1).argmax()]), n
        if not len(self._left) or (self._left[-1] < self.capacity).any():  # an untouched core is used before another begins
            self._numbers = np.append(self._numbers, self.n_cores)
            self._left = np.concatenate([self._left, self.capacity[None]])
            self.n_cores += 1
        return len(self._numbers) - 1, self._fitting(counter, strip, guess, self.capacity[None])


def cut_layer(counter: SliceCounter, block: tuple[int, ...], capacity: Integers) -> list[Region]:
    """Cut a layer into even slices of at most a block, and into more where a core does not hold them."""
    scheme = Scheme.of(counter.grid, block)
    waiting, found = [(strip, block[scheme.axis]) for strip in scheme.strips()], list[Region]()
    while waiting:
        strip, length = waiting.pop()
        pieces = _fitting(counter, strip, length, capacity)
        line = strip.between(strip.start, strip.start + 1)
        if pieces or line.n_neurons == 1:
            found += pieces or list(strip.lines())  # a neuron that no core holds is a slice by itself
        else:  # not even one line fits a core: cut across it
            axis = int(np.argmax(line.sides))
            waiting += [(Strip(each, axis), max(1, each.sides[axis] // 2)) for each in strip.lines()]
    return found


def _fitting(counter: SliceCounter, strip: Strip, length: int, capacity: Integers) -> list[Region]:
    """Cut a strip into the fewest even slices that cores hold; empty if a single line is too large."""
    side = strip.stop - strip.start
    parts = -(-side // length)
    while True:
        pieces = [strip.between(strip.start + a, strip.start + b) for a, b in even_cuts(side, -(-side // parts))]
        if all((counter.needs(piece) <= capacity).all() for piece in pieces):
            return pieces
        if parts == side:
            return []
        # The next number of parts that makes the longest slice shorter: those between give the same length.
        parts = min(side, -(-side // max(1, -(-side // parts) - 1)))


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


OVERRUN_COST = 1e6
"""Cost of exceeding a limit by the amount that a core has: more than any difference between cores that hold the layer."""


def assign_layers(needs: NDArray[np.int64], profile: HardwareProfile) -> NDArray[np.int64]:
    """Core of each uncut layer (n_layers,): the smallest that holds it, or the least overfilled where none does.

    Layers with a core to themselves (``slices_per_core: 1``) are matched to cores optimally (a linear assignment
    problem). Others share: the last layer chooses first, each the fullest core that still holds it.

    Parameters
    ----------
    needs : array (n_layers, n_resources)
        Usage of each layer in the order of `limited_resources`.

    Returns
    -------
    array (n_layers,), int64
        Layers beyond the chip's cores get higher numbers.
    """
    names = limited_resources(profile)
    cores = np.stack([np.resize(profile[f"{name}_per_core"].choices, profile.cores) for name in names], axis=1).astype(np.float64)
    if profile.capacity("slices") == 1:
        more = max(0, len(needs) - len(cores))
        # Imaginary cores, the largest of each resource, for layers beyond the chip's cores: the report then says how many are
        # missing.
        cores = np.concatenate([cores, np.repeat(cores.max(axis=0)[None], more, axis=0)])
        cost = _cost(needs[:, None, :], cores)
        cost[:, len(cores) - more :] += OVERRUN_COST * len(needs)  # taken after all real cores
        # imported here: scipy.optimize takes long, and few chips need it
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(cost)
        return np.asarray(columns[np.argsort(rows)], dtype=np.int64)
    left, selected = cores.copy(), np.zeros(len(needs), dtype=np.int64)
    for layer in reversed(range(len(needs))):
        selected[layer] = int(_cost(needs[layer], left).argmin())
        left[selected[layer]] -= needs[layer]
    return selected


def _cost(needs: NDArray[np.int64], cores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cost of a layer on a core: the space that it leaves, and far more for every share of a limit that it exceeds."""
    over = np.maximum(needs - cores, 0) / np.maximum(cores, 1)
    free = np.maximum(cores - needs, 0) / np.maximum(cores, 1)
    cost: NDArray[np.float64] = (
        # The last summand breaks ties towards the smaller core.
        over.sum(axis=-1) * OVERRUN_COST + free.mean(axis=-1) + np.log2(np.maximum(cores, 1)).mean(axis=-1) * 1e-3
    )
    return cost


TEMPERATURES = 0.005, 1e-4
"""Initial and final temperature, as a share of all cores."""
MAX_BLOCKS_TRIED = 200
"""Blocks of a layer that a change may take, ordered by the total volume of all slices."""
NEIGHBOUR_CHANCE = 0.4
"""Probability that a source or target of the changed layer changes with it."""
OVERFLOW_PENALTY = 100.0
"""Penalty per core of overflow."""
VOLUME_WEIGHT = 0.05
"""Weight of the total volume, in cores, against the number of cores: breaks ties towards less storage."""
FULL_SHARE = 0.003
"""A core with at most this share left is full."""


class BlockAnnealing:
    """Simulated annealing of the blocks of all layers.

    Layers select blocks (`neurodeploy.mapping.partition`) as if each had cores of its own. Here the slices of all layers share
    cores: each state is rated by an estimate of the cores that best fit decreasing would take.

    Parameters
    ----------
    options : mapping by layer, first layer first
        None of the layers is recurrent.
    n_neurons : mapping by layer
    axon : array (n_resources,)
        Share of a core that an output axon takes.
    """

    def __init__(self, options: Mapping[str, BlockOptions], n_neurons: Mapping[str, int], axon: Floats) -> None:
        self.options, self.axon, self.names = options, axon, list(options)
        self._sources = {name: [source for source in option.peak if source in options] for name, option in options.items()}
        self._targets = {name: [target for target in options if name in self._sources[target]] for name in options}
        self._mean = {
            name: {source: option.received[source] / n_neurons[source] for source in self._sources[name]}
            for name, option in options.items()
        }
        self._found: dict[tuple[object, ...], NDArray[np.int64]] = {}
        self._rates: dict[tuple[object, ...], tuple[tuple[float, int], float]] = {}
        # All layers whose blocks `_volumes` reads: the key under which its order is cached.
        self._around = {
            name: [name, *self._targets[name], *self._sources[name],
                   *(target for source in self._sources[name] for target in self._targets[source])]
            for name in options
        }  # fmt: skip

    def anneal(self, blocks: Mapping[str, tuple[int, ...]], changes: int, seed: int) -> dict[str, tuple[int, ...]]:
        """The best blocks found from these, which must be among the layers' options, by a number of changes."""
        rng = np.random.default_rng(seed)
        now = {name: self.options[name].index_of(blocks[name]) for name in self.names}
        cost = least = self._cost(now)
        best, start_cost = now, cost
        for turn in range(changes):
            # Geometric cooling.
            temperature = start_cost * TEMPERATURES[0] * (TEMPERATURES[1] / TEMPERATURES[0]) ** (turn / changes)
            tried = self._changed(now, rng)
            found = self._cost(tried)
            if found < cost or rng.random() < np.exp((cost - found) / temperature):  # Metropolis' rule
                now, cost = tried, found
                if cost < least:
                    best, least = now, cost
        return {name: tuple(int(side) for side in self.options[name].blocks[place]) for name, place in best.items()}

    def _changed(self, now: dict[str, int], rng: np.random.Generator) -> dict[str, int]:
        name = self.names[rng.integers(len(self.names))]
        tried = now | {name: self._drawn(now, name, rng)}
        neighbours = self._sources[name] + self._targets[name]
        if neighbours and rng.random() < NEIGHBOUR_CHANCE:
            other = neighbours[rng.integers(len(neighbours))]
            tried[other] = self._drawn(tried, other, rng)
        return tried

    def _drawn(self, now: Mapping[str, int], name: str, rng: np.random.Generator) -> int:
        """Index of one of the layer's better blocks, drawn with a preference for the best."""
        key = (name, *(now[each] for each in self._around[name]))
        if key not in self._found:
            self._found[key] = np.argsort(self._volumes(now, name), kind="stable")[:MAX_BLOCKS_TRIED]
        places = self._found[key]
        return int(places[int(places.size * rng.random() ** 2)])  # the square prefers low places: small volumes

    def _output_axons(self, now: Mapping[str, int], name: str, but: str = "") -> tuple[float, float]:
        """Mean and maximum of the output axons of a neuron of the layer, without those to the layer `but`."""
        targets = [target for target in self._targets[name] if target != but]
        mean = sum(float(self._mean[target][name][now[target]]) for target in targets)
        return mean, sum(float(self.options[target].peak[name][now[target]]) for target in targets)

    def _volumes(self, now: Mapping[str, int], name: str) -> Floats:
        """Volume, in cores, of the slices of the layer and its sources, for each of its blocks (n,)."""
        option, (mean, peak) = self.options[name], self._output_axons(now, name)
        at_most = self._shares(option, slice(None), np.array([peak]))
        # 1e6: blocks that no core holds come last. The mean rates the volume, the maximum decides whether the worst slice fits.
        total: Floats = option.pieces * self._shares(option, slice(None), np.array([mean])) + np.where(at_most > 1, 1e6, 0.0)
        for source in self._sources[name]:
            received, place = self.options[source], slice(now[source], now[source] + 1)
            mean, peak = self._output_axons(now, source, name)
            share = self._shares(received, place, mean + self._mean[name][source])
            most = self._shares(received, place, peak + option.peak[source])
            total = total + received.pieces[place] * (share + OVERFLOW_PENALTY * np.maximum(most - 1, 0))
        return total

    def _shares(self, option: BlockOptions, place: slice, density: Floats) -> Floats:
        """Share of a core that a slice takes (n,), at `density` output axons a neuron."""
        sent = (option.neurons[place] * density)[:, None] * self.axon
        shares: Floats = (option.own[place] + sent).max(axis=1)
        return shares

    def shares(self, blocks: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
        """Cores of each resource (n_resources,) that the slices of each layer fill together, neurons with mean output axons."""
        now = {name: self.options[name].index_of(blocks[name]) for name in self.names}
        found = {}
        for name, place in now.items():
            option, (sent, _) = self.options[name], self._output_axons(now, name)
            found[name] = option.pieces[place] * (option.own[place] + option.neurons[place] * sent * self.axon)
        return found

    def _cost(self, now: Mapping[str, int]) -> float:
        """Estimated cores of all slices, plus penalties for overflow and volume."""
        sizes, penalties = zip(*[self._rated(now, name) for name in now], strict=True)
        return float(estimate_cores(sizes) + sum(penalties))

    def _rated(self, now: Mapping[str, int], name: str) -> tuple[tuple[float, int], float]:
        """Share of a core of the layer's slices and their number, and penalties for overflow and volume."""
        key = (name, now[name], *(now[target] for target in self._targets[name]))
        if key not in self._rates:  # a change leaves most layers, and the targets of most, as they were
            option, place = self.options[name], slice(now[name], now[name] + 1)
            share, most = (float(self._shares(option, place, np.array([sent]))[0]) for sent in self._output_axons(now, name))
            pieces = int(option.pieces[now[name]])
            # + 0.5, so that an overflow of almost nothing never pays.
            overflow = pieces * (OVERFLOW_PENALTY * (most - 1) + 0.5) if most > 1 else 0.0
            self._rates[key] = (min(share, 1.0), pieces), VOLUME_WEIGHT * share * pieces + overflow
        return self._rates[key]


def estimate_cores(sizes: Iterable[tuple[float, int]]) -> int:
    """Estimated cores of slices by best fit decreasing, from (share of a core, number of slices) of each size."""
    n_cores, left = 0, list[float]()  # shares left of begun cores, ascending; `many` counts the cores of each
    many: dict[float, int] = {}
    for share, pieces in sorted(sizes, reverse=True):
        size, waiting, changed = max(share, 1e-6), pieces, dict[float, int]()  # slices of nothing must not divide by 0
        at = bisect_left(left, size - 1e-9)  # best fit: the least space left that is enough
        while waiting and at < len(left):
            free, cores = left[at], many[left[at]]
            taken, waiting = _fill(free, cores, size, waiting, changed)
            many[free] -= taken
            at += 1
        left = [free for free in left if many[free]]
        begun = -(-waiting // max(1, int((1 + 1e-9) / size)))
        _fill(1.0, begun, size, waiting, changed)
        n_cores += begun
        for free, cores in changed.items():
            if free > FULL_SHARE:
                if not many.get(free, 0):
                    insort(left, free)
                many[free] = many.get(free, 0) + cores
    return n_cores


def _fill(free: float, cores: int, size: float, waiting: int, changed: dict[float, int]) -> tuple[int, int]:
    """Fill up to `cores` cores that have `free` left each; return the cores used and the slices still waiting."""
    each = max(1, int((free + 1e-9) / size))
    full, rest = min(cores, waiting // each), 0
    waiting -= full * each
    if full < cores and waiting:
        rest, waiting = waiting, 0
    for n, pieces in ((full, each), (int(rest > 0), rest)):
        if n:
            after = round(max(free - pieces * size, 0.0), 4)  # rounded: almost equal leftovers count as one kind
            changed[after] = changed.get(after, 0) + n
    return full + int(rest > 0), waiting
