"""How the cores are shared out among the layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurodeploy.budget import AxonCap, Budget, LayerBudget, SliceBudget, Slices
from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.network import Network
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.resources import (
    DEFAULT_WEIGHT_BITS,
    AnyLayer,
    Layers,
    SynapseCounts,
    Usage,
    axon_bits,
    count,
    index_bits,
    weight_bits,
)

_UNLIMITED = 1 << 62


def share_budget(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
) -> Budget:
    """Share the cores out among the layers.

    Synapse memory goes to the layers in proportion to the square root of what they would need unpruned, and never
    beyond that: of all shares b with sum B this makes the sum of need / b smallest, the loss by pruning being about
    inverse in the share that is kept. So small layers, readouts above all, are kept whole. The layers then fill
    the cores one after another, cut where a core is full, and what a core has left over goes to the slices on it.

    Parameters
    ----------
    cores : int, optional
        How many cores the network may use; all of the profile's by default.
    bits : int
        Width that the weights will be stored in; rounded up to one that the chip has.

    Raises
    ------
    RequestError
        `cores` is not within 1..what the profile has.
    BudgetError
        No pruning of synapses can help: too many neurons for the cores, or a core without room for a single axon.
    """
    cores = profile.cores_given(cores)
    width = weight_bits(bits, profile)
    per_core = profile.neurons_per_core.number
    layers: Layers = network.layers
    if network.n_neurons > cores * per_core:
        largest = max(layers, key=lambda layer: layer.n_neurons)
        raise BudgetError(
            f"layer {largest.name!r}", f"neurons of the network on {cores} cores (this layer alone has {largest.n_neurons:,})",
            need=network.n_neurons, limit=cores * per_core, source=profile.neurons_per_core.where,
            remedy=f"Pruning synapses does not help: allow {-(-network.n_neurons // per_core)} cores or take out neurons.",
        )  # fmt: skip
    shares = _shares(layers, profile, cores, width)
    slices = _cap_axons(layers, profile, _top_up(profile, _fill(layers, profile, cores, width, shares)))
    for part in slices:
        single = count(np.asarray([1]), part.neurons, width, profile).synapse_memory_bits
        if part.synapse_memory_bits < single or part.input_axons < 1:
            raise BudgetError(
                f"layer {part.layer!r}", f"neurons {part.start}..{part.stop - 1} get no room for a synapse on core {part.core}",
                source=profile.synapse_memory_bits_per_core.where, remedy=f"Allow more than {cores} cores.",
            )  # fmt: skip
    budgets = tuple(_layer_budget(layers, layer, profile, width, slices) for layer in layers)
    return Budget(profile=profile, cores=cores, weight_bits=width, slices=slices, layers=budgets)


def _unpruned_bits(layer: AnyLayer, n_neurons: int, width: int, profile: HardwareProfile) -> int:
    """Memory of `n_neurons` of the layer's neurons on one core with every weight kept."""
    full = np.full(layer.weight.shape[1], n_neurons)
    return count(full, n_neurons, width, profile).synapse_memory_bits


def _shares(layers: Layers, profile: HardwareProfile, cores: int, width: int) -> dict[str, float]:
    """Bits a layer may use before slices are cut: square-root water-filling, never above the unpruned need."""
    per_core = profile.neurons_per_core.number
    needs: dict[str, float] = {}
    for layer in layers:
        whole, rest = divmod(layer.n_neurons, per_core)
        pieces = [per_core] * whole + [rest] * (rest > 0)
        needs[layer.name] = float(sum(_unpruned_bits(layer, n, width, profile) for n in pieces))
    left = float(cores * profile.synapse_memory_bits_per_core.number)
    shares: dict[str, float] = {}
    while needs:
        level = left / sum(np.sqrt(need) for need in needs.values())
        kept_whole = {name: need for name, need in needs.items() if need <= level * np.sqrt(need)}
        if not kept_whole:
            return shares | {name: float(level * np.sqrt(need)) for name, need in needs.items()}
        shares |= dict.fromkeys(kept_whole, np.inf)
        left -= sum(kept_whole.values())
        needs = {name: need for name, need in needs.items() if name not in kept_whole}
    return shares


def _fill(layers: Layers, profile: HardwareProfile, cores: int, width: int, shares: dict[str, float]) -> Slices:
    """Lay the layers over the cores in order, with the largest part of the shares (the same of each) that they hold.

    Layers to be kept whole stay so while shrinking the others alone helps. Only where nothing has to shrink is it worth
    a core of its own that a layer's input axons are all received.
    """

    def plan(part: float, whole: set[str], axons: int = _UNLIMITED) -> Slices | None:
        parts = {name: np.inf if name in whole else part * share for name, share in finite.items()}
        return _try_fill(layers, profile, cores, width, parts, axons)

    finite = {layer.name: min(shares[layer.name], _unpruned_bits(layer, layer.n_neurons, width, profile)) for layer in layers}
    kept = {name for name, share in shares.items() if np.isinf(share)}
    everything = plan(1.0, kept, profile.input_axons_per_core.number) or plan(1.0, kept)
    if everything is not None:
        return everything
    whole = kept if plan(0.0, kept) is not None else set()
    best = plan(0.0, whole)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        attempt = plan(middle, whole)
        low, high, best = (middle, high, attempt) if attempt is not None else (low, middle, best)
    if best is None:
        raise AssertionError("the neurons fit the cores, so a plan without memory does")
    return best


def _try_fill(
    layers: Layers, profile: HardwareProfile, cores: int, width: int, shares: dict[str, float], axons_per_core: int
) -> Slices | None:
    """One slice after another onto one core after another; None where the cores run out."""
    slices: list[SliceBudget] = []
    core = 0
    empty = (profile.neurons_per_core.number, profile.synapse_memory_bits_per_core.number, axons_per_core)
    neurons, memory, axons = empty
    for layer in layers:
        start, n_in = 0, layer.weight.shape[1]
        received = min(n_in, axons_per_core)
        while start < layer.n_neurons:
            rows = min(neurons, layer.n_neurons - start) if received <= axons else 0
            rows, bits = _rows_within(layer, rows, memory, width, profile, shares[layer.name])
            if rows:
                slices.append(SliceBudget(
                    layer=layer.name, core=core, start=start, stop=start + rows,
                    synapse_memory_bits=bits, input_axons=n_in, sources=(),
                ))  # fmt: skip
                axons -= received
            start, neurons, memory = start + rows, neurons - rows, memory - bits
            if start < layer.n_neurons:  # the core is full
                if core + 1 == cores or (rows == 0 and (neurons, memory, axons) == empty):
                    return None
                core += 1
                neurons, memory, axons = empty
    return tuple(slices)


def _rows_within(layer: AnyLayer, rows: int, memory: int, width: int, profile: HardwareProfile, share: float) -> tuple[int, int]:
    """How many of `rows` neurons find room in `memory`, and the bits they get: their part of the share, or all they need."""
    if np.isinf(share):
        low, high = 0, rows
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if _unpruned_bits(layer, middle, width, profile) <= memory else (low, middle - 1)
        return low, _unpruned_bits(layer, low, width, profile) if low else 0
    row_bits = share / layer.n_neurons
    fitting = rows if row_bits * rows <= memory else int(memory / row_bits)
    return fitting, int(fitting * row_bits)


def _top_up(profile: HardwareProfile, slices: Slices) -> Slices:
    """Give what a core has left to its slices, in proportion to their memory; share its input axons likewise."""
    memory, axons = profile.synapse_memory_bits_per_core.number, profile.input_axons_per_core.number
    full = []
    for part in slices:
        together = [other for other in slices if other.core == part.core]
        bits = sum(other.synapse_memory_bits for other in together)
        wanted = sum(other.input_axons for other in together)
        share = part.synapse_memory_bits / bits if bits else part.neurons / sum(other.neurons for other in together)
        full.append(replace(
            part,
            synapse_memory_bits=int(memory * share),
            input_axons=part.input_axons if wanted <= axons else part.input_axons * axons // wanted,
        ))  # fmt: skip
    return tuple(full)


def _cap_axons(layers: Layers, profile: HardwareProfile, slices: Slices) -> Slices:
    """Cap, for each slice and each slice of its source, the axons between them by the source core's output axons."""
    limit = profile.output_axons_per_core.number
    by_name = {layer.name: layer for layer in layers}
    n_targets = {name: sum(_source(by_name[part.layer]) == name for part in slices) for name in by_name}
    wanted: dict[int, int] = {}
    for part in slices:
        wanted[part.core] = wanted.get(part.core, 0) + part.neurons * n_targets[part.layer]
    capped = []
    for part in slices:
        source = _source(by_name[part.layer])
        n_in = by_name[part.layer].weight.shape[1]
        caps = [
            AxonCap(start=a.start, stop=a.stop, axons=a.neurons * min(limit, wanted[a.core]) // wanted[a.core])
            for a in slices
            if a.layer == source
        ] or [AxonCap(start=0, stop=n_in, axons=n_in)]
        room = sum(cap.axons for cap in caps)
        capped.append(replace(part, sources=tuple(caps), input_axons=min(part.input_axons, room)))
    return tuple(capped)


def _layer_budget(layers: Layers, layer: AnyLayer, profile: HardwareProfile, width: int, slices: Slices) -> LayerBudget:
    mine = [part for part in slices if part.layer == layer.name]
    targets = {target.name for target in layers if _source(target) == layer.name}
    counts = SynapseCounts(layer)
    usages = [counts.usage(part.start, part.stop, width, profile) for part in mine]
    return LayerBudget(
        layer=layer.name,
        cores=len({part.core for part in mine}),
        neurons=layer.n_neurons,
        synapse_memory_bits=sum(part.synapse_memory_bits for part in mine),
        input_axons=sum(part.input_axons for part in mine),
        output_axons=sum(cap.axons for part in slices if part.layer in targets for cap in part.sources),
        synapses=sum(_synapses_within(part, layer.weight.shape[1], width, profile) for part in mine),
        weight_bits=width,
        binds=_binding(mine, usages),
    )


def _source(layer: AnyLayer) -> str:
    return layer.connections[0].source


def _synapses_within(part: SliceBudget, n_in: int, width: int, profile: HardwareProfile) -> int:
    """Most synapses of a slice within its memory when every axon keeps about equally many."""
    if n_in * int(axon_bits(np.asarray(part.neurons), width, 0, profile)) <= part.synapse_memory_bits:
        return part.neurons * n_in
    per_axon = axon_bits(np.arange(part.neurons + 1), width, index_bits(part.neurons, profile), profile) * n_in
    return int(np.searchsorted(per_axon, part.synapse_memory_bits, side="right") - 1) * n_in


def _binding(slices: list[SliceBudget], usages: list[Usage]) -> str:
    pairs = list(zip(slices, usages, strict=True))
    if any(usage.synapse_memory_bits > part.synapse_memory_bits for part, usage in pairs):
        return "synapse_memory_bits"
    return "input_axons" if any(usage.input_axons > part.input_axons for part, usage in pairs) else ""
