"""Resource usage of any region of a layer: memory, axons, synapses, fan-in, and what else a core limits.

Exact on the weights that are not zero; or in closed form, the expected usage if each weight is kept with a probability
(`connectivity`), which at 1 is exact too.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring, Wiring
from neurodeploy.ir.graph import Connection
from neurodeploy.resources.convolution_lists import Window, geometry_of, kept_weights
from neurodeploy.resources.usage import (
    AnyLayer,
    Formula,
    Region,
    SourceNeurons,
    Usage,
    distinct_decays,
    distinct_thresholds,
    expected_lists,
    grid_of,
    limits_settings,
    list_bits,
    power_of_two,
    usage_vector,
    weight_bits,
)

ListUsage: TypeAlias = "tuple[int, int, int, str]"
"""Memory in bits, input axons, synapses, and name of the encoding."""


def counter_of(
    wiring: Wiring,
    formula: Formula,
    profile: HardwareProfile,
    connectivity: float | None,
    cache: MutableMapping[Any, Any],
) -> DenseCounter | SparseCounter | ConvCounter:
    """Counter of a connection, from the cache where an equal one was made before.

    Counts of a convolution without zero weights depend on its geometry alone, so all of one geometry share a counter.
    """
    # An id is safe as a key: the cached counter keeps its wiring alive.
    key: tuple[Any, ...] = (id(wiring), formula, connectivity)
    if isinstance(wiring, ConvWiring):
        is_full, geometry = geometry_of(wiring, cache)
        # Without zeros, what is expected if all weights are kept is what there is.
        connectivity = None if is_full and connectivity == 1 else connectivity
        key = (*geometry, formula, connectivity) if is_full or connectivity is not None else key
    if key not in cache:
        match wiring:
            case DenseWiring():
                cache[key] = DenseCounter(wiring, formula, profile, connectivity)
            case SparseWiring():
                cache[key] = SparseCounter(wiring, formula, profile, connectivity)
            case ConvWiring():
                cache[key] = ConvCounter(wiring, formula, profile, connectivity, geometry[-1])
            case _:
                raise unsupported_kind(wiring)
    counter: DenseCounter | SparseCounter | ConvCounter = cache[key]
    return counter


class DenseCounter:
    """Counter of a dense connection.

    Running sums of the synapses over the neurons give those of each axon onto any run of neurons in one subtraction.
    """

    def __init__(self, wiring: DenseWiring, formula: Formula, profile: HardwareProfile, connectivity: float | None) -> None:
        self.wiring, self.formula, self.profile, self.connectivity = wiring, formula, profile, connectivity
        self._fan_in: NDArray[Any] = np.zeros(0)
        if connectivity is None:
            # 32 bits hold a count of neurons, at half the memory.
            self._running = np.zeros((wiring.n_out + 1, wiring.n_in), dtype=np.int32)
            np.cumsum(wiring.weight != 0, axis=0, out=self._running[1:])

    def n_synapses(self, region: Region, grid: tuple[int, ...]) -> Integers:
        """Synapses of each axon onto the region: (n_in,)."""
        if len(region.sides) == 1:
            n: Integers = (self._running[region.stops[0]] - self._running[region.starts[0]]).astype(np.int64)
        else:
            # A box in an image is no run of neurons, so there is no subtraction.
            n = np.count_nonzero(self.wiring.weight[region.neurons(grid)], axis=0)
        return n

    def key(self, region: Region) -> Hashable:
        """Hashable that is equal for regions with equal usage, of regions with as many neurons."""
        return None if self.connectivity is not None else region  # expected usage depends on the size alone

    def count(self, region: Region, grid: tuple[int, ...]) -> ListUsage:
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

    def fan_in(self, region: Region, grid: tuple[int, ...]) -> NDArray[Any]:
        """Synapses onto each neuron of the region, in its shape."""
        if self.connectivity is not None:
            return np.full(region.sides, self.wiring.n_in * self.connectivity)
        if not self._fan_in.size:  # all at once: regions overlap, and each would read its weights again
            self._fan_in = self.wiring.fan_in().astype(np.int32)
        return self._fan_in.reshape(grid)[region.box]

    def n_sources(self, _region: Region, _grid: tuple[int, ...]) -> int:
        return self.wiring.n_in

    def source_mask(self, region: Region, grid: tuple[int, ...]) -> tuple[tuple[int, ...], Region, NDArray[np.bool_]]:
        shape = (self.wiring.n_in,)
        mask = np.ones(shape, dtype=np.bool_) if self.connectivity is not None else self.n_synapses(region, grid) > 0
        return shape, Region.whole(shape), mask


class SparseCounter:
    """Counter of a sparse connection; it reads only the synapses of a region's neurons."""

    def __init__(self, wiring: SparseWiring, formula: Formula, profile: HardwareProfile, connectivity: float | None) -> None:
        self.wiring, self.formula, self.profile, self.connectivity = wiring, formula, profile, connectivity
        self._fan_in: NDArray[Any] = np.zeros(0)

    def _sources(self, region: Region, grid: tuple[int, ...]) -> NDArray[np.int32]:
        """Source neuron of each synapse onto the region, without synapses of weight zero."""
        starts = self.wiring.starts
        if len(region.sides) == 1:
            first, last = int(starts[region.starts[0]]), int(starts[region.stops[0]])
            exists = self.wiring.weight[first:last] != 0
            return self.wiring.sources[first:last] if exists.all() else self.wiring.sources[first:last][exists]
        runs = [(int(starts[n]), int(starts[n + 1])) for n in region.neurons(grid)]
        return np.concatenate([self.wiring.sources[a:b][self.wiring.weight[a:b] != 0] for a, b in runs])

    def _sizes(self, region: Region, grid: tuple[int, ...]) -> Integers:
        """Synapses of each axon onto the region, in any order; axons without synapses only where the encoding stores them too."""
        sources = self._sources(region, grid)
        if "dynapcnn" in self.profile["encodings"].names:
            return np.bincount(sources, minlength=self.wiring.n_in).astype(np.int64)
        # Sorting is faster than counting where the synapses are far fewer than the possible sources.
        is_sparse = sources.size < self.wiring.n_in // 8
        sizes = np.unique(sources, return_counts=True)[1] if is_sparse else np.bincount(sources, minlength=1)
        return sizes[sizes > 0].astype(np.int64)

    def key(self, region: Region) -> Hashable:
        """Hashable that is equal for regions with equal usage."""
        return region

    def count(self, region: Region, grid: tuple[int, ...]) -> ListUsage:
        sizes = self._sizes(region, grid)
        if self.connectivity is not None:
            # Axons with equally many synapses have equal expectations: one term for all of them.
            n, of_size = np.unique(sizes, return_counts=True)
            return expected_lists(n, of_size, region.n_neurons, self.connectivity, self.formula, self.profile)
        bits, encoding = list_bits(sizes, region.n_neurons, self.formula, self.profile)
        return bits, int(np.count_nonzero(sizes)), int(sizes.sum()), encoding

    def fan_out(self, region: Region, grid: tuple[int, ...]) -> NDArray[Any]:
        _, n_synapses = self._by_source(region, grid)
        return n_synapses if self.connectivity is None else n_synapses * self.connectivity

    def fan_in(self, region: Region, grid: tuple[int, ...]) -> NDArray[Any]:
        if not self._fan_in.size:
            self._fan_in = self.wiring.fan_in().astype(np.int32)
        return self._fan_in.reshape(grid)[region.box] * (1 if self.connectivity is None else self.connectivity)

    def n_sources(self, region: Region, grid: tuple[int, ...]) -> int:
        return int(np.count_nonzero(self._by_source(region, grid)[1]))

    def source_mask(self, region: Region, grid: tuple[int, ...]) -> tuple[tuple[int, ...], Region, NDArray[np.bool_]]:
        first, n_synapses = self._by_source(region, grid)
        return (self.wiring.n_in,), Region.run(first, first + n_synapses.size), n_synapses > 0

    def _by_source(self, region: Region, grid: tuple[int, ...]) -> tuple[int, Integers]:
        """First source neuron with synapses onto the region, and the synapses of each from it to the last one."""
        # Not of all source neurons: slices near each other in a large layer receive from few of them.
        sources = self._sources(region, grid)
        first = int(sources.min(initial=self.wiring.n_in - 1))
        return first, np.bincount(sources - first, minlength=1)


class ConvCounter:
    """Counter of a convolution; see `neurodeploy.resources.convolution_lists`."""

    def __init__(
        self, wiring: ConvWiring, formula: Formula, profile: HardwareProfile, connectivity: float | None,
        equal_lines: Sequence[Sequence[int]] = (),
    ) -> None:  # fmt: skip
        self.wiring, self.formula, self.profile, self.connectivity = wiring, formula, profile, connectivity
        self.shared = next((name for name in ("convolution", "dynapcnn") if name in profile["encodings"].names), None)
        lines = (np.array(equal_lines[0]), np.array(equal_lines[1])) if equal_lines else None
        self.window = Window(wiring, formula, profile, connectivity=connectivity, equal_lines=lines)
        # Kernel rows, and columns, that lie on the input at each output row and column.
        self._taps = [wiring.is_inside_input(axis).sum(axis=1) for axis in (0, 1)]

    def key(self, region: Region) -> Hashable:
        """Hashable that is equal for regions with equal usage."""
        return self.window.key(region)

    def count(self, region: Region, _grid: tuple[int, ...]) -> ListUsage:
        if self.shared is not None:
            return *self.window.count(region), self.shared
        sizes, how_many = self.window.one_by_one(region)
        if self.connectivity is not None:
            return expected_lists(sizes, how_many, region.n_neurons, self.connectivity, self.formula, self.profile)
        bits, encoding = list_bits(np.repeat(sizes, how_many), region.n_neurons, self.formula, self.profile)
        return bits, int(how_many[sizes > 0].sum()), int(sizes @ how_many), encoding

    def fan_out(self, region: Region, _grid: tuple[int, ...]) -> NDArray[Any]:
        n_synapses = self.window.fan_out(region)
        return n_synapses if self.connectivity is None else n_synapses * self.connectivity

    def fan_in(self, region: Region, _grid: tuple[int, ...]) -> NDArray[Any]:
        # Of the region alone: an array of all neurons of a large image takes more memory than all else.
        if self.window.is_full:  # equal for all channels
            rows, columns = (taps[side] for taps, side in zip(self._taps, region.box[1:], strict=True))
            n_synapses = self.wiring.weight.shape[1] * np.outer(rows, columns)[None]
        else:
            n_synapses = self.wiring.fan_in(region.box).reshape(region.sides)
        return n_synapses if self.connectivity is None else n_synapses * self.connectivity

    def n_sources(self, region: Region, _grid: tuple[int, ...]) -> int:
        rows, columns = self.window.edges(region)
        return self.window.channels(region).size * rows.inputs.size * columns.inputs.size

    def source_mask(self, region: Region, _grid: tuple[int, ...]) -> tuple[tuple[int, ...], Region, NDArray[np.bool_]]:
        box, mask = self.window.reached(region)
        return self.wiring.input_shape, box, mask


class LayerCount:
    """Resource usage of one layer on any region of its neurons; results are cached.

    Parameters
    ----------
    bits : int
        Width of a weight; rounded up to one that the chip has.
    connectivity : float, optional
        Probability of each weight to be kept, 0..1, for expected usage; None counts the weights that are not zero.
    cache : mapping, optional
        Shared by the layers of one network, which fill it, so that equal connections are counted once. Keys hold ids of
        connectivity objects, which the cached counters keep alive.
    wait_steps : sequence of int, optional
        Steps that spikes wait in each connection's synapses (`neurodeploy.ir.graph.wait_steps`); default: its delays alone.

    Raises
    ------
    BudgetError
        The chip has no weights of that width or wider.

    Attributes
    ----------
    share : float
        Factor on synapse memory; 1 except in plans to prune.
    capped_sources : frozenset of str
        Sources whose axons a plan to prune caps afterwards.
    tables : dict
        What else is made of these counts, by name; layers with equal counts share it.
    """

    def __init__(
        self,
        layer: AnyLayer,
        bits: int,
        profile: HardwareProfile,
        connectivity: float | None = None,
        cache: MutableMapping[Any, Any] | None = None,
        wait_steps: Sequence[int] | None = None,
    ) -> None:
        self.layer, self.profile, self.connectivity, self.grid = layer, profile, connectivity, grid_of(layer)
        self.width, self.cache = weight_bits(bits, profile), {} if cache is None else cache
        self.wait_steps = tuple(c.delay_steps for c in layer.connections) if wait_steps is None else tuple(wait_steps)
        bundled = self._bundled(layer, self.wait_steps)
        self._bundles = [bundle for bundle, _ in bundled]
        self._counters = [
            counter_of(
                bundle[0].synapse, Formula.of(profile, self.width, is_delayed=steps > 0), profile, connectivity, self.cache
            )
            for bundle, steps in bundled
        ]
        self._state_bits = profile.number("neuron_state_bits", 0)
        self.share, self.capped_sources = 1.0, frozenset[str]()
        self._limits_settings = limits_settings(profile)
        # Layers with equal counters share what is counted; a layer whose neurons count too, for its id, shares with itself.
        counters = tuple((id(counter), len(bundle)) for counter, (bundle, _) in zip(self._counters, bundled, strict=True))
        own = id(self.cache.setdefault(("layer", id(layer)), layer)) if self._limits_settings else 0
        key = (counters, self.grid, type(layer.neuron), bool(layer.bias.any()), max(self.wait_steps), own)
        self._used: dict[tuple[Any, ...], Usage] = self.cache.setdefault(("used", *key), {})
        self._taken: dict[tuple[Any, ...], Integers] = self.cache.setdefault(("taken", *key), {})
        self.tables: dict[str, Any] = self.cache.setdefault(("tables", *key), {})
        self._keys: dict[Region, tuple[Any, ...]] = self.cache.setdefault(("keys", *key), {})

    @staticmethod
    def _bundled(layer: AnyLayer, wait_steps: Sequence[int]) -> list[tuple[list[Connection[Wiring]], int]]:
        """Connections with equal synapses and equal waiting steps, and these steps.

        The axons of a bundle point to the same lists, which a core stores once: a sum of spikes from several sources.
        """
        bundles: list[tuple[list[Connection[Wiring]], int]] = []
        connections: tuple[Connection[Any], ...] = layer.connections
        for connection, steps in zip(connections, wait_steps, strict=True):
            for bundle, of_bundle in bundles:
                first = bundle[0]
                # `is` first: comparing by value reads every weight.
                if steps == of_bundle and (first.synapse is connection.synapse or first.synapse == connection.synapse):
                    bundle.append(connection)
                    break
            else:
                bundles.append(([connection], steps))
        return bundles

    def usage(self, region: Region) -> Usage:
        """Resource usage of a region on one core, without output axons.

        Raises
        ------
        BudgetError
            The region needs wider target indices than the chip has.
        """
        key = self._key(region)
        if key not in self._used:
            self._used[key] = self._counted(region)
        return self._used[key]

    def _counted(self, region: Region) -> Usage:
        memory, n_axons, n_synapses, encodings, fan_in = 0, 0, 0, set[str](), np.zeros(())
        for counter, bundle in zip(self._counters, self._bundles, strict=True):
            bits, axons, synapses, encoding = counter.count(region, self.grid)
            # The lists are stored once for all sources of a bundle; each source has axons of its own.
            memory += bits + (len(bundle) - 1) * axons * counter.formula.entry
            n_axons, n_synapses = n_axons + len(bundle) * axons, n_synapses + len(bundle) * synapses
            encodings.add(encoding)
            fan_in = fan_in + counter.fan_in(region, self.grid) * len(bundle)
        return Usage(
            neurons=region.n_neurons,
            synapses=n_synapses,
            synapse_memory_bits=memory,
            input_axons=n_axons,
            encoding="+".join(sorted(encodings)),
            fan_in=math.ceil(fan_in.max() - 1e-9),  # expected counts: no synapse more for a rounding error
            neuron_memory_bits=self._neuron_bits(region),
            biases=self._biases(region),
            synapse_formats=len(self._counters),
            neuron_profiles=distinct_decays(self.layer, region, self.profile),
            threshold_profiles=distinct_thresholds(self.layer, region, self.profile),
            delay_steps=max(self.wait_steps),
        )

    @property
    def prunes_kernels(self) -> bool:
        """Whether the layer has a convolution that can lose synapses, and memory with them."""
        return any(self._is_prunable(counter, bundle) for counter, bundle in zip(self._counters, self._bundles, strict=True))

    def _is_prunable(self, counter: DenseCounter | SparseCounter | ConvCounter, bundle: list[Connection[Wiring]]) -> bool:
        # groups name their channels, and the equal taps of a folded pooling are one weight; DYNAP-CNN stores zeros too
        return (
            isinstance(counter, ConvCounter) and counter.shared == "convolution" and counter.window.wiring.groups == 1
            and not bundle[0].is_fixed and not counter.window.has_equal_lines
        )  # fmt: skip

    def kernel_bits(self, region: Region, share: float) -> int:
        """Most synapse memory of a region whose convolutions keep a share of their weights, as `kept_weights` has it."""
        # plans ask for the same regions at every level of their bisection
        key = ("kernels", tuple(map(id, self._counters)), self._key(region), share)
        if key not in self.cache:
            self.cache[key] = self._kernel_bits(region, share)
        return int(self.cache[key])

    def _kernel_bits(self, region: Region, share: float) -> int:
        total = 0
        for counter, bundle in zip(self._counters, self._bundles, strict=True):
            if isinstance(counter, ConvCounter) and self._is_prunable(counter, bundle):
                bits, axons, _ = self._capped(counter, kept_weights(counter.window.wiring, region, share)).count(region)
            else:
                bits, axons, _, _ = counter.count(region, self.grid)
            total += bits + (len(bundle) - 1) * axons * counter.formula.entry
        return total

    def _capped(self, counter: ConvCounter, most: int) -> Window:
        """The window of a convolution that keeps at most so many weights of each input channel."""
        key = ("capped", id(counter), most)
        if key not in self.cache:
            lines = counter.window.equal_lines
            self.cache[key] = Window(counter.wiring, counter.formula, self.profile, most, 1.0, lines)
        window: Window = self.cache[key]
        return window

    def usage_vector(self, region: Region) -> Integers:
        """`usage` in the order of `limited_resources`, without output axons: (n_resources,)."""
        key = self._key(region)
        if key not in self._taken:
            self._taken[key] = usage_vector(self.usage(region), 0, self.profile)
        return self._taken[key]

    def _key(self, region: Region) -> tuple[Any, ...]:
        """Hashable that is equal for regions with equal usage."""
        if region not in self._keys:
            shape = (region.sides, *[counter.key(region) for counter in self._counters])
            # Decays and thresholds can differ between regions of equal connectivity.
            self._keys[region] = (region, *shape) if self._limits_settings else shape
        return self._keys[region]

    def by_connection(self, region: Region) -> list[ListUsage]:
        """`ListUsage` of a region for each connection, as if it were the only one."""
        return [
            counter.count(region, self.grid)
            for counter, bundle in zip(self._counters, self._bundles, strict=True)
            for _ in bundle
        ]

    def sources(self, region: Region) -> Iterator[SourceNeurons]:
        """Source neurons with synapses onto a region, for each connection."""
        for bundle, counter in zip(self._bundles, self._counters, strict=True):
            shape, box, mask = counter.source_mask(region, self.grid)
            for connection in bundle:
                if connection.source not in self.capped_sources:
                    yield SourceNeurons(source=connection.source, shape=shape, box=box, mask=mask)

    def target_slices(self, regions: Sequence[Region]) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """How many of the regions each source neuron has synapses onto, in the source's shape, by connection.

        Without sources whose axons are capped afterwards, as `sources`.
        """
        for bundle, counter in zip(self._bundles, self._counters, strict=True):
            n_slices = counter.window.target_slices(regions) if isinstance(counter, ConvCounter) else None
            if n_slices is None:
                masks = (counter.source_mask(region, self.grid) for region in regions)
                for shape, box, mask in masks:
                    n_slices = np.zeros(shape, dtype=np.int32) if n_slices is None else n_slices
                    n_slices[box.box] += mask
            yield from ((c.source, n_slices) for c in bundle if c.source not in self.capped_sources and n_slices is not None)

    def fan_outs(self, region: Region) -> Iterator[NDArray[Any]]:
        """Synapses from each possible source neuron onto a region, in the shape of `SourceNeurons.mask`, by connection."""
        for counter, bundle in zip(self._counters, self._bundles, strict=True):
            for _ in bundle:
                yield counter.fan_out(region, self.grid)

    def n_sources(self, region: Region) -> dict[str, int]:
        """Number of neurons of each source that could have synapses onto a region, if no weight were zero."""
        found: dict[str, int] = {}
        for bundle, counter in zip(self._bundles, self._counters, strict=True):
            n = counter.n_sources(region, self.grid)
            for connection in bundle:
                found[connection.source] = found.get(connection.source, 0) + n
        return found

    def bundles(self) -> list[tuple[Wiring, Formula, tuple[str, ...]]]:
        """Different connectivities of the layer, each with its memory formula and the names of its sources."""
        return [
            (counter.wiring, counter.formula, tuple(connection.source for connection in bundle))
            for counter, bundle in zip(self._counters, self._bundles, strict=True)
        ]

    def windows(self, *, least: bool = False) -> list[tuple[Window, tuple[str, ...]]] | None:
        """Convolutions and their sources, with one weight for an input channel if `least`; None where there are others too."""
        counters = [
            (counter, tuple(c.source for c in bundle)) for counter, bundle in zip(self._counters, self._bundles, strict=True)
        ]
        found = [
            (self._capped(counter, 1) if least and self._is_prunable(counter, bundle) else counter.window, sources)
            for (counter, sources), bundle in zip(counters, self._bundles, strict=True) if isinstance(counter, ConvCounter)
        ]  # fmt: skip
        return found if len(found) == len(counters) else None

    def uniform_windows(self) -> list[tuple[Window, tuple[str, ...]]] | None:
        """Convolutions and their sources where usage is equal for any channels, as many of them; None for other layers."""
        found = None if self._limits_settings or "convolution" not in self.profile["encodings"].names else self.windows()
        is_uniform = all(window.is_full and window.wiring.groups in (1, self.grid[0]) for window, _ in found or ())
        return found if is_uniform else None

    def _neuron_bits(self, region: Region) -> int:
        if "dynapcnn" in self.profile["encodings"].names and len(region.sides) == 3:
            channels, rows, columns = region.sides  # of whole powers of two (sinabs, dynapcnn_layer.py)
            return channels * power_of_two(rows) * power_of_two(columns) * self._state_bits
        return region.n_neurons * self._state_bits

    def _biases(self, region: Region) -> int:
        return region.sides[0] if self.layer.bias.any() else 0  # one a channel of an image, one a neuron of a row
