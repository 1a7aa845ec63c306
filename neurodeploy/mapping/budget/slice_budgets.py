"""What a slice needs to hear anybody at all, and how it is told that it gets less.

What a core has, shared among its slices.

What each slice of a plan may use of its core, and what that is for the layers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeAlias

import numpy as np

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.connectivity import is_dense
from neurodeploy.ir.graph import INPUT, bias_layers
from neurodeploy.mapping.budget.budget import AxonCap, LayerBudget, SliceBudget, Slices
from neurodeploy.mapping.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, Usage, count, grid_of

# -------------------- budgets.room


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A limit that leaves no room, whatever is pruned.

    Attributes
    ----------
    layer : str
    what : str
        What was counted.
    need, limit : int
    key : str
        Of the limit, in the profile; what `limit` is, unless that is a number of cores.
    is_of_cores : bool
        Whether `need` and `limit` are numbers of cores, or what a number of cores comes down to.
    hangs_on_cut : bool
        Whether it comes of how many slices layers are cut into, so that other numbers of cores could help.
    """

    layer: str
    what: str
    need: int
    limit: int
    key: str
    is_of_cores: bool = False
    hangs_on_cut: bool = False

    def error(self, profile: HardwareProfile, remedy: str) -> BudgetError:
        """The lack as an error."""
        return BudgetError(
            f"layer {self.layer!r}", self.what, need=self.need, limit=self.limit, source=profile[self.key].where, remedy=remedy
        )

    def hopeless(self, profile: HardwareProfile) -> BudgetError:
        """The lack as an error that cores do not mend."""
        return self.error(profile, f"No number of cores helps, nor pruning: a limit of {self.need:,} would leave room.")


def least_room(counted: LayerCount, whole: Usage, biases: int) -> tuple[int, int]:
    """Bits and input axons of a region that keeps one synapse, and its biases: never more than it has.

    Parameters
    ----------
    whole : Usage
        Of the region, as if no weight were zero.
    biases : int
        Neurons that bring biases to all of the region.
    """
    key = ("single", whole.neurons, biases, counted.width)
    if key not in counted.counted:
        single = np.asarray([1, *[whole.neurons] * biases])
        counted.counted[key] = count(single, whole.neurons, counted.width, counted.profile).synapse_memory_bits
    return min(counted.counted[key], whole.synapse_memory_bits), min(1 + biases, whole.input_axons)


# -------------------- budgets.core_shares


def memory_for_synapses(profile: HardwareProfile) -> int:
    """Bits of a core that synapses may use, alone or beside neurons and axons."""
    return min(profile.capacity("memory_bits"), profile.capacity("synapse_memory_bits"))


def bits_beside(part: Slice, profile: HardwareProfile) -> int:
    """Bits of that memory that a slice takes for its neurons and the axons that leave them."""
    state, sent = profile.number("neuron_state_bits", 0), profile.number("output_axon_bits", 0)
    return part.usage.neurons * state + part.output_axons * sent if "memory_bits_per_core" in profile else 0


def prunable_sources(layers: Layers) -> dict[str, str]:
    """The layers that can be pruned axon by axon, and whom they hear: by one dense connection between rows of neurons.

    Biases may come beside it.
    """
    beside, found = bias_layers(layers), {}
    rows = {INPUT, *(layer.name for layer in layers if len(grid_of(layer)) == 1)}
    for layer in layers:
        main = [c.source for c in layer.connections if c.source not in beside]
        is_dense = all(is_dense(c.synapse) for c in layer.connections)
        if len(main) == 1 and is_dense and layer.name not in beside and {layer.name, main[0]} <= rows:
            found[layer.name] = main[0]
    return found


def biases_of(layers: Layers, among: Collection[str] | None = None) -> dict[str, int]:
    """How many neurons bring biases to each layer; to those among some alone, the others none, where these are told."""
    beside = bias_layers(layers)
    return {
        layer.name: len(beside & {c.source for c in layer.connections}) * (among is None or layer.name in among)
        for layer in layers
    }


def topped_up(
    layers: Layers, profile: HardwareProfile, counts: Mapping[str, LayerCount], plan: tuple[Slice, ...], prunable: Collection[str]
) -> Slices | Lack:
    """Memory shared in proportion to what slices were given, input axons in proportion to what they hear.

    Those that cannot be pruned axon by axon hear all that they do; the others share what is left of the core's axons, each
    having those of a single synapse at least.
    """
    on_core: dict[int, list[Slice]] = defaultdict(list)
    for part in plan:
        on_core[part.core].append(part)
    biases = biases_of(layers, prunable)
    cores = [_Core(together, counts, profile, prunable, biases) for together in on_core.values()]
    if lacks := [lack for core in cores for lack in core.lacks()]:
        return max(lacks, key=lambda lack: lack.need / lack.limit if lack.limit else math.inf)
    budgets = [budget for core in cores for budget in core.budgets()]
    order = {name: n for n, name in enumerate(counts)}
    return tuple(sorted(budgets, key=lambda part: (order[part.layer], part.region)))


class _Core:
    """A core, and the slices on it."""

    def __init__(
        self, together: list[Slice], counts: Mapping[str, LayerCount], profile: HardwareProfile, prunable: Collection[str],
        biases: Mapping[str, int],
    ) -> None:  # fmt: skip
        self.together, self.profile, self._prunable = together, profile, prunable
        whole = [counts[part.layer].usage(part.region) for part in together]
        least = [least_room(counts[part.layer], usage, biases[part.layer]) for part, usage in zip(together, whole, strict=True)]
        self._heard, self._least = [usage.input_axons for usage in whole], [bits for bits, _ in least]
        self._beside = sum(bits_beside(part, profile) for part in together)
        self._pruned = [part.layer in prunable for part in together]
        self._fewest = [n if is_pruned else 0 for (_, n), is_pruned in zip(least, self._pruned, strict=True)]
        self._fixed = sum(n for n, is_pruned in zip(self._heard, self._pruned, strict=True) if not is_pruned)

    def lacks(self) -> Iterator[Lack]:
        """Which of the core's limits leave no room for a single synapse of each slice that hears anybody."""
        pool = "memory_bits" if "memory_bits_per_core" in self.profile else "synapse_memory_bits"
        asked = ((pool, self._beside, self._least), ("input_axons", self._fixed, self._fewest))
        first = self.together[int(np.argmax(self._least))]
        what = f"for {first.region.words}{' and others' * (len(self.together) > 1)} with a synapse each"
        for resource, beside, least in asked:
            if any(least) and beside + sum(least) > (limit := self.profile.capacity(resource)):
                is_of_cut = resource == "memory_bits"  # where output axons take of it
                yield Lack(
                    layer=first.layer, what=f"{resource} {what}", need=beside + sum(least), limit=limit,
                    key=f"{resource}_per_core", hangs_on_cut=is_of_cut,
                )  # fmt: skip

    def budgets(self) -> list[SliceBudget]:
        """What each slice may use."""
        memory = memory_for_synapses(self.profile) - self._beside
        given = [part.usage.synapse_memory_bits for part in self.together]
        shares = given if any(given) else [part.usage.neurons for part in self.together]
        return [
            SliceBudget(
                layer=part.layer, core=part.core, region=part.region, input_axons=axons, sources=(),
                synapse_memory_bits=memory * share // sum(shares) if memory < UNLIMITED else bits,
            )
            for part, share, bits, axons in zip(self.together, shares, given, self._axons(), strict=True)
        ]  # fmt: skip

    def _axons(self) -> list[int]:
        """Input axons of each slice."""
        left, fewest = self.profile.capacity("input_axons") - self._fixed, sum(self._fewest)
        wanted = sum(n for n, is_pruned in zip(self._heard, self._pruned, strict=True) if is_pruned)
        return [
            n if not is_pruned or wanted <= left else few + (n - few) * (left - fewest) // (wanted - fewest)
            for n, few, is_pruned in zip(self._heard, self._fewest, self._pruned, strict=True)
        ]


# -------------------- budgets.allotment

Allotment: TypeAlias = "tuple[Slices, tuple[LayerBudget, ...]]"
"""Budgets of slices, and of layers."""


def allotted(
    layers: Layers, profile: HardwareProfile, counts: Mapping[str, LayerCount], plan: tuple[Slice, ...]
) -> Allotment | Lack:
    """What each slice and each layer may use; or what leaves a slice no room for a single synapse.

    Parameters
    ----------
    counts : mapping of layer to LayerCount
        Of the layers as if no weight were zero.
    plan : tuple of Slice
        Who stands where, and the memory that each was given in the plan.
    """
    prunable = prunable_sources(layers)
    parts = topped_up(layers, profile, counts, plan, prunable)
    if not isinstance(parts, Lack):
        parts = _cap_axons(layers, profile, parts, prunable)
    if isinstance(parts, Lack):
        return parts
    full = _full_cores(parts, counts)
    return parts, tuple(_layer_budget(layer, layers, counts, parts, full) for layer in layers)


def _cap_axons(layers: Layers, profile: HardwareProfile, slices: Slices, prunable: Mapping[str, str]) -> Slices | Lack:
    """Cap, for each slice and each slice of its source, the axons between them by the source core's output axons."""
    outgoing, biases = _Outgoing(layers, profile, slices), biases_of(layers)
    heard = {layer.name: {c.source: c.synapse.n_in for c in layer.connections} for layer in layers}
    capped, lacks = list[SliceBudget](), list[Lack]()
    for part in slices:
        beside = biases[part.layer]
        if part.layer not in prunable:
            capped.append(replace(part, biases=beside))
            continue
        source = prunable[part.layer]
        n_in, sources = heard[part.layer][source], outgoing.of_layer[source]
        caps = [AxonCap(start=a.start, stop=a.stop, axons=outgoing.each(a)) for a in sources]
        caps = caps or [AxonCap(start=0, stop=n_in, axons=n_in)]
        room = sum(cap.axons for cap in caps)
        if room == 0 and part.input_axons > beside:
            lacks.append(outgoing.lack(part, source))
        most = min(part.input_axons, room + beside)
        capped.append(replace(part, sources=tuple(caps), source=source, biases=beside, input_axons=most))
    return max(lacks, key=lambda lack: lack.need) if lacks else tuple(capped)


class _Outgoing:
    """Output axons of the cores, and how many of its neurons a slice may send to each slice that hears it."""

    def __init__(self, layers: Layers, profile: HardwareProfile, slices: Slices) -> None:
        limit, beside = profile.capacity("output_axons"), bias_layers(layers)
        self.of_layer: dict[str, list[SliceBudget]] = defaultdict(list)
        for part in slices:
            self.of_layer[part.layer].append(part)
        n_targets = {
            layer.name: sum(len(self.of_layer[target.name]) for target, _ in _targets(layers, layer.name)) for layer in layers
        }
        self._wanted: dict[int, int] = defaultdict(int)
        self._pairs: dict[int, int] = defaultdict(int)
        self._fixed: dict[int, int] = defaultdict(int)  # of neurons that bring biases: those go to all that they are for
        for part in slices:
            (self._fixed if part.layer in beside else self._wanted)[part.core] += part.neurons * n_targets[part.layer]
            self._pairs[part.core] += 0 if part.layer in beside else n_targets[part.layer]
        self._limit = limit

    def each(self, part: SliceBudget) -> int:
        """Neurons of a slice that may send to each slice: all, or one and an even share of what is left, or a share."""
        wanted, pairs = self._wanted[part.core], self._pairs[part.core]
        room = max(self._limit - self._fixed[part.core], 0)
        if wanted <= room:
            return part.neurons
        if pairs <= room:
            return 1 + (part.neurons - 1) * (room - pairs) // (wanted - pairs)
        return part.neurons * room // wanted

    def lack(self, part: SliceBudget, source: str) -> Lack:
        """What the cores of its source would have to have for a slice to hear any of them."""
        need = min(
            self._fixed[a.core] + min(self._pairs[a.core], -(-self._wanted[a.core] // a.neurons)) for a in self.of_layer[source]
        )
        what = f"output axons of a core with a slice of layer {source!r}, one for each slice that hears it,"
        return Lack(
            layer=part.layer, what=what, need=need, limit=self._limit, key="output_axons_per_core", hangs_on_cut=True
        )  # fmt: skip


def _targets(layers: Layers, source: str) -> Iterator[tuple[AnyLayer, str]]:
    return ((layer, c.source) for layer in layers for c in layer.connections if c.source == source)


def _full_cores(parts: Slices, counts: Mapping[str, LayerCount]) -> set[int]:
    """The cores that hold too little memory for all their slices together: one may use what another leaves."""
    left: dict[int, int] = defaultdict(int)
    for part in parts:
        left[part.core] += part.synapse_memory_bits - counts[part.layer].usage(part.region).synapse_memory_bits
    return {core for core, bits in left.items() if bits < 0}


def _layer_budget(
    layer: AnyLayer, layers: Layers, counts: Mapping[str, LayerCount], slices: Slices, full_cores: Collection[int]
) -> LayerBudget:
    counted = counts[layer.name]
    mine = [part for part in slices if part.layer == layer.name]
    usages = [counted.usage(part.region) for part in mine]
    given, full = sum(part.synapse_memory_bits for part in mine), sum(usage.synapse_memory_bits for usage in usages)
    kept = min(1.0, given / full) if full else 1.0
    thinned = cache(partial(LayerCount, counted.layer, counted.width, counted.profile, wait_steps=counted.wait_steps))
    hearing = {target.name for target, _ in _targets(layers, layer.name)}
    return LayerBudget(
        layer=layer.name,
        cores=len({part.core for part in mine}),
        neurons=layer.n_neurons,
        synapse_memory_bits=given,
        input_axons=sum(part.input_axons for part in mine),
        output_axons=sum(_sent(part, layer.name, counts[part.layer]) for part in slices if part.layer in hearing),
        synapses=sum(_synapses_within(part, usage, thinned) for part, usage in zip(mine, usages, strict=True)),
        kept=kept,
        weight_bits=counted.width,
        binds=_binding(mine, usages, full_cores),
    )


def _sent(part: SliceBudget, source: str, counted: LayerCount) -> int:
    """Output axons that lead to a slice, of the source: neurons, where its input axons are pixels."""
    is_capped = part.sources and part.source == source
    return sum(cap.axons for cap in part.sources) if is_capped else counted.n_sources(part.region)[source]


def _synapses_within(part: SliceBudget, full: Usage, thinned: Callable[..., LayerCount]) -> int:
    """Most synapses of a slice within its memory, when every weight survives with the same chance.

    `thinned` gives the layer's count at a connectivity: all slices halve through the same ones.
    """
    if full.synapse_memory_bits <= part.synapse_memory_bits:
        return full.synapses
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        fits = thinned(connectivity=middle).usage(part.region).synapse_memory_bits <= part.synapse_memory_bits
        low, high = (middle, high) if fits else (low, middle)
    return int(low * full.synapses)


def _binding(slices: list[SliceBudget], usages: list[Usage], full_cores: Collection[int]) -> str:
    pairs = list(zip(slices, usages, strict=True))
    if any(usage.synapse_memory_bits > part.synapse_memory_bits and part.core in full_cores for part, usage in pairs):
        return "synapse_memory_bits"
    return "input_axons" if any(usage.input_axons > part.input_axons for part, usage in pairs) else ""
