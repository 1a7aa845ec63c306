"""By which blocks layers fill cores best when the pieces of all of them share these.

Layers agree on blocks (`neurodeploy.layout.schemes`) as if each had cores of its own; what one leaves over of them, others might
fill. So blocks are changed here and there (simulated annealing), and for each choice it is estimated how many cores the pieces
would take together, each the fullest that holds it, the largest first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from neurodeploy.layout.schemes import Floats, Options

_HEAT = 0.005, 1e-4
"""By how much worse, as a share of all cores, a change may make it, at first and at last."""
_LOOKED_AT = 200
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
            self._found[key] = np.argsort(self._volumes(now, name), kind="stable")[:_LOOKED_AT]
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
