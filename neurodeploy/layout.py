"""How layers are laid onto cores.

Layers are laid onto the cores one after another, each core filled to its limits before the next is begun. Where a layer is a
row of neurons no other plan that keeps the layers in order and in one piece a core takes fewer cores, as far as
neurons, memory and input axons go, since usage only grows as neurons are added. Layers are laid from the last to the
first, so that the slices which a neuron's spikes go to, and with them its output axons, are known when it finds its core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.assignment import assigned
from neurodeploy.bounds import least_cores
from neurodeploy.counting import LayerCount
from neurodeploy.encodings import weight_bits
from neurodeploy.errors import BudgetError, RequestError
from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.network import Network
from neurodeploy.placement import Placement, Slice, vector
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.regions import Region, grid_of
from neurodeploy.resources import DEFAULT_WEIGHT_BITS, AnyLayer, Layers, Usage, bits_of, limited
from neurodeploy.schemes import Alone, Strip, choose, longest

Cut: TypeAlias = "tuple[str, int, Region]"
"""Layer, core, region: these neurons of the layer are to stand on the core."""
Counts: TypeAlias = "Mapping[str, LayerCount]"

_WORTH_FILLING = 0.03
"""A core that has less than this of anything left is full."""
_MESSAGE = 1e-3
"""All else being equal, the fewer messages: an output axon that costs nothing counts for so much of one that does."""
_DEARER = 1.3
"""A piece may take so much more of a core, a neuron, than the layer would on cores of its own, to use what is left on one."""


def lay_out(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
    connectivity: float | None = None,
    plan: Sequence[Cut] = (),
) -> Placement:
    """Put a network on the fewest cores, whether it fits or not; one in floats with weights of `bits` bits.

    A neuron that no empty core can hold gets one to itself, and `Placement.overruns` says by how much it is too large.

    Parameters
    ----------
    cores : int, optional
        How many it may use; all of the profile's by default.
    connectivity : float, optional
        What if each weight survived with this chance, 0..1? Counted in closed form. By default the weights that are not
        zero are counted.
    plan : sequence of (layer, core, region), optional
        See `neurodeploy.placing.place`.
    """
    available = profile.cores_given(cores)
    widths = {layer.name: weight_bits(bits_of(layer, bits), profile) for layer in network.layers}
    counts = counts_of(network.layers, widths, profile, connectivity)
    closely = Placement(
        profile=profile,
        cores_available=available,
        cores_lower_bound=least_cores(network.layers, counts, profile),
        weight_bits=widths,
        n_pairs={layer.name: layer.n_pairs for layer in network},
        slices=filled(network.layers, profile, counts),
    )
    if not plan:
        return closely
    planned = replace(closely, slices=_as_planned(network.layers, profile, counts, plan))
    return planned if planned.fits and (planned.cores_used <= closely.cores_used or not closely.fits) else closely


def counts_of(
    layers: Layers, widths: Mapping[str, int], profile: HardwareProfile, connectivity: float | None = None
) -> dict[str, LayerCount]:
    """Every layer, ready to be counted."""
    return {layer.name: LayerCount(layer, widths[layer.name], profile, connectivity) for layer in layers}


def filled(layers: Layers, profile: HardwareProfile, counts: Counts) -> tuple[Slice, ...]:
    """Every layer laid, the last one first; what hears itself is laid twice.

    The output axons of a layer that hears itself depend on how it is cut, and that on its output axons: it is cut as if it
    did not, and then with the targets that this gave.
    """
    if profile.number("cores_per_layer", UNLIMITED) == 1:
        return _uncut(layers, profile, counts)
    board, slices = _Board(profile), list[Slice]()
    hearing = Hearing(layers, counts, profile)
    for layer in reversed(layers):
        filling = hearing.filling(layer)
        if hearing.hears_itself(layer):
            trial = _Board(profile).lay(filling, hearing.burden(layer))
            hearing.add(layer, [part.region for part in trial])
            filling = hearing.filling(layer)
        laid = board.lay(filling, hearing.burden(layer))
        if not hearing.hears_itself(layer):
            hearing.add(layer, [part.region for part in laid])
        slices += laid
    first_core_first = (replace(part, core=board.n_cores - 1 - part.core) for part in reversed(slices))
    return tuple(sorted(first_core_first, key=lambda part: part.core))


def _uncut(layers: Layers, profile: HardwareProfile, counts: Counts) -> tuple[Slice, ...]:
    """Every layer in one piece, each on a core that holds it."""
    hearing = Hearing(layers, counts, profile)
    for layer in layers:
        hearing.add(layer, [Region.whole(grid_of(layer))])
    slices = [hearing.filling(layer).measure(Region.whole(grid_of(layer)), 0) for layer in layers]
    cores = assigned(np.stack([vector(part.usage, part.output_axons, profile) for part in slices]), profile)
    parts = [replace(part, core=int(core)) for part, core in zip(slices, cores, strict=True)]
    return tuple(sorted(parts, key=lambda part: part.core))


@dataclass(frozen=True, slots=True, kw_only=True)
class Burden:
    """What a layer's pieces cost the layers that it hears, in cores.

    Every piece takes an output axon of each neuron that it hears: of the shared memory, or of a table of them that holds some
    at no cost, beside the cores that the neurons need anyway.

    Attributes
    ----------
    hears : callable
        Neurons of each source that a region hears.
    shared : float
        Share of a core's memory that an output axon takes.
    table : float
        Output axons that a core has room for in a table of their own.
    sent, alone : mapping by layer
        Cores that its output axons so far would fill, and those that it needs without any.
    """

    hears: Callable[[Region], Mapping[str, int]]
    shared: float
    table: float
    sent: Mapping[str, float]
    alone: Mapping[str, float]

    def of(self, region: Region, pieces: float) -> float:
        """Of a layer cut into so many pieces like the region."""
        total = 0.0
        for source, heard in self.hears(region).items():
            if source in self.alone:
                sent, more, spare = self.sent[source], heard * pieces / self.table, self.alone[source]
                total += heard * pieces * self.shared + max(0.0, sent + more - spare) - max(0.0, sent - spare)
                total += more * _MESSAGE
        return total

    def of_piece(self, region: Region, like: Region, pieces: float) -> float:
        """Of one region, where the layer is else cut into so many pieces like another."""
        total = 0.0
        for source, heard in self.hears(region).items():
            if source in self.alone:
                full = self.sent[source] + self.hears(like)[source] * pieces / self.table > self.alone[source]
                total += heard * (self.shared + (1.0 if full else _MESSAGE) / self.table)
        return total


class Hearing:
    """To how many slices every neuron's spikes go, as far as the slices are known."""

    def __init__(self, layers: Layers, counts: Counts, profile: HardwareProfile) -> None:
        self.layers, self.counts, self.profile = layers, counts, profile
        self._targets = {layer.name: np.zeros(layer.n_neurons, dtype=np.int32) for layer in layers}
        self._alone = {layer.name: self.filling(layer).alone(None).cores for layer in layers}

    def filling(self, layer: AnyLayer) -> Filling:
        """The layer, to be laid out with the targets that are known."""
        return Filling(layer, self.counts[layer.name], self._targets[layer.name], self.profile)

    def burden(self, layer: AnyLayer) -> Burden:
        """What a layer's pieces cost the layers that it hears."""
        hears, table = self.counts[layer.name].hears, float(self.profile.capacity("output_axons"))
        shared = self.profile.number("output_axon_bits", 0) / self.profile.capacity("memory_bits")
        sent = {name: float(targets.sum()) / table for name, targets in self._targets.items()}
        return Burden(hears=hears, shared=shared, table=table, sent=sent, alone=self._alone)

    def hears_itself(self, layer: AnyLayer) -> bool:
        return any(connection.source == layer.name for connection in layer.connections)

    def add(self, layer: AnyLayer, regions: Sequence[Region]) -> None:
        """The layer is cut into these regions."""
        for region in regions:
            for heard in self.counts[layer.name].heard(region):
                if heard.source in self._targets:
                    self._targets[heard.source].reshape(heard.shape)[heard.box.box] += heard.mask


class Filling:
    """A layer being laid out: what any region of it would use."""

    def __init__(
        self,
        layer: AnyLayer,
        count: LayerCount,
        targets: NDArray[np.int32],
        profile: HardwareProfile,
        usage: Callable[[Region], Usage] | None = None,
    ) -> None:
        self.name, self.grid, self.profile = layer.name, grid_of(layer), profile
        self._usage = count.usage if usage is None else usage
        self._outputs = np.zeros(tuple(side + 1 for side in self.grid), dtype=np.int64)
        inner = targets.reshape(self.grid).astype(np.int64)
        for axis in range(inner.ndim):
            inner = inner.cumsum(axis=axis)
        self._outputs[(slice(1, None),) * inner.ndim] = inner

    def output_axons(self, region: Region) -> int:
        """(neuron, target slice) pairs of a region."""
        total = 0
        for corner in np.ndindex(*(2,) * len(self.grid)):
            at = tuple(region.stops[axis] if end else region.starts[axis] for axis, end in enumerate(corner))
            total += (-1) ** (len(corner) - sum(corner)) * int(self._outputs[at])
        return total

    def measure(self, region: Region, core: int) -> Slice:
        """The region on a core."""
        return Slice(layer=self.name, core=core, region=region, usage=self._usage(region), output_axons=self.output_axons(region))

    def needs(self, region: Region) -> NDArray[np.int64]:
        """What a region takes of each resource; more than any core has where the chip has no index as long."""
        try:
            return vector(self._usage(region), self.output_axons(region), self.profile)
        except BudgetError:
            return np.full(len(limited(self.profile)), np.iinfo(np.int64).max)

    def alone(self, burden: Burden | None) -> Alone:
        """How the layer is best cut, on cores of its own."""
        capacity = np.array([self.profile.capacity(resource) for resource in limited(self.profile)])
        return choose(self.grid, self.needs, capacity, burden.of if burden is not None else lambda *_: 0.0)


class _Core:
    """A core being filled: what is left on it."""

    def __init__(self, profile: HardwareProfile, number: int) -> None:
        self.profile, self.number = profile, number
        self.capacity = np.array([profile.capacity(resource) for resource in limited(profile)])
        self.left = self.capacity

    @property
    def is_open(self) -> bool:
        """Whether it has some of everything left."""
        return bool((self.left >= self.capacity * _WORTH_FILLING).all())

    def fitting(self, filling: Filling, strip: Strip, stop: int, guess: int) -> int:
        """How long the longest part of the strip is that ends before `stop` and still fits."""

        def fits(n: int) -> bool:
            return n == 0 or bool((filling.needs(strip.between(stop - n, stop)) <= self.left).all())

        line = strip.between(strip.start, strip.start + 1).n_neurons
        return longest(fits, min(stop - strip.start, int(self.left[0]) // line), guess)

    def take(self, filling: Filling, region: Region) -> Slice:
        part = filling.measure(region, self.number)
        self.left = self.left - vector(part.usage, part.output_axons, self.profile)
        return part


class _Board:
    """Cores, of which those that are begun and not full are looked at before a new one is."""

    def __init__(self, profile: HardwareProfile) -> None:
        self.profile, self.n_cores = profile, 0
        self._open: list[_Core] = []

    def lay(self, filling: Filling, burden: Burden) -> list[Slice]:
        """A layer laid from its last neuron to its first."""
        found = filling.alone(burden)
        dear = (found.cores + burden.of(found.region, found.pieces)) / (found.pieces * found.region.n_neurons) * _DEARER

        def price(region: Region, core: _Core) -> float:
            """Share of a core that a region takes a neuron, of its own and of those that it hears."""
            share = float((filling.needs(region) / core.capacity).max())
            return (share + burden.of_piece(region, found.region, found.pieces)) / region.n_neurons

        slices: list[Slice] = []
        for strip in reversed(list(found.scheme.strips())):
            stop, guess = strip.stop, found.region.sides[found.scheme.axis]
            closed: set[bytes] = set()
            while stop > strip.start:
                core, n = self._best(filling, price, strip, stop, guess, dear, closed)
                slices.append(core.take(filling, strip.between(stop - n, stop)))
                stop, guess = stop - n, n
                self._open = [core for core in self._open if core.is_open]
        return slices

    def _best(
        self,
        filling: Filling,
        price: Callable[[Region, _Core], float],
        strip: Strip,
        stop: int,
        guess: int,
        dear: float,
        closed: set[bytes],
    ) -> tuple[_Core, int]:
        """The core to go on with, and how many lines it takes: the newest open one that is not too dear, or a new one."""
        for core in reversed(self._open):
            left = core.left.tobytes()
            if left in closed:
                continue
            n = core.fitting(filling, strip, stop, guess)
            if n and price(strip.between(stop - n, stop), core) <= dear:
                return core, n
            closed.add(left)
        core = _Core(self.profile, self.n_cores)
        self.n_cores += 1
        self._open.append(core)
        return core, max(1, core.fitting(filling, strip, stop, guess))


def _as_planned(layers: Layers, profile: HardwareProfile, counts: Counts, plan: Sequence[Cut]) -> tuple[Slice, ...]:
    hearing = Hearing(layers, counts, profile)
    for layer in layers:
        regions = [region for name, _, region in plan if name == layer.name]
        covered = np.zeros(grid_of(layer), dtype=np.int64)
        for region in regions:
            covered[region.box] += 1
        if not (covered == 1).all():
            raise RequestError("plan", f"does not give each neuron of layer {layer.name!r} one core")
        hearing.add(layer, regions)
    fillings = {layer.name: hearing.filling(layer) for layer in layers}
    order = {layer.name: n for n, layer in enumerate(layers)}
    slices = [fillings[name].measure(region, core) for name, core, region in plan]
    return tuple(sorted(slices, key=lambda part: (part.core, order[part.layer], part.region)))
