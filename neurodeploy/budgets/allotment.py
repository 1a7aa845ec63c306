"""What each slice of a plan may use of its core, and what that is for the layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial

import numpy as np

from neurodeploy.budgets.budget import AxonCap, LayerBudget, SliceBudget, Slices
from neurodeploy.chip_clock import constant
from neurodeploy.errors import BudgetError
from neurodeploy.graph import INPUT
from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.regions import grid_of
from neurodeploy.resources.usage import AnyLayer, Layers, Usage, count
from neurodeploy.wiring import DenseWiring


def allotted(
    layers: Layers, profile: HardwareProfile, counts: Mapping[str, LayerCount], plan: tuple[Slice, ...], cores: int
) -> tuple[Slices, tuple[LayerBudget, ...]]:
    """Budgets of slices, and of layers.

    Parameters
    ----------
    counts : mapping of layer to LayerCount
        Of the layers as if no weight were zero.
    plan : tuple of Slice
        Who stands where, and the memory that each was given in the plan.

    Raises
    ------
    BudgetError
        A slice gets no room for a single synapse.
    """
    prunable = prunable_sources(layers)
    parts = _cap_axons(layers, profile, _top_up(profile, counts, plan, prunable), prunable)
    for part in parts:
        _check_room(part, counts[part.layer], cores)
    full = _full_cores(parts, counts)
    return parts, tuple(_layer_budget(layer, layers, counts, parts, full) for layer in layers)


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
    beside, found = constant(layers), {}
    rows = {INPUT, *(layer.name for layer in layers if len(grid_of(layer)) == 1)}
    for layer in layers:
        main = [c.source for c in layer.connections if c.source not in beside]
        is_dense = all(isinstance(c.synapse, DenseWiring) for c in layer.connections)
        if len(main) == 1 and is_dense and layer.name not in beside and {layer.name, main[0]} <= rows:
            found[layer.name] = main[0]
    return found


def _top_up(
    profile: HardwareProfile, counts: Mapping[str, LayerCount], slices: tuple[Slice, ...], prunable: Collection[str]
) -> Slices:
    """What a core has, shared among its slices: memory in proportion to what they were given, input axons to what they hear.

    Those that cannot be pruned axon by axon hear all that they do; the others share what is left of the core's axons.
    """
    on_core: dict[int, list[Slice]] = defaultdict(list)
    for part in slices:
        on_core[part.core].append(part)
    axons, budgets = profile.capacity("input_axons"), []
    for part in slices:
        together = on_core[part.core]
        memory = memory_for_synapses(profile) - sum(bits_beside(other, profile) for other in together)
        bits = sum(other.usage.synapse_memory_bits for other in together)
        share = part.usage.synapse_memory_bits / bits if bits else part.usage.neurons / sum(p.usage.neurons for p in together)
        heard = {True: 0, False: 0}
        for other in together:
            heard[other.layer in prunable] += counts[other.layer].usage(other.region).input_axons
        mine, wanted, left = counts[part.layer].usage(part.region).input_axons, heard[True], axons - heard[False]
        budgets.append(SliceBudget(
            layer=part.layer, core=part.core, region=part.region,
            synapse_memory_bits=int(memory * share) if memory < UNLIMITED else part.usage.synapse_memory_bits,
            input_axons=mine if part.layer not in prunable or wanted <= left else mine * left // wanted, sources=(),
        ))  # fmt: skip
    order = {name: n for n, name in enumerate(counts)}
    return tuple(sorted(budgets, key=lambda part: (order[part.layer], part.region)))


def _cap_axons(layers: Layers, profile: HardwareProfile, slices: Slices, prunable: Mapping[str, str]) -> Slices:
    """Cap, for each slice and each slice of its source, the axons between them by the source core's output axons."""
    limit, beside = profile.capacity("output_axons"), constant(layers)
    heard = {layer.name: {c.source: c.synapse.n_in for c in layer.connections} for layer in layers}
    of_layer: dict[str, list[SliceBudget]] = defaultdict(list)
    for part in slices:
        of_layer[part.layer].append(part)
    n_targets = {layer.name: sum(len(of_layer[target.name]) for target, _ in _targets(layers, layer.name)) for layer in layers}
    wanted: dict[int, int] = defaultdict(int)
    fixed: dict[int, int] = defaultdict(int)  # of neurons that bring biases: those go to all that they are for
    for part in slices:
        (fixed if part.layer in beside else wanted)[part.core] += part.neurons * n_targets[part.layer]
    capped = []
    for part in slices:
        if part.layer not in prunable:
            capped.append(part)
            continue
        source = prunable[part.layer]
        biases, n_in = len(beside & heard[part.layer].keys()), heard[part.layer][source]
        caps = [
            AxonCap(start=a.start, stop=a.stop, axons=a.neurons * min(limit - fixed[a.core], wanted[a.core]) // wanted[a.core])
            for a in of_layer[source]
        ] or [AxonCap(start=0, stop=n_in, axons=n_in)]
        room = sum(cap.axons for cap in caps) + biases
        most = min(part.input_axons, room)
        capped.append(replace(part, sources=tuple(caps), source=source, biases=biases, input_axons=most))
    return tuple(capped)


def _targets(layers: Layers, source: str) -> Iterator[tuple[AnyLayer, str]]:
    return ((layer, c.source) for layer in layers for c in layer.connections if c.source == source)


def _check_room(part: SliceBudget, layer_count: LayerCount, cores: int) -> None:
    """Refuse a slice that hears somebody, and may not."""
    profile = layer_count.profile
    if layer_count.usage(part.region).input_axons == 0:
        return
    least = np.asarray([1, *[part.neurons] * part.biases])
    single = count(least, part.neurons, layer_count.width, profile).synapse_memory_bits
    if part.synapse_memory_bits < single or part.input_axons < least.size:
        key = "synapse_memory_bits_per_core" if "synapse_memory_bits_per_core" in profile else "memory_bits_per_core"
        raise BudgetError(
            f"layer {part.layer!r}", f"{part.region.words} get no room for a synapse on core {part.core}",
            source=profile[key].where, remedy=f"Allow more than {cores} cores.",
        )  # fmt: skip


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
