"""How the cores are shared out among the layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from neurodeploy.budget import AxonCap, Budget, LayerBudget, SliceBudget, Slices
from neurodeploy.counting import Heard, LayerCount
from neurodeploy.encodings import weight_bits
from neurodeploy.errors import BudgetError
from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.layout import counts_of, filled
from neurodeploy.network import Network
from neurodeploy.placement import Slice
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.regions import Region, grid_of
from neurodeploy.resources import DEFAULT_WEIGHT_BITS, AnyLayer, Layers, Usage, count
from neurodeploy.wiring import DenseWiring

_HALVINGS = 12
"""The level that all layers are brought to is found to a part in 2**12."""


def share_budget(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    chips: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
) -> Budget:
    """Share the cores out among the layers.

    Synapse memory goes to the layers in proportion to the square root of what they would need unpruned, and never
    beyond that: of all shares b with sum B this makes the sum of need / b smallest, the loss by pruning being about
    inverse in the share that is kept. So small layers, readouts above all, are kept whole. The layers, each region at
    its share of what it would need, are then laid onto the cores as `neurodeploy.layout` lays them, at the highest level
    (the same for all that shrink) at which they fit, and what a core has left over goes to the slices on it.

    Parameters
    ----------
    cores, chips : int, optional
        How many cores, or chips of them, the network may use; all of the profile's by default.
    bits : int
        Width that the weights will be stored in; rounded up to one that the chip has.

    Raises
    ------
    RequestError
        `cores` or `chips` is not within 1..what the profile has.
    BudgetError
        No pruning of synapses can help: too many neurons for the cores, or a core without room for a single axon.
    """
    cores = profile.cores_given(cores, chips)
    width = weight_bits(bits, profile)
    layers: Layers = network.layers
    _check_neurons(network, profile, cores)
    counts = counts_of(layers, dict.fromkeys((layer.name for layer in layers), width), profile, connectivity=1.0)
    slices = _plan(layers, profile, counts, cores)
    parts = _cap_axons(layers, profile, _top_up(profile, counts, slices))
    for part in parts:
        _check_room(part, counts[part.layer], cores)
    budgets = tuple(_layer_budget(layer, layers, counts[layer.name], parts) for layer in layers)
    return Budget(profile=profile, cores=cores, weight_bits=width, slices=parts, layers=budgets)


def _check_neurons(network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int) -> None:
    per_core, state = profile["neurons_per_core"], profile.number("neuron_state_bits", 0)
    pool = profile.capacity("memory_bits")
    limit, where = per_core.number, per_core.where
    if state and pool // state < limit:
        limit, where = pool // state, profile["neuron_state_bits"].where
    if network.n_neurons > cores * limit:
        largest = max(network.layers, key=lambda layer: layer.n_neurons)
        raise BudgetError(
            f"layer {largest.name!r}", f"neurons of the network on {cores} cores (this layer alone has {largest.n_neurons:,})",
            need=network.n_neurons, limit=cores * limit, source=where,
            remedy=f"Pruning synapses does not help: allow {-(-network.n_neurons // limit)} cores or take out neurons.",
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- who stands where


@dataclass(frozen=True, slots=True)
class _Pressed:
    """A layer that may keep a share of its unpruned synapse memory, counted as `LayerCount` counts.

    Where axons have tables of their own, those of a layer that can be pruned axon by axon take no room in the plan: they are
    capped afterwards.
    """

    count: LayerCount
    share: float
    prunes_axons: bool

    @property
    def layer(self) -> AnyLayer:
        return self.count.layer

    @property
    def connectivity(self) -> float | None:
        return self.count.connectivity

    def usage(self, region: Region) -> Usage:
        usage = self.count.usage(region)
        memory = math.ceil(usage.synapse_memory_bits * self.share)
        return replace(usage, synapse_memory_bits=memory, input_axons=0 if self.prunes_axons else usage.input_axons)

    def heard(self, region: Region) -> Iterator[Heard]:
        return iter(()) if self.prunes_axons and "memory_bits_per_core" not in self.count.profile else self.count.heard(region)

    def hears(self, region: Region) -> Mapping[str, int]:
        return self.count.hears(region)


def _plan(layers: Layers, profile: HardwareProfile, counts: Mapping[str, LayerCount], cores: int) -> tuple[Slice, ...]:
    """The layers on the cores, each at the largest share that they hold: as they are, if they fit so."""
    whole = filled(layers, profile, counts)
    if _n_cores(whole) <= cores:
        return whole
    shares = _shares(whole, profile, cores)
    kept = {name for name, share in shares.items() if math.isinf(share)}

    def plan(level: float, kept: set[str]) -> tuple[Slice, ...] | None:
        pressed = {
            layer.name: _Pressed(
                counts[layer.name],
                1.0 if layer.name in kept else level * min(shares[layer.name], 1.0),
                _is_prunable(layer, layers),
            )
            for layer in layers
        }
        slices = filled(layers, profile, pressed)
        return slices if _n_cores(slices) <= cores else None

    if (everything := plan(1.0, kept)) is not None:
        return everything
    kept = kept if plan(0.0, kept) is not None else set()
    low, high, best = 0.0, 1.0, plan(0.0, kept)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        attempt = plan(middle, kept)
        low, high, best = (middle, high, attempt) if attempt is not None else (low, middle, best)
    if best is None:
        raise _no_plan(layers, profile, cores)
    return best


def _no_plan(layers: Layers, profile: HardwareProfile, cores: int) -> BudgetError:
    largest = max(layers, key=lambda layer: layer.n_neurons)
    where = profile["memory_bits_per_core" if "memory_bits_per_core" in profile else "neurons_per_core"].where
    return BudgetError(
        f"layer {largest.name!r}", f"neurons and axons alone do not fit {cores} cores, whatever is pruned", source=where,
        remedy=f"Allow more than {cores} cores.",
    )  # fmt: skip


def _n_cores(slices: tuple[Slice, ...]) -> int:
    return len({part.core for part in slices})


def _shares(whole: tuple[Slice, ...], profile: HardwareProfile, cores: int) -> dict[str, float]:
    """Share of its unpruned bits that a layer may use: square-root water-filling; infinite for a layer that is kept whole."""
    bits: dict[str, float] = defaultdict(float)
    for part in whole:
        bits[part.layer] += part.usage.synapse_memory_bits
    left = float(cores * _memory(profile)) - sum(_beside(part, profile) for part in whole)
    shares: dict[str, float] = {}
    needs = dict(bits)
    while needs:
        level = max(left, 0.0) / sum(np.sqrt(need) for need in needs.values())
        kept_whole = {name: need for name, need in needs.items() if need <= level * np.sqrt(need)}
        if not kept_whole:
            return shares | {name: float(level / np.sqrt(need)) for name, need in needs.items()}
        shares |= dict.fromkeys(kept_whole, math.inf)
        left -= sum(kept_whole.values())
        needs = {name: need for name, need in needs.items() if name not in kept_whole}
    return shares


def _memory(profile: HardwareProfile) -> int:
    """Bits of a core that synapses may use, alone or beside neurons and axons."""
    return min(profile.capacity("memory_bits"), profile.capacity("synapse_memory_bits"))


def _beside(part: Slice, profile: HardwareProfile) -> int:
    """Bits of that memory that a slice takes for its neurons and the axons that leave them."""
    state, sent = profile.number("neuron_state_bits", 0), profile.number("output_axon_bits", 0)
    return part.usage.neurons * state + part.output_axons * sent if "memory_bits_per_core" in profile else 0


def _is_prunable(layer: AnyLayer, layers: Layers) -> bool:
    """Whether the layer can be pruned axon by axon: one dense connection between rows of neurons."""
    first = layer.connections[0]
    source = next((other for other in layers if other.name == first.source), None)
    rows = grid_of(layer), (1,) if source is None else grid_of(source)
    return len(layer.connections) == 1 and isinstance(first.synapse, DenseWiring) and all(len(row) == 1 for row in rows)


# ---------------------------------------------------------------------------------------------- who may use what


def _top_up(profile: HardwareProfile, counts: Mapping[str, LayerCount], slices: tuple[Slice, ...]) -> Slices:
    """What a core has, shared among its slices: memory in proportion to what they were given, input axons to what they hear."""
    on_core: dict[int, list[Slice]] = defaultdict(list)
    for part in slices:
        on_core[part.core].append(part)
    axons, budgets = profile.capacity("input_axons"), []
    for part in slices:
        together = on_core[part.core]
        memory = _memory(profile) - sum(_beside(other, profile) for other in together)
        bits = sum(other.usage.synapse_memory_bits for other in together)
        share = part.usage.synapse_memory_bits / bits if bits else part.usage.neurons / sum(p.usage.neurons for p in together)
        mine = counts[part.layer].usage(part.region).input_axons
        wanted = sum(counts[other.layer].usage(other.region).input_axons for other in together)
        budgets.append(SliceBudget(
            layer=part.layer, core=part.core, region=part.region,
            synapse_memory_bits=int(memory * share) if memory < UNLIMITED else part.usage.synapse_memory_bits,
            input_axons=mine if wanted <= axons else mine * axons // wanted, sources=(),
        ))  # fmt: skip
    order = {name: n for n, name in enumerate(counts)}
    return tuple(sorted(budgets, key=lambda part: (order[part.layer], part.region)))


def _cap_axons(layers: Layers, profile: HardwareProfile, slices: Slices) -> Slices:
    """Cap, for each slice and each slice of its source, the axons between them by the source core's output axons."""
    limit = profile.capacity("output_axons")
    prunable = {layer.name: layer.connections[0].source for layer in layers if _is_prunable(layer, layers)}
    of_layer: dict[str, list[SliceBudget]] = defaultdict(list)
    for part in slices:
        of_layer[part.layer].append(part)
    n_targets = {layer.name: sum(len(of_layer[target.name]) for target, _ in _targets(layers, layer.name)) for layer in layers}
    wanted: dict[int, int] = defaultdict(int)
    for part in slices:
        wanted[part.core] += part.neurons * n_targets[part.layer]
    capped = []
    for part in slices:
        if part.layer not in prunable:
            capped.append(part)
            continue
        source, n_in = prunable[part.layer], next(layer for layer in layers if layer.name == part.layer).weight.shape[1]
        caps = [
            AxonCap(start=a.start, stop=a.stop, axons=a.neurons * min(limit, wanted[a.core]) // wanted[a.core])
            for a in of_layer[source]
        ] or [AxonCap(start=0, stop=n_in, axons=n_in)]
        room = sum(cap.axons for cap in caps)
        capped.append(replace(part, sources=tuple(caps), input_axons=min(part.input_axons, room)))
    return tuple(capped)


def _targets(layers: Layers, source: str) -> Iterator[tuple[AnyLayer, str]]:
    return ((layer, c.source) for layer in layers for c in layer.connections if c.source == source)


def _check_room(part: SliceBudget, layer_count: LayerCount, cores: int) -> None:
    profile = layer_count.profile
    single = count(np.asarray([1]), part.neurons, layer_count.width, profile).synapse_memory_bits
    if part.synapse_memory_bits < single or part.input_axons < 1:
        key = "synapse_memory_bits_per_core" if "synapse_memory_bits_per_core" in profile else "memory_bits_per_core"
        raise BudgetError(
            f"layer {part.layer!r}", f"{part.region.words} get no room for a synapse on core {part.core}",
            source=profile[key].where, remedy=f"Allow more than {cores} cores.",
        )  # fmt: skip


def _layer_budget(layer: AnyLayer, layers: Layers, counted: LayerCount, slices: Slices) -> LayerBudget:
    mine = [part for part in slices if part.layer == layer.name]
    usages = [counted.usage(part.region) for part in mine]
    given, full = sum(part.synapse_memory_bits for part in mine), sum(usage.synapse_memory_bits for usage in usages)
    kept = min(1.0, given / max(full, 1))
    hearing = {target.name for target, _ in _targets(layers, layer.name)}
    return LayerBudget(
        layer=layer.name,
        cores=len({part.core for part in mine}),
        neurons=layer.n_neurons,
        synapse_memory_bits=given,
        input_axons=sum(part.input_axons for part in mine),
        output_axons=sum(_sent(part, layer.name) for part in slices if part.layer in hearing),
        synapses=sum(_synapses_within(part, usage, counted) for part, usage in zip(mine, usages, strict=True)),
        kept=kept,
        weight_bits=counted.width,
        binds=_binding(mine, usages),
    )


def _sent(part: SliceBudget, source: str) -> int:
    """Output axons that lead to a slice, of the source."""
    return sum(cap.axons for cap in part.sources) if part.sources else part.input_axons * bool(source)


def _synapses_within(part: SliceBudget, full: Usage, counted: LayerCount) -> int:
    """Most synapses of a slice within its memory, when every weight survives with the same chance."""
    if full.synapse_memory_bits <= part.synapse_memory_bits:
        return full.synapses
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        thinned = LayerCount(counted.layer, counted.width, counted.profile, connectivity=middle)
        fits = thinned.usage(part.region).synapse_memory_bits <= part.synapse_memory_bits
        low, high = (middle, high) if fits else (low, middle)
    return int(low * full.synapses)


def _binding(slices: list[SliceBudget], usages: list[Usage]) -> str:
    pairs = list(zip(slices, usages, strict=True))
    if any(usage.synapse_memory_bits > part.synapse_memory_bits for part, usage in pairs):
        return "synapse_memory_bits"
    return "input_axons" if any(usage.input_axons > part.input_axons for part, usage in pairs) else ""
