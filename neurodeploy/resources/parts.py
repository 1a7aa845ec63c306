"""How much one connection of a layer needs, on any region of its neurons."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.encodings import Formula, list_bits
from neurodeploy.resources.expectation import expected_lists, expected_window
from neurodeploy.resources.regions import Region
from neurodeploy.resources.windows import Window, alike, exact_lists
from neurodeploy.wiring import ConvWiring, DenseWiring, SparseWiring, Wiring

Integers = NDArray[np.int64]

Counted: TypeAlias = "tuple[int, int, int, str]"
"""Memory bits, input axons, synapses, encoding."""


def expected_fan_in(wiring: Wiring, connectivity: float | None) -> NDArray[np.float64]:
    """(n_out,): synapses onto each neuron, those to expect where weights survive with a chance."""
    match wiring:
        case _ if connectivity is None:
            return wiring.fan_in().astype(np.float64)
        case DenseWiring():
            return np.full(wiring.n_out, wiring.n_in * connectivity)
        case ConvWiring():
            total: NDArray[np.float64] = wiring.total(np.ones(wiring.weight.shape)) * connectivity
            return total
        case _:
            return wiring.fan_in() * connectivity


def part_of(
    wiring: Wiring,
    formula: Formula,
    profile: HardwareProfile,
    connectivity: float | None,
    counted: MutableMapping[Any, Any],
) -> DensePart | SparsePart | ConvPart:
    """A connection ready to be counted; one part for all that count alike."""
    key: tuple[Any, ...] = (id(wiring), formula, connectivity)
    if isinstance(wiring, ConvWiring) and (connectivity is not None or bool(wiring.weight.all())):
        alikes = tuple(tuple(alike(wiring, axis).tolist()) for axis in (0, 1))
        geometry = wiring.input_shape, wiring.stride, wiring.padding, wiring.dilation, wiring.groups
        key = (wiring.weight.shape, *geometry, alikes, formula, connectivity)
    if key not in counted:
        kinds: dict[type, type[DensePart | SparsePart | ConvPart]] = {ConvWiring: ConvPart, SparseWiring: SparsePart}
        kind = next((part for wired, part in kinds.items() if isinstance(wiring, wired)), DensePart)
        counted[key] = kind(wiring, formula, profile, connectivity)  # type: ignore[arg-type]  # of its kind
    part: DensePart | SparsePart | ConvPart = counted[key]
    return part


class DensePart:
    """A dense connection: how many synapses each axon has on any run of neurons, in one subtraction."""

    def __init__(self, wiring: DenseWiring, formula: Formula, profile: HardwareProfile, connectivity: float | None) -> None:
        self.wiring, self.formula, self.profile, self.connectivity = wiring, formula, profile, connectivity
        if connectivity is None:
            self._running = np.zeros((wiring.n_out + 1, wiring.n_in), dtype=np.int32)
            np.cumsum(wiring.weight != 0, axis=0, out=self._running[1:])

    def n_synapses(self, region: Region, grid: tuple[int, ...]) -> Integers:
        """(n_in,): synapses of each axon on the region."""
        if len(region.sides) == 1:
            n: Integers = (self._running[region.stops[0]] - self._running[region.starts[0]]).astype(np.int64)
        else:
            n = np.count_nonzero(self.wiring.weight[region.neurons(grid)], axis=0)
        return n

    def key(self, region: Region) -> Hashable:
        """Equal for regions of as many neurons that count alike."""
        return None if self.connectivity is not None else region

    def count(self, region: Region, grid: tuple[int, ...]) -> Counted:
        n = region.n_neurons
        if self.connectivity is not None:
            sizes = np.full(1, n), np.full(1, self.wiring.n_in)
            return expected_lists(*sizes, n, self.connectivity, self.formula, self.profile)
        n_synapses = self.n_synapses(region, grid)
        bits, encoding = list_bits(n_synapses, n, self.formula, self.profile)
        return bits, int(np.count_nonzero(n_synapses)), int(n_synapses.sum()), encoding

    def fan_out(self, region: Region, grid: tuple[int, ...]) -> NDArray[Any]:
        if self.connectivity is not None:
            return np.full(self.wiring.n_in, region.n_neurons * self.connectivity)
        return self.n_synapses(region, grid)

    def hears(self, region: Region, grid: tuple[int, ...]) -> int:
        del region, grid
        return self.wiring.n_in

    def heard(self, region: Region, grid: tuple[int, ...]) -> tuple[tuple[int, ...], Region, NDArray[np.bool_]]:
        shape = (self.wiring.n_in,)
        mask = np.ones(shape, dtype=np.bool_) if self.connectivity is not None else self.n_synapses(region, grid) > 0
        return shape, Region.whole(shape), mask


class SparsePart:
    """A sparse connection, counted from the synapses of a region's neurons alone."""

    def __init__(self, wiring: SparseWiring, formula: Formula, profile: HardwareProfile, connectivity: float | None) -> None:
        self.wiring, self.formula, self.profile, self.connectivity = wiring, formula, profile, connectivity

    def _sources(self, region: Region, grid: tuple[int, ...]) -> NDArray[np.int32]:
        """The source of each synapse onto the region; synapses of weight zero do not exist."""
        starts = self.wiring.starts
        if len(region.sides) == 1:
            runs = [(int(starts[region.starts[0]]), int(starts[region.stops[0]]))]
        else:
            runs = [(int(starts[n]), int(starts[n + 1])) for n in region.neurons(grid)]
        return np.concatenate([self.wiring.sources[a:b][self.wiring.weight[a:b] != 0] for a, b in runs])

    def _sizes(self, region: Region, grid: tuple[int, ...]) -> Integers:
        """Synapses of each axon on the region, in some order; those without any are left out where they take nothing."""
        sources = self._sources(region, grid)
        if "dynapcnn" in self.profile["encodings"].names:
            return np.bincount(sources, minlength=self.wiring.n_in).astype(np.int64)
        few = sources.size < self.wiring.n_in // 8
        sizes = np.unique(sources, return_counts=True)[1] if few else np.bincount(sources, minlength=1)
        return sizes[sizes > 0].astype(np.int64)

    def key(self, region: Region) -> Hashable:
        """Equal for regions that count alike."""
        return region

    def count(self, region: Region, grid: tuple[int, ...]) -> Counted:
        sizes = self._sizes(region, grid)
        if self.connectivity is not None:
            n, of_size = np.unique(sizes, return_counts=True)
            return expected_lists(n, of_size, region.n_neurons, self.connectivity, self.formula, self.profile)
        bits, encoding = list_bits(sizes, region.n_neurons, self.formula, self.profile)
        return bits, int(np.count_nonzero(sizes)), int(sizes.sum()), encoding

    def fan_out(self, region: Region, grid: tuple[int, ...]) -> NDArray[Any]:
        n_synapses = np.bincount(self._sources(region, grid), minlength=self.wiring.n_in)
        return n_synapses if self.connectivity is None else n_synapses * self.connectivity

    def hears(self, region: Region, grid: tuple[int, ...]) -> int:
        return int(np.count_nonzero(np.bincount(self._sources(region, grid), minlength=1)))

    def heard(self, region: Region, grid: tuple[int, ...]) -> tuple[tuple[int, ...], Region, NDArray[np.bool_]]:
        shape = (self.wiring.n_in,)
        mask = np.zeros(shape, dtype=np.bool_)
        mask[self._sources(region, grid)] = True
        return shape, Region.whole(shape), mask


class ConvPart:
    """A convolution, counted by how input pixels meet its window."""

    def __init__(self, wiring: ConvWiring, formula: Formula, profile: HardwareProfile, connectivity: float | None) -> None:
        self.wiring, self.formula, self.profile, self.connectivity = wiring, formula, profile, connectivity
        self.shared = next((name for name in ("convolution", "dynapcnn") if name in profile["encodings"].names), None)
        lists = exact_lists if connectivity is None else expected_window(connectivity)
        self.window = Window(wiring, formula, profile, lists, connectivity)

    def key(self, region: Region) -> Hashable:
        """Equal for regions that count alike."""
        return self.window.key(region)

    def count(self, region: Region, grid: tuple[int, ...]) -> Counted:
        del grid  # it is the region's own
        if self.shared is not None:
            return *self.window.count(region), self.shared
        sizes, how_many = self.window.one_by_one(region)
        if self.connectivity is not None:
            return expected_lists(sizes, how_many, region.n_neurons, self.connectivity, self.formula, self.profile)
        bits, encoding = list_bits(np.repeat(sizes, how_many), region.n_neurons, self.formula, self.profile)
        return bits, int(how_many[sizes > 0].sum()), int(sizes @ how_many), encoding

    def fan_out(self, region: Region, grid: tuple[int, ...]) -> NDArray[Any]:
        del grid
        n_synapses = self.window.fan_out(region)
        return n_synapses if self.connectivity is None else n_synapses * self.connectivity

    def hears(self, region: Region, grid: tuple[int, ...]) -> int:
        del grid
        rows, columns = self.window.edges(region)
        return self.window.channels(region).size * rows.inputs.size * columns.inputs.size

    def heard(self, region: Region, grid: tuple[int, ...]) -> tuple[tuple[int, ...], Region, NDArray[np.bool_]]:
        del grid
        box, mask = self.window.reached(region)
        return self.wiring.input_shape, box, mask
