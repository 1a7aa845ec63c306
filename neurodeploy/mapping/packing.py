"""How cores are filled with the pieces of layers, and to how many pieces every neuron's spikes go.

On how few cores pieces fit when all of them are cut before the first is put anywhere.

What one layer leaves over of its cores, small pieces of any other fill, whichever of the two is laid first. The largest piece
chooses first, each the fullest core that still holds it (best fit decreasing, for several resources at once).

Which core takes a layer that cannot be cut, on a chip whose cores may differ.

By which blocks layers fill cores best when the pieces of all of them share these.

Layers agree on blocks (`neurodeploy.mapping.partition`) as if each had cores of its own; what one leaves over of them, others
might
fill. So blocks are changed here and there (simulated annealing), and for each choice it is estimated how many cores the pieces
would take together, each the fullest that holds it, the largest first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.mapping.partition import Chosen, Options, Scheme, Strip, even_cuts, longest
from neurodeploy.mapping.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, Region, Usage, grid_of, limited_resources, usage_vector

# -------------------- layout.filling


_WORTH_FILLING = 0.03
"""A core that has less than this of anything left is full."""
_LEFT_OVER = 0.3
"""What else might be left over of a core counts for so much of what it would cost elsewhere."""
_LOOKED_AT = 16
"""Open cores that are tried for a piece, the newest first."""


class Hearing:
    """To how many slices every neuron's spikes go, as far as the slices are known."""

    def __init__(self, layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile) -> None:
        self.layers, self.counts, self.profile = layers, counts, profile
        self._sizes = {layer.name: layer.n_neurons for layer in layers}
        self._targets: dict[str, NDArray[np.int32]] = {}

    def filling(self, layer: AnyLayer) -> Filling:
        """The layer, to be laid out with the targets that are known."""
        return Filling(layer, self.counts[layer.name], self._targets.get(layer.name), self.profile)

    def add(self, layer: AnyLayer, regions: Sequence[Region]) -> None:
        """The layer is cut into these regions."""
        for region in regions:
            for heard in self.counts[layer.name].sources(region):
                if heard.source not in self._sizes:
                    continue
                if heard.source not in self._targets:
                    self._targets[heard.source] = np.zeros(self._sizes[heard.source], dtype=np.int32)
                self._targets[heard.source].reshape(heard.shape)[heard.box.box] += heard.mask

    def expect(self, layer: AnyLayer, more: int) -> None:
        """So many slices more may yet hear each neuron of the layer that any hears."""
        if layer.name in self._targets:
            self._targets[layer.name] += more * (self._targets[layer.name] > 0)

    def forget(self, layer: AnyLayer) -> None:
        """The layer is laid, and nobody asks any more."""
        self._targets.pop(layer.name, None)


def axon_of(profile: HardwareProfile) -> Integers:
    """(n_resources,): what an output axon takes."""
    nothing = Usage(neurons=0, synapses=0, synapse_memory_bits=0, input_axons=0, encoding="")
    return usage_vector(nothing, 1, profile) - usage_vector(nothing, 0, profile)


class Filling:
    """A layer being laid out: what any region of it would use."""

    def __init__(self, layer: AnyLayer, count: LayerCount, targets: NDArray[np.int32] | None, profile: HardwareProfile) -> None:
        self.name, self.grid, self.count, self.profile = layer.name, grid_of(layer), count, profile
        self._outputs: Integers | None = None
        self._axon = axon_of(profile)
        if targets is not None:
            self._outputs = np.zeros(tuple(side + 1 for side in self.grid), dtype=np.int64)
            inner = targets.reshape(self.grid).astype(np.int64)
            for axis in range(inner.ndim):
                np.cumsum(inner, axis=axis, out=inner)
            self._outputs[(slice(1, None),) * inner.ndim] = inner

    def output_axons(self, region: Region) -> int:
        """(neuron, target slice) pairs of a region."""
        if self._outputs is None:
            return 0
        sums = self._outputs[tuple(slice(a, b + 1, b - a) for a, b in zip(region.starts, region.stops, strict=True))]
        for _ in region.starts:
            sums = sums[1] - sums[0]
        return int(sums)

    def measure(self, region: Region, core: int) -> Slice:
        """The region on a core."""
        usage = self.count.usage(region)
        return Slice(layer=self.name, core=core, region=region, usage=usage, output_axons=self.output_axons(region))

    def needs(self, region: Region) -> Integers:
        """What a region takes of each resource; more than any core has where the chip has no index as long."""
        try:
            return self.count.usage_vector(region) + self.output_axons(region) * self._axon
        except BudgetError:
            return np.full(len(limited_resources(self.profile)), np.iinfo(np.int64).max)


class Board:
    """Cores, of which those that are begun and not full are looked at before a new one is.

    Parameters
    ----------
    is_even : bool
        Put no smaller pieces on what is left of cores than layers agreed on.
    """

    def __init__(self, profile: HardwareProfile, *, is_even: bool = False) -> None:
        self.profile, self.is_even, self.n_cores, self.n_too_full = profile, is_even, 0, 0
        self.capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
        self._numbers = np.zeros(0, dtype=np.int64)
        self._left = np.zeros((0, len(self.capacity)), dtype=np.int64)

    def lay(self, filling: Filling, chosen: Chosen) -> list[Slice]:
        """A layer laid from its last neuron to its first."""
        scheme = Scheme.of(filling.grid, chosen.block)
        waiting = [(strip, chosen.block[scheme.axis]) for strip in scheme.strips()]
        least = self._least(filling, waiting[-1][0], chosen)
        slices: list[Slice] = []
        while waiting:
            strip, guess = waiting.pop()
            row, n = self._best(filling, strip, guess, least if strip.axis == scheme.axis else 1)
            line = strip.between(strip.stop - 1, strip.stop)
            if not n and line.n_neurons > 1:  # not even a line fits a core: it is cut across
                waiting += self._rest(strip, 1, guess)
                waiting.append((Strip(line, int(np.argmax(line.sides))), 1))
                continue
            n = max(n, 1)
            part = filling.measure(strip.between(strip.stop - n, strip.stop), int(self._numbers[row]))
            slices.append(part)
            waiting += self._rest(strip, n, n)
            self._left[row] -= usage_vector(part.usage, part.output_axons, self.profile)
            self.n_too_full += int((self._left[row] < 0).any())
            if (self._left[row] < self.capacity * _WORTH_FILLING).any():
                self._numbers, self._left = np.delete(self._numbers, row), np.delete(self._left, row, axis=0)
        return slices

    @staticmethod
    def _rest(strip: Strip, n: int, guess: int) -> list[tuple[Strip, int]]:
        """What is left of a strip without its last n lines, if anything."""
        left = strip.stop - n
        return [(Strip(strip.between(strip.start, left), strip.axis), guess)] if left > strip.start else []

    def _least(self, filling: Filling, strip: Strip, chosen: Chosen) -> int:
        """How many lines are worth a place that is left over: fewer cost the layers that they hear more than they save here."""
        per_neuron = (chosen.cores + chosen.burden) / int(np.prod(filling.grid))

        def is_dear(n: int) -> bool:
            region = strip.between(strip.stop - n, strip.stop)
            heard = filling.count.n_sources(region)
            burden = sum(neurons * chosen.prices.get(source, 0.0) for source, neurons in heard.items())
            share = float((filling.needs(region) / self.capacity).max())
            return burden + _LEFT_OVER * share > per_neuron * region.n_neurons

        length = strip.stop - strip.start
        at_least = min(chosen.block[strip.axis], length) if self.is_even else 1
        return max(at_least, 1 + longest(lambda n: n == 0 or is_dear(n), length - 1, 1))

    def _fitting(self, filling: Filling, strip: Strip, guess: int, left: Integers) -> int:
        """How long the longest part at the end of the strip is that fits one of the rows of what is left (n, n_resources)."""

        def fits(n: int) -> bool:
            return n == 0 or bool((filling.needs(strip.between(strip.stop - n, strip.stop)) <= left).all(axis=1).any())

        line = strip.between(strip.start, strip.start + 1).n_neurons
        return longest(fits, min(strip.stop - strip.start, int(left[:, 0].max()) // line), guess)

    def _best(self, filling: Filling, strip: Strip, guess: int, least: int) -> tuple[int, int]:
        """Where to go on, and how many lines go there: the open core that takes most, or a new one."""
        length = strip.stop - strip.start
        least = min(least, length)
        smallest = filling.needs(strip.between(strip.stop - least, strip.stop))
        rows = np.flatnonzero((self._left >= smallest).all(axis=1))[::-1][:_LOOKED_AT]
        if rows.size:
            left = self._left[rows]
            n = self._fitting(filling, strip, max(least, min(guess, length)), left)
            part = strip.between(strip.stop - n, strip.stop)
            return int(rows[(left >= filling.needs(part)).all(axis=1).argmax()]), n
        if not len(self._left) or (self._left[-1] < self.capacity).any():
            self._numbers = np.append(self._numbers, self.n_cores)
            self._left = np.concatenate([self._left, self.capacity[None]])
            self.n_cores += 1
        return len(self._numbers) - 1, self._fitting(filling, strip, guess, self.capacity[None])


# -------------------- layout.packing


def cut(filling: Filling, block: tuple[int, ...], capacity: Integers) -> list[Region]:
    """A layer in even pieces of at most a block; where a core does not hold them, in as many more as it takes."""
    scheme = Scheme.of(filling.grid, block)
    waiting, found = [(strip, block[scheme.axis]) for strip in scheme.strips()], list[Region]()
    while waiting:
        strip, length = waiting.pop()
        pieces = _fitting(filling, strip, length, capacity)
        line = strip.between(strip.start, strip.start + 1)
        if pieces or line.n_neurons == 1:
            found += pieces or list(_lines(strip))
        else:  # not even a line fits a core: it is cut across
            axis = int(np.argmax(line.sides))
            waiting += [(Strip(each, axis), max(1, each.sides[axis] // 2)) for each in _lines(strip)]
    return found


def _fitting(filling: Filling, strip: Strip, length: int, capacity: Integers) -> list[Region]:
    """The strip in the fewest even pieces that cores hold; none if a line is too much."""
    side = strip.stop - strip.start
    parts = -(-side // length)
    while True:
        pieces = [strip.between(strip.start + a, strip.start + b) for a, b in even_cuts(side, -(-side // parts))]
        if all((filling.needs(piece) <= capacity).all() for piece in pieces):
            return pieces
        if parts == side:
            return []
        parts = min(side, -(-side // max(1, -(-side // parts) - 1)))


def _lines(strip: Strip) -> Iterator[Region]:
    return (strip.between(place, place + 1) for place in range(strip.start, strip.stop))


def packed(needs: Integers, capacity: Integers) -> Integers:
    """The core (n_pieces,) of each piece, numbered as they are begun; a piece that no core holds has one to itself.

    Parameters
    ----------
    needs : array (n_pieces, n_resources)
    capacity : array (n_resources,)
    """
    shares = needs / np.maximum(capacity, 1)
    left, cores = np.tile(capacity, (len(needs), 1)), np.zeros(len(needs), dtype=np.int64)
    n_cores = 0
    for piece in np.argsort(-shares.max(axis=1), kind="stable"):
        holds = np.flatnonzero((left[:n_cores] >= needs[piece]).all(axis=1))
        if holds.size:
            core = int(holds[(left[holds] / np.maximum(capacity, 1)).sum(axis=1).argmin()])
        else:
            core, n_cores = n_cores, n_cores + 1
        cores[piece], left[core] = core, left[core] - needs[piece]
    return cores


# -------------------- layout.assignment

_FAR_TOO_MUCH = 1e6
"""What a broken limit costs in the choice: more than any difference between cores that hold the layer."""


def assigned(needs: NDArray[np.int64], profile: HardwareProfile) -> NDArray[np.int64]:
    """The core of each layer (n_layers,): one that holds it, the smallest such; where there is none, the least too small.

    Layers with a core to themselves (``slices_per_core: 1``) are matched to cores at once, the best way for all of them
    (the assignment problem, by SciPy). Others share: the last layer chooses first, each the fullest core that still holds it.

    Parameters
    ----------
    needs : array (n_layers, n_resources)
        What each layer takes of the resources in the order of `limited_resources`.

    Returns
    -------
    array (n_layers,), int64
        Layers beyond the chip's cores get numbers beyond them.
    """
    names = limited_resources(profile)
    cores = np.array([[profile.capacity(name, core) for name in names] for core in range(profile.cores)], dtype=np.float64)
    if profile.capacity("slices") == 1:
        more = max(0, len(needs) - len(cores))
        cores = np.concatenate([cores, np.repeat(cores.max(axis=0)[None], more, axis=0)])
        cost = _cost(needs[:, None, :], cores)
        cost[:, len(cores) - more :] += _FAR_TOO_MUCH * len(needs)
        rows, columns = linear_sum_assignment(cost)
        return np.asarray(columns[np.argsort(rows)], dtype=np.int64)
    left, chosen = cores.copy(), np.zeros(len(needs), dtype=np.int64)
    for layer in reversed(range(len(needs))):
        chosen[layer] = int(_cost(needs[layer], left).argmin())
        left[chosen[layer]] -= needs[layer]
    return chosen


def _cost(needs: NDArray[np.int64], cores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What putting a layer on a core costs: the room that it leaves, and far more for every share of a limit that it breaks."""
    over = np.maximum(needs - cores, 0) / np.maximum(cores, 1)
    room = np.maximum(cores - needs, 0) / np.maximum(cores, 1)
    cost: NDArray[np.float64] = (
        over.sum(axis=-1) * _FAR_TOO_MUCH + room.mean(axis=-1) + np.log2(np.maximum(cores, 1)).mean(axis=-1) * 1e-3
    )
    return cost


# -------------------- layout.tuning

_HEAT = 0.005, 1e-4
"""By how much worse, as a share of all cores, a change may make it, at first and at last."""
_TUNING_LOOKED_AT = 200
"""Blocks of a layer that a change may take, best first by what all pieces would add up to."""
_NEIGHBOUR_TOO = 0.4
"""How often a layer that hears the changed one, or is heard by it, changes with it."""
_TOO_LARGE = 100.0
"""What a core's worth more than a core holds counts for."""
_VOLUME = 0.05
"""What a core's worth of pieces counts beside a core: all else being equal, the less to store the better."""
_FULL = 0.003
"""A core that has no more than this left is full."""


class Tuning:
    """Layers whose blocks are changed.

    Parameters
    ----------
    options : mapping by layer, first layer first
        None of the layers hears itself.
    n_neurons : mapping by layer
    axon : array (n_resources,)
        Share of a core that an output axon takes.
    """

    def __init__(self, options: Mapping[str, Options], n_neurons: Mapping[str, int], axon: Floats) -> None:
        self.options, self.axon, self.names = options, axon, list(options)
        self._sources = {name: [source for source in option.peak if source in options] for name, option in options.items()}
        self._targets = {name: [target for target in options if name in self._sources[target]] for name in options}
        self._mean = {
            name: {source: option.heard[source] / n_neurons[source] for source in self._sources[name]}
            for name, option in options.items()
        }
        self._found: dict[tuple[object, ...], NDArray[np.int64]] = {}
        self._around = {
            name: [name, *self._targets[name], *self._sources[name],
                   *(target for source in self._sources[name] for target in self._targets[source])]
            for name in options
        }  # fmt: skip

    def tuned(self, blocks: Mapping[str, tuple[int, ...]], changes: int, seed: int) -> dict[str, tuple[int, ...]]:
        """The best blocks found from these on, which are among the layers' options, by so many changes."""
        rng = np.random.default_rng(seed)
        now = {name: _place(self.options[name], blocks[name]) for name in self.names}
        cost = least = self._cost(now)
        best, hot = now, cost
        for turn in range(changes):
            heat = hot * _HEAT[0] * (_HEAT[1] / _HEAT[0]) ** (turn / changes)
            tried = self._changed(now, rng)
            found = self._cost(tried)
            if found < cost or rng.random() < np.exp((cost - found) / heat):
                now, cost = tried, found
                if cost < least:
                    best, least = now, cost
        return {name: tuple(int(side) for side in self.options[name].blocks[place]) for name, place in best.items()}

    def _changed(self, now: dict[str, int], rng: np.random.Generator) -> dict[str, int]:
        name = self.names[rng.integers(len(self.names))]
        tried = now | {name: self._drawn(now, name, rng)}
        neighbours = self._sources[name] + self._targets[name]
        if neighbours and rng.random() < _NEIGHBOUR_TOO:
            other = neighbours[rng.integers(len(neighbours))]
            tried[other] = self._drawn(tried, other, rng)
        return tried

    def _drawn(self, now: Mapping[str, int], name: str, rng: np.random.Generator) -> int:
        """One of the layer's better blocks, the better the likelier."""
        key = (name, *(now[each] for each in self._around[name]))
        if key not in self._found:
            self._found[key] = np.argsort(self._volumes(now, name), kind="stable")[:_TUNING_LOOKED_AT]
        places = self._found[key]
        return int(places[int(places.size * rng.random() ** 2)])

    def _heard(self, now: Mapping[str, int], name: str, but: str = "") -> tuple[float, float]:
        """Output axons that a neuron of the layer has on average, and at most; those to one layer left out."""
        hearers = [target for target in self._targets[name] if target != but]
        mean = sum(float(self._mean[target][name][now[target]]) for target in hearers)
        return mean, sum(float(self.options[target].peak[name][now[target]]) for target in hearers)

    def _volumes(self, now: Mapping[str, int], name: str) -> Floats:
        """(n,): cores' worth of pieces that the layer and those that it hears would be, for each of its blocks."""
        option, (mean, peak) = self.options[name], self._heard(now, name)
        at_most = self._shares(option, slice(None), np.array([peak]))
        total: Floats = option.pieces * self._shares(option, slice(None), np.array([mean])) + np.where(at_most > 1, 1e6, 0.0)
        for source in self._sources[name]:
            heard, place = self.options[source], slice(now[source], now[source] + 1)
            mean, peak = self._heard(now, source, name)
            share = self._shares(heard, place, mean + self._mean[name][source])
            most = self._shares(heard, place, peak + option.peak[source])
            total = total + heard.pieces[place] * (share + _TOO_LARGE * np.maximum(most - 1, 0))
        return total

    def _shares(self, option: Options, place: slice, density: Floats) -> Floats:
        """Share of a core that a piece takes whose neurons have so many output axons each."""
        sent = (option.neurons[place] * density)[:, None] * self.axon
        shares: Floats = (option.own[place] + sent).max(axis=1)
        return shares

    def _cost(self, now: Mapping[str, int]) -> float:
        """Cores that the pieces take together, by estimate, and what else speaks against these blocks."""
        sizes, more = list[tuple[float, int]](), 0.0
        chosen = [(self.options[name], place) for name, place in now.items()]
        own = np.stack([option.own[place] for option, place in chosen])
        neurons = np.array([option.neurons[place] for option, place in chosen])
        heard = np.array([self._heard(now, name) for name in now])  # on average, and at most
        shares = (own[:, None] + (neurons[:, None] * heard)[:, :, None] * self.axon).max(axis=2)
        for (option, place), (share, most) in zip(chosen, shares.tolist(), strict=True):
            pieces = int(option.pieces[place])
            sizes.append((min(share, 1.0), pieces))
            more += _VOLUME * share * pieces + (pieces * (_TOO_LARGE * (most - 1) + 0.5) if most > 1 else 0.0)
        return cores_of(sizes) + more


def cores_of(sizes: list[tuple[float, int]]) -> int:
    """Cores that pieces take, (share of a core, how many) of each kind: the largest first, each on the fullest that holds it."""
    n_cores, left = 0, list[float]()  # what cores that are begun have left, the least first, and how many have that
    many: dict[float, int] = {}
    for share, pieces in sorted(sizes, reverse=True):
        size, waiting, changed = max(share, 1e-6), pieces, dict[float, int]()
        at = bisect_left(left, size - 1e-9)
        while waiting and at < len(left):
            room, cores = left[at], many[left[at]]
            taken, waiting = _filled(room, cores, size, waiting, changed)
            many[room] -= taken
            at += 1
        left = [room for room in left if many[room]]
        begun = -(-waiting // max(1, int((1 + 1e-9) / size)))
        _filled(1.0, begun, size, waiting, changed)
        n_cores += begun
        for room, cores in changed.items():
            if room > _FULL:
                if not many.get(room, 0):
                    insort(left, room)
                many[room] = many.get(room, 0) + cores
    return n_cores


def _filled(room: float, cores: int, size: float, waiting: int, changed: dict[float, int]) -> tuple[int, int]:
    """Fill some of so many cores with the same room left: how many, and how many pieces still wait."""
    each = max(1, int((room + 1e-9) / size))
    full, rest = min(cores, waiting // each), 0
    waiting -= full * each
    if full < cores and waiting:
        rest, waiting = waiting, 0
    for n, pieces in ((full, each), (int(rest > 0), rest)):
        if n:
            after = round(max(room - pieces * size, 0.0), 4)
            changed[after] = changed.get(after, 0) + n
    return full + int(rest > 0), waiting


def _place(option: Options, block: tuple[int, ...]) -> int:
    return int(np.flatnonzero((option.blocks == np.array(block)).all(axis=1))[0])
