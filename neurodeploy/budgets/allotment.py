"""What each slice of a plan may use of its core, and what that is for the layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import TypeAlias

from neurodeploy.budgets.budget import AxonCap, LayerBudget, SliceBudget, Slices
from neurodeploy.budgets.core_shares import biases_of, prunable_sources, topped_up
from neurodeploy.budgets.room import Lack
from neurodeploy.chip_clock import constant
from neurodeploy.hardware import HardwareProfile
from neurodeploy.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, Usage

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
        limit, beside = profile.capacity("output_axons"), constant(layers)
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
    thinned = cache(partial(LayerCount, counted.layer, counted.width, counted.profile, waits=counted.waits))
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
    return sum(cap.axons for cap in part.sources) if is_capped else counted.hears(part.region)[source]


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
