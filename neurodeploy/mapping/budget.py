"""A budget: the slices into which each layer is cut, the core of each, and what it may use of that core.

A network within the budget of every slice fits the cores exactly: limits are counted in full, with no rounding left.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError, counted
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import html_table
from neurodeploy.ir.graph import INPUT, wait_steps
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.delay_balancing import Balance, G, balanced, relays_of
from neurodeploy.mapping.placement import Placement
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, bits_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AxonCap:
    """Cap on a slice's sources: at most `axons` of the source neurons start..stop-1 may have synapses on it.

    Attributes
    ----------
    connection : int
        Number of the layer's connection whose axons count.
    source : str
        Layer whose neurons they come from.
    """

    start: int
    stop: int
    axons: int
    connection: int = 0
    source: str = INPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceBudget:
    """Limits on what a slice of a layer may use of its core.

    Attributes
    ----------
    layer : str
    core : int
        Numbered from 0 through all chips.
    region : Region
        The slice's neurons, as a box in the layer's grid.
    synapse_memory_bits, input_axons : int
        Upper limits; the slices of a core add up to at most what the core has.
    sources : tuple of AxonCap
        Caps that keep the output axons of the sources' cores within their limit; they cover all source neurons of dense
        connections between rows of neurons. The plan counts all other sources.
    biases : int
        Axons of neurons that bring biases, on top of the caps: they are never pruned.
    max_neurons : int
        Neurons of the region that may stay; the others are removed.
    """

    layer: str
    core: int
    region: Region
    synapse_memory_bits: int
    input_axons: int
    sources: tuple[AxonCap, ...]
    biases: int = 0
    max_neurons: int = UNLIMITED

    @property
    def name(self) -> str:
        return f"{self.layer}{self.region}"

    @property
    def start(self) -> int:
        """First neuron of a run of neurons."""
        return self.region.starts[0]

    @property
    def stop(self) -> int:
        """One past the last neuron of a run of them."""
        return self.region.stops[0]

    @property
    def neurons(self) -> int:
        return self.region.n_neurons

    @property
    def kept_neurons(self) -> int:
        """Neurons that may stay: all of them, or `max_neurons`."""
        return min(self.neurons, self.max_neurons)


Slices: TypeAlias = "tuple[SliceBudget, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBudget:
    """Limits on what a layer may use, summed over its slices.

    Attributes
    ----------
    cores : int
        Cores that hold a slice of it.
    neurons, synapse_memory_bits, input_axons, output_axons : int
        Axons are counted on every core that they enter or leave for.
    synapses : int
        Synapses that the memory holds at `weight_bits` if they are pruned evenly: an estimate, not a limit.
    kept : float
        Share of the layer's unpruned synapse memory that it may keep, 0..1.
    binds : str
        What keeps the layer from being stored as it is: ``"synapse_memory_bits"``, ``"input_axons"``, or ``""``.
    """

    layer: str
    cores: int
    neurons: int
    synapse_memory_bits: int
    input_axons: int
    output_axons: int
    synapses: int
    kept: float
    weight_bits: int
    binds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOverrun:
    """A slice that uses more of a resource than its budget allows."""

    slice: SliceBudget
    resource: str
    need: int
    limit: int

    def error(self, budget: Budget) -> BudgetError:
        """The error that names the limit, its source and a remedy."""
        part, profile = self.slice, budget.profile
        # A chip may pool synapse memory with neurons.
        key = f"{self.resource}_per_core" if f"{self.resource}_per_core" in profile else "memory_bits_per_core"
        more = f", or allow more than {counted(budget.cores, 'core')}" if budget.cores < profile.cores else ""
        return BudgetError(
            f"layer {part.layer!r}", f"{self.resource} of {part.region.words} on core {part.core}",
            need=self.need, limit=self.limit, source=profile[key].where,
            remedy=f"Prune {1 - self.limit / self.need:.0%} more{more}.",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits on what each layer of a network may use of a chip.

    Attributes
    ----------
    profile : HardwareProfile
    cores : int
        Cores that the network may use.
    weight_bits : int
        Width of the stored weights, where they are not narrower yet.
    slices : tuple of SliceBudget
        Layer by layer, in the order of their neurons.
    layers : tuple of LayerBudget
        The same, a layer at a time.
    balances : tuple of Balance
        Delays that the plan counts with. Relays are layers of the plan; they are not trained, and follow the neurons of their
        source.
    """

    profile: HardwareProfile
    cores: int
    weight_bits: int
    slices: Slices
    layers: tuple[LayerBudget, ...]
    balances: tuple[Balance, ...] = ()

    @property
    def relays(self) -> Mapping[str, str]:
        """Source of each layer of relays of the plan."""
        return relays_of(self.balances)

    @property
    def layer_names(self) -> list[str]:
        """Layers of the network, without relays."""
        return [layer.layer for layer in self.layers if layer.layer not in self.relays]

    def with_relays(self, network: G) -> G:
        """The network, or a part of its neurons, with the relays of the plan; unchanged where it has them."""
        has_relays = any(layer.name in self.relays for layer in network)
        return network if has_relays else balanced(network, self.balances)

    @property
    def cuts(self) -> list[tuple[str, int, Region]]:
        """Layer, core and region of each slice: the `plan` of `neurodeploy.mapping.place.place`."""
        return [(part.layer, part.core, part.region) for part in self.slices]

    def of(self, layer: str) -> Slices:
        """The slices of a layer."""
        return tuple(part for part in self.slices if part.layer == layer)

    def by_core(self) -> list[list[SliceBudget]]:
        """The slices of each core."""
        cores = defaultdict[int, list[SliceBudget]](list)
        for part in self.slices:
            cores[part.core].append(part)
        return list(cores.values())

    def grid(self, layer: str) -> tuple[int, ...]:
        """The shape in which a layer is cut: its neurons, or channels, rows and columns."""
        # Slices cover the layer, so the largest stops are its sides.
        return tuple(max(stops) for stops in zip(*(part.region.stops for part in self.of(layer)), strict=True))

    def __str__(self) -> str:
        layers = (
            f"{layer.layer}: {counted(layer.neurons, 'neuron')} on {counted(layer.cores, 'core')}, may keep {layer.kept:.1%} of "
            f"its synapse memory{f'; binds: {layer.binds}' if layer.binds else ''}"
            for layer in self.layers
        )
        return "\n".join(
            [f"Budget: {counted(self.cores, 'core')} of {self.profile.name}, {self.weight_bits}-bit weights", *layers]
        )

    def _repr_html_(self) -> str:
        """A row a layer, for a notebook."""
        return html_table(
            f"Budget: {counted(self.cores, 'core')} of {self.profile.name}, {self.weight_bits}-bit weights",
            ["layer", "cores", "neurons", "synapse memory, bits", "axons in", "axons out", "may keep", "what binds"],
            (
                (
                    layer.layer, layer.cores, layer.neurons, layer.synapse_memory_bits, layer.input_axons, layer.output_axons,
                    float(layer.kept), layer.binds.replace("_", " "),
                )
                for layer in self.layers
            ),
        )  # fmt: skip

    def placed(self, placement: Placement) -> tuple[LayerBudget, ...]:
        """The limits of each layer of a placement that fits: what it uses and what its cores have left; otherwise the plan's.

        Layers share what their cores have left, so together they may not use all of it. Where a chip does not limit a resource
        itself, and for cores, a limit is the plan's, or what is used where the slices are not those of the plan.
        """
        if not placement.fits:
            return self.layers
        memory = "memory_bits" if "memory_bits" in placement.resources else "synapse_memory_bits"  # one pool, or a memory alone
        keys = {"synapse_memory_bits": memory, "input_axons": "input_axons", "output_axons": "output_axons", "cores": ""}
        homes = defaultdict[str, set[int]](set)
        for part in placement.slices:
            homes[part.layer].add(part.core)

        def left(core: int, resource: str) -> int:
            return placement.profile.capacity(resource, core) - placement.on_core(core)[resource]

        placed = list[LayerBudget]()
        for planned in (entry for entry in self.layers if entry.layer in homes):
            use = placement.of(planned.layer)
            limits = {
                name: getattr(use, name) + sum(left(core, key) for core in homes[planned.layer])
                if key in placement.resources
                else max(getattr(planned, name), getattr(use, name))
                for name, key in keys.items()
            }
            placed.append(replace(planned, neurons=max(planned.neurons, use.neurons), **limits))
        return tuple(placed)

    def core_in(self, placement: Placement, core: int) -> int:
        """The core of a placement that a core of the plan became: that of the first neuron of one of its slices."""
        for part in (part for part in self.slices if part.core == core):
            for placed in (placed for placed in placement.slices if placed.layer == part.layer):
                sides = zip(placed.region.starts, part.region.starts, placed.region.stops, strict=True)
                if all(start <= first < stop for start, first, stop in sides):
                    return placed.core
        return core

    def removals(self, n_neurons: Mapping[str, int]) -> str:
        """Name the layers that lose channels or neurons: ``channels: first keeps 3 of 8; neurons: hidden keeps 24 of 128``.

        Parameters
        ----------
        n_neurons : mapping of layer to int
            Neurons of each layer before, without relays.
        """
        found = defaultdict[str, list[str]](list)
        for layer in self.layers:
            if layer.layer not in self.relays and layer.neurons < (whole := n_neurons[layer.layer]):
                grid = self.grid(layer.layer)
                kind, plane = ("channels", math.prod(grid[1:])) if len(grid) == 3 else ("neurons", 1)
                found[kind].append(f"{layer.layer} keeps {layer.neurons // plane} of {whole // plane}")
        return "; ".join(f"{kind}: {', '.join(lost)}" for kind, lost in sorted(found.items()))

    def of_neurons(self, kept: Mapping[str, NDArray[np.bool_]]) -> Budget:
        """The same limits for the network without some of its neurons.

        Slices that lose all of them are dropped, and leave their synapse memory to the others of their core. All channels of a
        convolution have equal budgets, so those that stay are counted as its first ones.

        Parameters
        ----------
        kept : mapping of layer to array (n,), bool
            The neurons that stay, of layers in a chain; of an image whole channels, of which there may be more than the
            budget has. Relays keep those of their source.
        """
        kept = {**kept, **{relay: kept[source] for relay, source in self.relays.items() if source in kept}}
        slices, freed = list[SliceBudget](), defaultdict[int, int](int)
        for part in self.slices:
            region = _kept_region(part.region, kept.get(part.layer), self.grid(part.layer))
            caps = []
            for cap in part.sources:
                # Caps count source neurons, which are renumbered too.
                first, last = _renumbered(cap.start, cap.stop, kept.get(cap.source))
                caps.append(replace(cap, start=first, stop=last))
            if region.stops[0] > region.starts[0]:
                slices.append(replace(part, region=region, sources=tuple(caps)))
            else:  # no neuron of it is left
                freed[part.core] += part.synapse_memory_bits
        for n, part in enumerate(slices):
            # To the first slice of the core: the core's sum is what counts.
            slices[n] = replace(part, synapse_memory_bits=part.synapse_memory_bits + freed.pop(part.core, 0))
        return replace(self, slices=tuple(slices))

    def overruns(
        self, network: Network | QuantizedNetwork, *, widths: Mapping[str, int] | None = None
    ) -> Iterator[BudgetOverrun]:
        """Yield each budget that the network exceeds, counted exactly from its weights.

        The slices of a core share its memory: one may use what another leaves.

        Parameters
        ----------
        network : Network or QuantizedNetwork
            With the relays of the plan or without.
        widths : mapping of layer to int, optional
            Weight bits of layers that are not quantised yet, where they are not the budget's own.
        """
        network = self.with_relays(network)
        waiting, memory = wait_steps(network), defaultdict[int, list[tuple[SliceBudget, int]]](list)
        for layer in network:
            width = bits_of(layer, (widths or {}).get(layer.name, self.weight_bits))
            count = LayerCount(layer, width, self.profile, wait_steps=waiting[layer.name])
            for part in self.of(layer.name):
                if part.neurons > part.max_neurons:
                    yield BudgetOverrun(slice=part, resource="neurons", need=part.neurons, limit=part.max_neurons)
                usage = count.usage(part.region)
                memory[part.core].append((part, usage.synapse_memory_bits))
                if usage.input_axons > part.input_axons:
                    yield BudgetOverrun(slice=part, resource="input_axons", need=usage.input_axons, limit=part.input_axons)
                for cap in part.sources:
                    weight = layer.connections[cap.connection].synapse.matrix()[part.start : part.stop, cap.start : cap.stop]
                    axons = int(weight.any(axis=0).sum())
                    if axons > cap.axons:
                        yield BudgetOverrun(slice=part, resource="output_axons", need=axons, limit=cap.axons)
        # By core, not by slice: a slice may exceed its own budget where its neighbours use less of theirs.
        for parts in memory.values():
            need, limit = sum(bits for _, bits in parts), sum(part.synapse_memory_bits for part, _ in parts)
            for part, bits in parts:
                left = max(part.synapse_memory_bits, limit - (need - bits))  # its own budget, or what the others leave
                if need > limit and bits > left:
                    yield BudgetOverrun(slice=part, resource="synapse_memory_bits", need=bits, limit=left)

    def check(self, network: Network | QuantizedNetwork, *, widths: Mapping[str, int] | None = None) -> None:
        """Raise `BudgetError` for the first budget that the network breaks."""
        for overrun in self.overruns(network, widths=widths):
            raise overrun.error(self)


def _kept_region(region: Region, kept: NDArray[np.bool_] | None, grid: tuple[int, ...]) -> Region:
    """The region in the numbering of the kept neurons, or channels."""
    if kept is None:
        return region
    if len(grid) == 1:
        return Region.run(*_renumbered(region.starts[0], region.stops[0], kept))
    # Whole channels are kept, so this is exact.
    channels, starts, stops = int(kept.sum()) // math.prod(grid[1:]), region.starts, region.stops
    return Region((min(starts[0], channels), *starts[1:]), (min(stops[0], channels), *stops[1:]))


def _renumbered(start: int, stop: int, kept: NDArray[np.bool_] | None) -> tuple[int, int]:
    """A run of neurons in the numbering of the kept ones."""
    return (start, stop) if kept is None else (int(kept[:start].sum()), int(kept[:stop].sum()))
