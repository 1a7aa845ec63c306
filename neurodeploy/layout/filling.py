"""How cores are filled with the pieces of layers, and to how many pieces every neuron's spikes go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.layout.schemes import Chosen, Scheme, Strip, longest
from neurodeploy.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.regions import Region, grid_of
from neurodeploy.resources.usage import AnyLayer, Layers, Usage, limited, vector

Integers = NDArray[np.int64]

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
            for heard in self.counts[layer.name].heard(region):
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
    return vector(nothing, 1, profile) - vector(nothing, 0, profile)


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
            return self.count.takes(region) + self.output_axons(region) * self._axon
        except BudgetError:
            return np.full(len(limited(self.profile)), np.iinfo(np.int64).max)


class Board:
    """Cores, of which those that are begun and not full are looked at before a new one is.

    Parameters
    ----------
    is_even : bool
        Put no smaller pieces on what is left of cores than layers agreed on.
    """

    def __init__(self, profile: HardwareProfile, *, is_even: bool = False) -> None:
        self.profile, self.is_even, self.n_cores, self.n_too_full = profile, is_even, 0, 0
        self.capacity = np.array([profile.capacity(resource) for resource in limited(profile)])
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
            self._left[row] -= vector(part.usage, part.output_axons, self.profile)
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
            heard = filling.count.hears(region)
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
