"""Budgets of the slices of a plan, as shares of their cores: synapse memory, input axons, and caps on output axons.

The slices of a core share what the core has. A plan is infeasible if one of its cores cannot hold a synapse for each slice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.connectivity import is_dense
from neurodeploy.ir.graph import INPUT, Connection, bias_sources
from neurodeploy.mapping.budget import AxonCap, LayerBudget, SliceBudget, Slices
from neurodeploy.mapping.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, Region, Usage, count, grid_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasibility:
    """A limit that no pruning of synapses can meet.

    Attributes
    ----------
    layer : str
    what : str
        What is counted.
    need, limit : int
    key : str
        The profile's key of the limit.
    is_of_cores : bool
        Whether `need` and `limit` count cores, or what a number of cores holds together.
    depends_on_cut : bool
        Whether it follows from how many slices the layers are cut into, so that another number of cores could help.
    """

    layer: str
    what: str
    need: int
    limit: int
    key: str
    is_of_cores: bool = False
    depends_on_cut: bool = False

    def error(self, profile: HardwareProfile, remedy: str) -> BudgetError:
        """The error that says so, with a remedy."""
        return BudgetError(
            f"layer {self.layer!r}", self.what, need=self.need, limit=self.limit, source=profile[self.key].where, remedy=remedy
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableAxons:
    """Input axons of a row of neurons that can be pruned one by one: those of dense connections.

    Attributes
    ----------
    groups : tuple of tuple of int
        Numbers of the connections. Those of a group have equal synapses: their axons are kept or pruned together.
    biases : int
        Axons of neurons that bring biases, which are never pruned.
    uncapped : frozenset of str
        Sources that are images, and what is added to them: the plan counts all their output axons, which are not capped.
    """

    groups: tuple[tuple[int, ...], ...]
    biases: int
    uncapped: frozenset[str]

    @property
    def least(self) -> int:
        """Axons of a slice that keeps one synapse and its biases."""
        return max(len(group) for group in self.groups) + self.biases


def prunable_axons(layers: Layers) -> dict[str, PrunableAxons]:
    """The prunable axons of each row of neurons that has dense connections alone, none of them fixed."""
    biases, found = bias_sources(layers), {}
    rows = {INPUT, *(layer.name for layer in layers if len(grid_of(layer)) == 1)}
    for layer in layers:
        connections: tuple[Connection[Any], ...] = layer.connections
        main = [n for n, c in enumerate(connections) if c.source not in biases]
        if layer.name in rows - biases and main and all(is_dense(c.synapse) and not c.is_fixed for c in connections):
            groups: list[list[int]] = []
            for n in main:
                group = next((group for group in groups if connections[group[0]].synapse == connections[n].synapse), None)
                if group is None:
                    groups.append([n])
                else:
                    group.append(n)
            names, uncapped = [{connections[n].source for n in group} for group in groups], set[str]()
            for _ in names:  # each step may join a further group
                uncapped.update(*(group for group in names if not group <= rows - uncapped))
            found[layer.name] = PrunableAxons(
                groups=tuple(map(tuple, groups)), biases=len(connections) - len(main), uncapped=frozenset(uncapped)
            )
    return found


def minimum_usage(counted: LayerCount, region: Region, whole: Usage, prunable: PrunableAxons | None) -> tuple[int, int]:
    """Synapse memory (bits) and input axons of a region that keeps one synapse and its biases, at most what it has unpruned.

    A convolution keeps one weight of each input channel.

    Parameters
    ----------
    whole : Usage
        Usage of the region as if no weight were zero.
    prunable : PrunableAxons or None
        None where axons are not pruned one by one.
    """
    biases = 0 if prunable is None else prunable.biases
    key = ("single", whole.neurons, biases, counted.width)
    if key not in counted.cache:
        # Synapses of each axon: bias neurons reach every neuron of the region.
        single = np.asarray([1, *[whole.neurons] * biases])
        counted.cache[key] = count(single, whole.neurons, counted.width, counted.profile).synapse_memory_bits
    least = counted.kernel_bits(region, 0.0) if counted.prunes_kernels else counted.cache[key]
    return min(least, whole.synapse_memory_bits), min(1 if prunable is None else prunable.least, whole.input_axons)


def memory_for_synapses(profile: HardwareProfile) -> int:
    """Memory of a core (bits) that synapses use, alone or together with neurons and axons."""
    return min(profile.capacity("memory_bits"), profile.capacity("synapse_memory_bits"))


def neuron_and_axon_bits(part: Slice, profile: HardwareProfile) -> int:
    """Bits of the shared memory that the neurons and output axons of a slice take; 0 where they have memories of their own."""
    state, sent = profile.number("neuron_state_bits", 0), profile.number("output_axon_bits", 0)
    return part.usage.neurons * state + part.output_axons * sent if "memory_bits_per_core" in profile else 0


def distribute_leftover(
    profile: HardwareProfile, counts: Mapping[str, LayerCount], plan: tuple[Slice, ...], prunable: Mapping[str, PrunableAxons]
) -> Slices | Infeasibility:
    """Share out what the cores have left: memory in proportion to the plan, input axons in proportion to the sources.

    Slices that cannot be pruned axon by axon keep all their input axons. The others share what is left of the core's, each
    with at least those of one synapse.
    """
    on_core: dict[int, list[Slice]] = defaultdict(list)
    for part in plan:
        on_core[part.core].append(part)
    cores = [_CoreBudget(slices, counts, profile, prunable) for slices in on_core.values()]
    if infeasibilities := [infeasible for core in cores for infeasible in core.infeasibilities()]:
        return max(infeasibilities, key=lambda infeasible: infeasible.need / infeasible.limit if infeasible.limit else math.inf)
    budgets = [budget for core in cores for budget in core.budgets()]
    order = {name: n for n, name in enumerate(counts)}
    return tuple(sorted(budgets, key=lambda part: (order[part.layer], part.region)))


class _CoreBudget:
    """Budgets of the slices on one core."""

    def __init__(
        self, slices: list[Slice], counts: Mapping[str, LayerCount], profile: HardwareProfile,
        prunable: Mapping[str, PrunableAxons],
    ) -> None:  # fmt: skip
        self.slices, self.profile = slices, profile
        whole = [counts[part.layer].usage(part.region) for part in slices]
        least = [
            minimum_usage(counts[part.layer], part.region, usage, prunable.get(part.layer))
            for part, usage in zip(slices, whole, strict=True)
        ]
        self._n_sources, self._minimum_bits = [usage.input_axons for usage in whole], [bits for bits, _ in least]
        self._fixed_bits = sum(neuron_and_axon_bits(part, profile) for part in slices)
        self._pruned = [part.layer in prunable for part in slices]
        self._minimum_axons = [n if is_pruned else 0 for (_, n), is_pruned in zip(least, self._pruned, strict=True)]
        # Slices that are not pruned axon by axon keep every input axon.
        self._fixed_axons = sum(n for n, is_pruned in zip(self._n_sources, self._pruned, strict=True) if not is_pruned)

    def infeasibilities(self) -> Iterator[Infeasibility]:
        """The limits of the core that are below the needs of one synapse for each slice that has a source."""
        pool = "memory_bits" if "memory_bits_per_core" in self.profile else "synapse_memory_bits"
        asked = ((pool, self._fixed_bits, self._minimum_bits), ("input_axons", self._fixed_axons, self._minimum_axons))
        first = self.slices[int(np.argmax(self._minimum_bits))]
        what = f"for one synapse a slice, of {first.region.words}{' and other slices' * (len(self.slices) > 1)}"
        for resource, fixed, least in asked:
            if any(least) and fixed + sum(least) > (limit := self.profile.capacity(resource)):
                yield Infeasibility(
                    layer=first.layer, what=f"{resource} {what}", need=fixed + sum(least), limit=limit,
                    key=f"{resource}_per_core", # output axons, whose number depends on the cut, share this memory
                    depends_on_cut=resource == "memory_bits",
                )  # fmt: skip

    def budgets(self) -> list[SliceBudget]:
        """Return the budget of each slice."""
        # Shares of it are rounded down, so that they never add up to more than the core has.
        memory = memory_for_synapses(self.profile) - self._fixed_bits
        planned = [part.usage.synapse_memory_bits for part in self.slices]
        # No synapses planned at all: by neurons.
        shares = planned if any(planned) else [part.usage.neurons for part in self.slices]
        return [
            SliceBudget(
                layer=part.layer, core=part.core, region=part.region, input_axons=axons, sources=(),
                synapse_memory_bits=memory * share // sum(shares) if memory < UNLIMITED else bits,
            )
            for part, share, bits, axons in zip(self.slices, shares, planned, self._axons(), strict=True)
        ]  # fmt: skip

    def _axons(self) -> list[int]:
        """Input axons of each slice."""
        left, fewest = self.profile.capacity("input_axons") - self._fixed_axons, sum(self._minimum_axons)
        wanted = sum(n for n, is_pruned in zip(self._n_sources, self._pruned, strict=True) if is_pruned)
        return [
            # Its minimum, and of the rest a share in proportion to what it wants beyond the minimum.
            n if not is_pruned or wanted <= left else least_axons + (n - least_axons) * (left - fewest) // (wanted - fewest)
            for n, least_axons, is_pruned in zip(self._n_sources, self._minimum_axons, self._pruned, strict=True)
        ]


SliceAndLayerBudgets: TypeAlias = "tuple[Slices, tuple[LayerBudget, ...]]"
"""Budgets of slices, and of layers."""


def slice_budgets(
    layers: Layers, profile: HardwareProfile, counts: Mapping[str, LayerCount], plan: tuple[Slice, ...]
) -> SliceAndLayerBudgets | Infeasibility:
    """Return the budgets of each slice and layer of a plan, or the limit that leaves a slice without a single synapse.

    Parameters
    ----------
    counts : mapping of layer to LayerCount
        Of the layers as if no weight were zero.
    plan : tuple of Slice
        The slices, with the synapse memory that the plan counts for each.
    """
    prunable = prunable_axons(layers)
    parts = distribute_leftover(profile, counts, plan, prunable)
    if not isinstance(parts, Infeasibility):
        parts = _cap_axons(layers, profile, parts, prunable)
    if isinstance(parts, Infeasibility):
        return parts
    full = _full_cores(parts, counts)
    return parts, tuple(_layer_budget(layer, layers, counts, parts, full) for layer in layers)


def _cap_axons(
    layers: Layers, profile: HardwareProfile, slices: Slices, prunable: Mapping[str, PrunableAxons]
) -> Slices | Infeasibility:
    """Cap the axons from each source slice to each slice, so that no core sends over more output axons than it has."""
    outgoing, biases = _OutputAxons(layers, profile, slices), bias_sources(layers)
    capped, infeasibilities = list[SliceBudget](), list[Infeasibility]()
    # equal for all slices of a layer
    caps = {layer.name: outgoing.caps(layer, prunable[layer.name]) for layer in layers if layer.name in prunable}
    uncapped = {
        layer.name: sum(c.synapse.n_in for c in layer.connections if c.source in prunable[layer.name].uncapped)
        for layer in layers if layer.name in prunable
    }  # fmt: skip
    n_biases = {layer.name: len(biases & {c.source for c in layer.connections}) for layer in layers}
    for part in slices:
        part = replace(part, biases=n_biases[part.layer])
        if part.layer in caps:
            free = uncapped[part.layer] + sum(cap.axons for cap in caps[part.layer])
            if free == 0 and part.input_axons > part.biases:
                infeasibilities.append(outgoing.infeasible(part, caps[part.layer][0].source))
            # more axons than its sources may send would be an empty promise
            part = replace(part, sources=caps[part.layer], input_axons=min(part.input_axons, free + part.biases))
        capped.append(part)
    # The worst one: a remedy for it cures all.
    return max(infeasibilities, key=lambda infeasible: infeasible.need) if infeasibilities else tuple(capped)


class _OutputAxons:
    """Output axons of the cores, shared out among the slices that they send to."""

    def __init__(self, layers: Layers, profile: HardwareProfile, slices: Slices) -> None:
        limit, biases = profile.capacity("output_axons"), bias_sources(layers)
        self.of_layer: dict[str, list[SliceBudget]] = defaultdict(list)
        for part in slices:
            self.of_layer[part.layer].append(part)
        n_targets = dict.fromkeys((layer.name for layer in layers), 0)
        for target in layers:
            for connection in target.connections:
                if connection.source in n_targets:
                    n_targets[connection.source] += len(self.of_layer[target.name])
        self._wanted: dict[int, int] = defaultdict(int)
        self._pairs: dict[int, int] = defaultdict(int)
        self._fixed_axons: dict[int, int] = defaultdict(int)  # biases are never pruned: they go to all their targets
        for part in slices:
            (self._fixed_axons if part.layer in biases else self._wanted)[part.core] += part.neurons * n_targets[part.layer]
            self._pairs[part.core] += 0 if part.layer in biases else n_targets[part.layer]
        self._limit = limit

    def per_slice(self, part: SliceBudget) -> int:
        """Neurons of a slice that may send to each target slice: all, or one and an even share of the rest, or a share."""
        wanted, pairs = self._wanted[part.core], self._pairs[part.core]
        free = max(self._limit - self._fixed_axons[part.core], 0)
        if wanted <= free:
            return part.neurons
        if pairs <= free:
            return 1 + (part.neurons - 1) * (free - pairs) // (wanted - pairs)
        return part.neurons * free // wanted

    def caps(self, layer: AnyLayer, prunable: PrunableAxons) -> tuple[AxonCap, ...]:
        """Caps on the axons of each connection of a layer onto one of its slices."""
        found = list[AxonCap]()
        for group in prunable.groups:
            if layer.connections[group[0]].source in prunable.uncapped:
                continue
            runs = {n: self._runs(layer.connections[n]) for n in group}
            cuts = sorted({0, *(stop for each in runs.values() for _, stop, _ in each)})
            for start, stop in pairwise(cuts):
                # axons that are kept together are cut where any of their sources is, and all have the fewest of them
                axons = min(
                    most * (stop - first) // (last - first) - most * (start - first) // (last - first)
                    for each in runs.values() for first, last, most in each if first <= start < last
                )  # fmt: skip
                found += [
                    AxonCap(start=start, stop=stop, axons=axons, connection=n, source=layer.connections[n].source) for n in group
                ]
        return tuple(sorted(found, key=lambda cap: (cap.connection, cap.start)))

    def _runs(self, connection: Connection[Any]) -> list[tuple[int, int, int]]:
        """First source neuron, one past the last, and the number of them that may send to a slice, of each source slice."""
        parts = self.of_layer[connection.source]
        # the input has no cores, and no output axons to cap
        return [(a.start, a.stop, self.per_slice(a)) for a in parts] or [(0, connection.synapse.n_in, connection.synapse.n_in)]

    def infeasible(self, part: SliceBudget, source: str) -> Infeasibility:
        """The limit on output axons, and what a core of the source would need for the slice to have any source neuron."""
        need = min(
            self._fixed_axons[a.core] + min(self._pairs[a.core], -(-self._wanted[a.core] // a.neurons))
            for a in self.of_layer[source]
        )
        what = f"output axons of a core with a slice of layer {source!r}, one for each target slice,"
        return Infeasibility(
            layer=part.layer, what=what, need=need, limit=self._limit, key="output_axons_per_core", depends_on_cut=True
        )  # fmt: skip


def _full_cores(parts: Slices, counts: Mapping[str, LayerCount]) -> set[int]:
    """Cores whose memory is too small for all their slices unpruned; elsewhere one slice uses what another leaves."""
    left: dict[int, int] = defaultdict(int)
    for part in parts:
        # Summed over the core: slices share its memory.
        left[part.core] += part.synapse_memory_bits - counts[part.layer].usage(part.region).synapse_memory_bits
    return {core for core, bits in left.items() if bits < 0}


def _layer_budget(
    layer: AnyLayer, layers: Layers, counts: Mapping[str, LayerCount], slices: Slices, full_cores: Collection[int]
) -> LayerBudget:
    """The sum over the slices of a layer."""
    counted = counts[layer.name]
    mine = [part for part in slices if part.layer == layer.name]
    usages = [counted.usage(part.region) for part in mine]
    memory, full = sum(part.synapse_memory_bits for part in mine), sum(usage.synapse_memory_bits for usage in usages)
    kept = min(1.0, memory / full) if full else 1.0
    # Bisection asks for the same connectivities for every slice, so each count is made once a layer.
    count_at = cache(
        partial(LayerCount, counted.layer, counted.width, counted.profile, cache=counted.cache, wait_steps=counted.wait_steps)
    )
    targets = {target.name for target in layers if any(c.source == layer.name for c in target.connections)}
    return LayerBudget(
        layer=layer.name,
        cores=len({part.core for part in mine}),
        neurons=layer.n_neurons,
        synapse_memory_bits=memory,
        input_axons=sum(part.input_axons for part in mine),
        output_axons=sum(_output_axons_to(part, layer.name, counts[part.layer]) for part in slices if part.layer in targets),
        synapses=sum(_synapses_in_memory(part, usage, count_at) for part, usage in zip(mine, usages, strict=True)),
        kept=kept,
        weight_bits=counted.width,
        binds=_binding_resource(mine, usages, full_cores),
    )


def _output_axons_to(part: SliceBudget, source: str, counted: LayerCount) -> int:
    """Output axons from a source to a slice; neurons, also where the slice's input axons are pixels."""
    caps = [cap.axons for cap in part.sources if cap.source == source]
    return sum(caps) if caps else counted.n_sources(part.region)[source]


def _synapses_in_memory(part: SliceBudget, full: Usage, count_at: Callable[..., LayerCount]) -> int:
    """Most synapses of a slice within its memory, when every weight survives with the same chance.

    `count_at` gives the layer's count at a connectivity.
    """
    if full.synapse_memory_bits <= part.synapse_memory_bits:
        return full.synapses
    low, high = 0.0, 1.0
    for _ in range(10):  # to 1 part in 1,024: enough for an estimate
        middle = (low + high) / 2
        fits = count_at(connectivity=middle).usage(part.region).synapse_memory_bits <= part.synapse_memory_bits
        low, high = (middle, high) if fits else (low, middle)
    return int(low * full.synapses)


def _binding_resource(slices: list[SliceBudget], usages: list[Usage], full_cores: Collection[int]) -> str:
    """The resource that keeps a layer from being stored unpruned; empty if none does."""
    pairs = list(zip(slices, usages, strict=True))
    if any(usage.synapse_memory_bits > part.synapse_memory_bits and part.core in full_cores for part, usage in pairs):
        return "synapse_memory_bits"
    return "input_axons" if any(usage.input_axons > part.input_axons for part, usage in pairs) else ""
