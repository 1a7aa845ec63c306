"""Layout of a network on a chip: cut the layers into slices, pack them onto the fewest cores, and arrange these on the board.

`lay_out` packs, whether the network fits or not; `place` refuses what does not fit, and arranges the cores so that spikes travel
least. Layers are packed from the last to the first, so that the slices that receive a neuron's spikes, and with them its output
axons, are known when it is put on a core. Where all layers are rows of neurons, no packing that keeps the layers in order, with
one slice of a layer on a core, takes fewer cores, output axons aside: usage never falls as neurons are added to a slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import RequestError, check_arguments, unsupported_kind
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.graph import wait_steps
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.core_estimate import check_size
from neurodeploy.mapping.energy import Traffic, mesh_of, multicast_hops
from neurodeploy.mapping.mesh_arrangement import arrange
from neurodeploy.mapping.packing import (
    BlockAnnealing,
    FanOut,
    OpenCores,
    assign_layers,
    axon_share,
    best_fit_decreasing,
    cut_layer,
)
from neurodeploy.mapping.partition import BlockOptions, BlockSelection, SelectedBlock, block_options
from neurodeploy.mapping.placement import Placement, Slice
from neurodeploy.mapping.traffic import Mesh, Rates, links_of
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import (
    AnyLayer,
    Layers,
    Region,
    Usage,
    bits_of,
    grid_of,
    layer_usage,
    limited_resources,
    usage_vector,
    weight_bits,
)
from neurodeploy.targets import check_profile, default_weight_bits

PlannedSlice: TypeAlias = "tuple[str, int, Region]"
"""Layer, core and region: the neurons of the layer that go onto the core."""
Counts: TypeAlias = "Mapping[str, LayerCount]"
CountCache: TypeAlias = dict[Any, Any]
"""What `LayerCount` keeps of connections and regions that it has counted, for one profile."""


def lay_out(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    bits: int | None = None,
    connectivity: float | None = None,
    plan: Sequence[PlannedSlice] = (),
    counted: CountCache | None = None,
) -> Placement:
    """Pack a network onto the fewest cores found, whether it fits the chip or not.

    A neuron that no empty core can hold gets a core to itself; `Placement.overruns` lists the limits that it exceeds.

    Parameters
    ----------
    bits : int, optional
        Width of the weights of a network in floats; the widest that the chip has by default.
    connectivity : float, optional
        Probability, 0..1, with which each weight is assumed to survive pruning; expected usage is counted in closed form.
        By default the weights that are not zero are counted.
    counted : dict, optional
        Shared by calls for one profile, such as `balance` before, so that equal connections are counted once.
    """
    available, bits = profile.core_count(cores), default_weight_bits(profile, bits)
    check_size(network, profile, available)
    widths = {layer.name: weight_bits(bits_of(layer, bits), profile) for layer in network.layers}
    counts = counts_of(network.layers, widths, profile, connectivity, counted)
    bound = least_cores(network.layers, counts, profile)
    packed = Placement(
        profile=profile, cores_available=available, cores_lower_bound=bound, weight_bits=widths,
        n_weights={layer.name: layer.n_weights for layer in network},
        connectivity={layer.name: layer.connectivity if connectivity is None else connectivity for layer in network},
        # where no packing can fit, further variants only refine the number of cores that are missing
        slices=pack_layers(network.layers, profile, counts, repacked=MAX_SLICES_REPACKED if bound <= available else UNFIT_SLICES),
        layer_usage=layer_usage(network, counts, profile),
    )  # fmt: skip
    if not plan:
        return packed
    # The plan wins ties: pruning has served its cut, and another cut may need more output axons.
    by_plan = replace(packed, slices=_slices_of_plan(network.layers, profile, counts, plan))
    return by_plan if by_plan.fits and (by_plan.cores_used <= packed.cores_used or not packed.fits) else packed


def quick_core_count(
    network: Network | QuantizedNetwork, profile: HardwareProfile, *, bits: int | None = None, counted: CountCache | None = None
) -> int:  # fmt: skip
    """Cores of a network by the first packing variant alone: slightly more than `lay_out` finds, for comparing networks."""
    bits = default_weight_bits(profile, bits)
    widths = {layer.name: weight_bits(bits_of(layer, bits), profile) for layer in network.layers}
    counts = counts_of(network.layers, widths, profile, counted=counted)
    slices = pack_layers(network.layers, profile, counts, is_quick=True)
    return len({part.core for part in slices})


def counts_of(
    layers: Layers, widths: Mapping[str, int], profile: HardwareProfile, connectivity: float | None = None,
    counted: CountCache | None = None,
) -> dict[str, LayerCount]:  # fmt: skip
    """Count every layer; equal connections share one counter, from `counted` where an earlier call for the profile made it."""
    counted = {} if counted is None else counted
    waiting = wait_steps(layers)
    return {
        layer.name: LayerCount(layer, widths[layer.name], profile, connectivity, counted, waiting[layer.name]) for layer in layers
    }


def least_cores(layers: Layers, counts: Counts, profile: HardwareProfile) -> int:
    """Lower bound on the number of cores: each resource's total that no cut saves, over what a core has of it.

    Every placement that fits takes at least as many cores. `benchmarks.placement.lower_bound` has a tighter bound, which takes
    minutes where this one takes moments.
    """
    names = {layer.name for layer in layers}
    totals = sum((least_usage(layer, counts[layer.name], names) for layer in layers), np.zeros(len(limited_resources(profile))))
    bound = 1
    for resource, total in zip(limited_resources(profile), totals.tolist(), strict=True):
        largest = profile.capacity(resource)
        # Cores that differ: the largest ones first, and any number of the largest beyond the board.
        needed, choices = 0, profile[f"{resource}_per_core"].choices
        if profile.cores_differ and total > 0:
            held = np.cumsum(np.sort(np.resize(choices, profile.cores))[::-1], dtype=np.float64)
            needed = min(int(np.searchsorted(held, total)) + 1, held.size)
            total -= held[needed - 1]
        # -1e-9: rounding of sums must not raise the bound.
        bound = max(bound, needed + math.ceil(max(total, 0) / max(largest, 1) - 1e-9))
    return bound


def least_usage(layer: AnyLayer, count: LayerCount, senders: Collection[str]) -> Floats:
    """Least usage of each limited resource (n_resources,) by a layer, however it is cut, and by the output axons that lead to it.

    Cutting repeats things (axons, shared kernels, biases) but also saves some (zeros of dense lists, wider target indices,
    memory rounded up to powers of two). So each synapse counts as one weight without an index, each weight of a shared kernel
    once, each source neuron as one input axon and one output axon.

    Parameters
    ----------
    senders : collection of str
        Names of the layers whose spikes need output axons; the network's input needs none.
    """
    profile, chance = count.profile, 1.0 if count.connectivity is None else count.connectivity
    encodings, whole = set(profile["encodings"].names), Region.whole(count.grid)
    received = list(zip(count.sources(whole), count.fan_outs(whole), strict=True))
    memory, axons, first = 0.0, 0.0, 0
    for wiring, formula, sources in count.bundles():
        fan_out = received[first][1]  # equal for all sources of a bundle
        first += len(sources)
        kernel: ConvWiring | None = None
        match wiring:
            case ConvWiring():
                kernel = wiring if encodings & {"convolution", "dynapcnn"} else None
            case DenseWiring() | SparseWiring():
                pass
            case _:
                raise unsupported_kind(wiring)
        if kernel is not None:
            fan_out = fan_out.sum(axis=0)  # an axon is a pixel, with all its channels
        if count.connectivity is None:
            present = float(np.count_nonzero(fan_out))
        else:  # chance that at least one synapse of the axon survives
            # `fan_out` is expected synapses; divided by the chance it is their number again. 1e-300 avoids 0 / 0.
            present = float((1 - (1 - chance) ** (fan_out / max(chance, 1e-300))).sum())
        axons += present * len(sources)
        if kernel is not None:
            # Taps that only ever see padding are not stored.
            on_image = np.outer(*(kernel.is_inside_input(axis).any(axis=0) for axis in (0, 1)))
            weights = np.ones(kernel.weight.shape) if count.connectivity is not None else kernel.weight != 0
            memory += float((weights * on_image).sum()) * chance * formula.synapse_bits + present * formula.entry
        elif count.connectivity is None and not encodings & {"crossbar", "dynapcnn"}:
            axons_of_size = np.bincount(fan_out.reshape(-1))  # lists of one size take the same, and most sizes occur often
            sizes = np.flatnonzero(axons_of_size)
            memory += float((formula.least(sizes) * axons_of_size[sizes]).sum())
        else:  # formats without blocks and units, or an expectation, which does not commute with rounding
            memory += float(fan_out.sum()) * formula.synapse_bits + present * formula.entry
        # Further sources of a bundle share the lists, not the axon entries.
        memory += (len(sources) - 1) * present * formula.entry
    # Formats and profiles count once a slice, whatever its size: one slice of one neuron takes the least.
    one = count.usage(Region((0,) * len(count.grid), (1,) * len(count.grid)))
    usage = Usage(
        neurons=layer.n_neurons, synapses=0, synapse_memory_bits=math.floor(memory + 1e-6), input_axons=math.floor(axons + 1e-6),
        encoding="", neuron_memory_bits=layer.n_neurons * profile.number("neuron_state_bits", 0),
        biases=count.grid[0] if layer.bias.any() else 0, synapse_formats=one.synapse_formats,
        neuron_profiles=one.neuron_profiles, threshold_profiles=one.threshold_profiles,
    )  # fmt: skip
    # Each neuron with a target needs one output axon at least.
    sent = sum(int(np.count_nonzero(of.mask)) for of, _ in received if of.source in senders)
    return usage_vector(usage, sent, profile).astype(np.float64)


MAX_SLICES_REPACKED, UNFIT_SLICES = 6_000, 1_000
"""Networks of more slices are packed by one variant only: those that may fit, and those that do not however they are packed."""
RECURRENT_TRIALS = 6
"""Repetitions of the cut of a recurrent layer while a core is overfull."""
MAX_ANNEALED_LAYERS = 100
"""Networks of more layers keep the selected blocks without annealing."""
ANNEALING_SEEDS = 2
"""Annealing runs."""
MAX_ANNEALING_STEPS, ANNEALING_STEPS_PER_CORE = 5000, 10
"""Changes tried in a run: at most, and for each core."""
PACKING_VARIANTS = ((1.0, True), (0.5, True), (0.0, True), (1.0, False), (0.0, False))
"""Caution of the block selection (0..1), and whether slices keep the size of the selected blocks; the first is the quick one."""


def pack_layers(
    layers: Layers, profile: HardwareProfile, counts: Counts, *, is_quick: bool = False, enough: int = 1,
    repacked: int = MAX_SLICES_REPACKED,
) -> tuple[Slice, ...]:  # fmt: skip
    """Cut and pack every layer by the variant with fewest overfull cores and, of these, fewest cores.

    Parameters
    ----------
    is_quick : bool
        Try the first variant only.
    enough : int
        Stop at the first result without overfull cores that takes at most this many cores.
    repacked : int
        Try the first variant only where it has more slices than this.
    """
    if profile.number("cores_per_layer", UNLIMITED) == 1:
        return _pack_whole_layers(layers, profile, counts)
    best: tuple[Slice, ...] = ()
    least: tuple[int, int] | None = None
    options = {layer.name: block_options(counts[layer.name], grid_of(layer), profile) for layer in layers}
    blocks_at = cache(partial(select_blocks, layers, profile, options))  # variants share a caution
    are_rows = all(len(grid_of(layer)) == 1 for layer in layers)  # rows have no blocks to choose from
    # A row's fan-out is its mean, so caution changes nothing there: variants 0 and 3 differ in `is_even` alone.
    for caution, is_even in (
        PACKING_VARIANTS[:1] if are_rows and len(layers) == 1 else PACKING_VARIANTS[::3] if are_rows else PACKING_VARIANTS
    ):
        selected = blocks_at(caution)
        n_overfull, n_cores, slices = _fill_cores(layers, profile, counts, selected, is_even=is_even)
        if any(is_recurrent(layer) for layer in layers):
            n_overfull, n_cores, slices = _repack_recurrent(layers, profile, counts, selected, slices, is_even=is_even)
        if least is None or (n_overfull, n_cores) < least:  # fewer overfull cores come first
            best, least = slices, (n_overfull, n_cores)
        if is_quick or len(slices) > repacked or least <= (0, enough):
            return best
    # Recurrent layers are left out: their output axons depend on their own cut.
    is_annealed = not are_rows and len(layers) <= MAX_ANNEALED_LAYERS and not any(is_recurrent(layer) for layer in layers)
    if is_annealed and least is not None and least[0] == 0:
        changes = min(MAX_ANNEALING_STEPS, ANNEALING_STEPS_PER_CORE * least[1])
        # Full caution: annealing starts from blocks that fit.
        for found in _pack_annealed(layers, profile, counts, options, blocks_at(1.0), changes):
            if found[:2] < least:
                best, least = found[2], found[:2]
            if least <= (0, enough):
                break
    return best


def _pack_annealed(
    layers: Layers, profile: HardwareProfile, counts: Counts, options: Mapping[str, BlockOptions],
    selected: Mapping[str, SelectedBlock], changes: int,
) -> Iterator[tuple[int, int, tuple[Slice, ...]]]:  # fmt: skip
    """Yield (overfull slices, cores, slices) for annealed blocks: packed layer by layer, and all cut before any is packed."""
    annealing = BlockAnnealing(options, {layer.name: layer.n_neurons for layer in layers}, axon_share(profile))
    for seed in range(ANNEALING_SEEDS):
        blocks = annealing.anneal({name: one.block for name, one in selected.items()}, changes, seed)
        annealed = {name: replace(one, block=blocks[name]) for name, one in selected.items()}
        # Many tiny slices fill as few cores by the estimate, and take the square of their number in time.
        if sum(option.pieces[option.index_of(blocks[name])] for name, option in options.items()) > MAX_SLICES_REPACKED:
            continue
        yield _fill_cores(layers, profile, counts, annealed, is_even=True)
        yield _pack_slices(layers, profile, counts, annealed)


def _pack_slices(
    layers: Layers, profile: HardwareProfile, counts: Counts, selected: Mapping[str, SelectedBlock]
) -> tuple[int, int, tuple[Slice, ...]]:
    """Overfull slices, cores, and all slices: every layer is cut first, then packed; cores in the order of the layers."""
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    # Last layer first: the output axons of a slice depend on the cut of its targets.
    fan_out, pieces = FanOut(layers, counts, profile), list[Slice]()
    for layer in reversed(layers):
        counter = fan_out.counter(layer)
        regions = cut_layer(counter, selected[layer.name].block, capacity)
        fan_out.add(layer, regions)
        fan_out.discard(layer)
        pieces += [counter.measure(region, 0) for region in reversed(regions)]
    pieces.reverse()
    needs = np.stack([usage_vector(part.usage, part.output_axons, profile) for part in pieces])
    homes = best_fit_decreasing(needs, capacity)
    largest = np.lexsort((-(needs / np.maximum(capacity, 1)).max(axis=1), homes))
    first = largest[np.flatnonzero(np.diff(homes[largest], prepend=-1))]  # a core is numbered by its largest slice
    number = np.argsort(np.argsort(first))
    parts = [replace(part, core=int(number[home])) for part, home in zip(pieces, homes, strict=True)]
    return int((needs > capacity).any(axis=1).sum()), first.size, tuple(sorted(parts, key=lambda part: part.core))


def _fill_cores(
    layers: Layers,
    profile: HardwareProfile,
    counts: Counts,
    selected: Mapping[str, SelectedBlock],
    *,
    is_even: bool,
    cuts: Mapping[str, Sequence[Region]] | None = None,
    spare: int = 0,
) -> tuple[int, int, tuple[Slice, ...]]:
    """Overfull cores, cores, and all slices: layers are cut and packed one after another, the last one first.

    The output axons of a recurrent layer depend on its cut, and the cut on its output axons. So its axons are counted for the cut
    `cuts` of an earlier trial, plus `spare` slices; by default for a first cut as if the layer were not recurrent.
    """
    board, slices, fan_out = OpenCores(profile, is_even=is_even), list[Slice](), FanOut(layers, counts, profile)
    for layer in reversed(layers):
        counter = fan_out.counter(layer)
        if is_recurrent(layer):
            trial = (
                [part.region for part in OpenCores(profile).pack_layer(counter, selected[layer.name])]
                if cuts is None
                else cuts[layer.name]
            )
            fan_out.add(layer, trial)
            fan_out.add_margin(layer, spare)  # the cut that follows may need more slices than the trial
            counter = fan_out.counter(layer)  # again, with its own axons in it
        part_slices = board.pack_layer(counter, selected[layer.name])
        if not is_recurrent(layer):  # a recurrent one has counted itself above
            fan_out.add(layer, [part.region for part in part_slices])
        fan_out.discard(layer)
        slices += part_slices
    # Cores were begun from the last layer on.
    first_core_first = (replace(part, core=board.n_cores - 1 - part.core) for part in reversed(slices))
    return board.n_overfull, board.n_cores, tuple(sorted(first_core_first, key=lambda part: part.core))


def _repack_recurrent(
    layers: Layers,
    profile: HardwareProfile,
    counts: Counts,
    selected: Mapping[str, SelectedBlock],
    slices: tuple[Slice, ...],
    *,
    is_even: bool,
) -> tuple[int, int, tuple[Slice, ...]]:
    """Cut recurrent layers again, with the axons of the last cut, until no core is overfull or the trials are used up."""
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    for trial in range(RECURRENT_TRIALS):
        slices = _slices_of_plan(layers, profile, counts, [(part.layer, part.core, part.region) for part in slices])
        used: dict[int, NDArray[np.int64]] = {}
        for part in slices:
            used[part.core] = used.get(part.core, 0) + usage_vector(part.usage, part.output_axons, profile)
        n_overfull = sum(bool((taken > capacity).any()) for taken in used.values())
        if n_overfull == 0 or trial == RECURRENT_TRIALS - 1:
            break
        cuts = {layer.name: [part.region for part in slices if part.layer == layer.name] for layer in layers}
        # The margin grows by a slice a trial: cut and axons depend on each other and need not settle by themselves.
        slices = _fill_cores(layers, profile, counts, selected, is_even=is_even, cuts=cuts, spare=trial)[2]
    return n_overfull, len(used), slices


def is_recurrent(layer: AnyLayer) -> bool:
    """Return whether the layer has a connection from itself."""
    return any(connection.source == layer.name for connection in layer.connections)


def select_blocks(
    layers: Layers, profile: HardwareProfile, options: Mapping[str, BlockOptions], caution: float
) -> dict[str, SelectedBlock]:
    """The blocks by which all layers together take fewest cores; see `neurodeploy.mapping.partition`."""
    return BlockSelection(options, {layer.name: layer.n_neurons for layer in layers}, axon_share(profile), caution).select()


def _pack_whole_layers(layers: Layers, profile: HardwareProfile, counts: Counts) -> tuple[Slice, ...]:
    """Every layer in one slice, for chips that do not cut layers."""
    fan_out = FanOut(layers, counts, profile)
    for layer in layers:
        fan_out.add(layer, [Region.whole(grid_of(layer))])
    slices = [fan_out.counter(layer).measure(Region.whole(grid_of(layer)), 0) for layer in layers]
    cores = assign_layers(np.stack([usage_vector(part.usage, part.output_axons, profile) for part in slices]), profile)
    parts = [replace(part, core=int(core)) for part, core in zip(slices, cores, strict=True)]
    return tuple(sorted(parts, key=lambda part: part.core))


def _slices_of_plan(layers: Layers, profile: HardwareProfile, counts: Counts, plan: Sequence[PlannedSlice]) -> tuple[Slice, ...]:
    fan_out = FanOut(layers, counts, profile)
    for layer in layers:
        regions = [region for name, _, region in plan if name == layer.name]
        covered = np.zeros(grid_of(layer), dtype=np.int64)
        for region in regions:
            covered[region.box] += 1
        if not (covered == 1).all():
            raise RequestError("plan", f"puts some neurons of layer {layer.name!r} on no core, or on several")
        fan_out.add(layer, regions)
    fillings = {layer.name: fan_out.counter(layer) for layer in layers}  # once all layers have counted their sources
    order = {layer.name: n for n, layer in enumerate(layers)}
    slices = [fillings[name].measure(region, core) for name, core, region in plan]
    return tuple(sorted(slices, key=lambda part: (part.core, order[part.layer], part.region)))


@check_arguments
def place(
    network: QuantizedNetwork, profile: Chip, *, cores: int | None = None, chips: int | None = None,
    plan: Sequence[PlannedSlice] = (), rates: Rates | None = None, seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Placement:  # fmt: skip
    """Pack a network onto the fewest cores found, and arrange these on the board so that its spikes travel least.

    Parameters
    ----------
    cores, chips : int, optional
        Cores, or chips, that the network may use; all of the profile's by default.
    plan : sequence of (layer, core, region), optional
        The slices of a budget: kept where that takes no more cores, or where the network fits only so. A new packing may cut
        the targets of a neuron where the plan does not, which takes another output axon.
    rates : mapping, optional
        Spikes a step of every neuron, by layer, as `neurodeploy.simulation.records.measured_rates` takes them from a record;
        `neurodeploy.mapping.traffic.ASSUMED_RATE` by default.
    seed : int
        Seed of the arrangement.
    progress : callable, optional
        Called with the progress of the search, 0..1.

    Raises
    ------
    PlacementError
        It does not fit; the error names layer, resource, need, limit and its source.
    QuantizeError
        It holds integers of another target, or numbers that a register of the profile cannot hold.
    RequestError
        `cores` or `chips` is not within 1..what the profile has, or `plan` is not of this network.
    """
    available = (profile := load_profile(profile)).core_count(cores, chips)
    if seed < 0:
        raise RequestError("seed", f"is {seed}, below 0")
    check_profile(network, profile)
    placement = lay_out(network, profile, cores=available, plan=plan)
    for overrun in placement.overruns():
        raise overrun.error()
    return arrange_placement(with_traffic(placement, network, rates), seed=seed, progress=progress)


def with_traffic(
    placement: Placement,
    network: Network | QuantizedNetwork,
    rates: Rates | None = None,
    *,
    connectivity: float | None = None,
) -> Placement:
    """The placement with the traffic between its slices, at measured or assumed rates."""
    counts = counts_of(network.layers, placement.weight_bits, placement.profile, connectivity)
    slices = [(part.layer, part.region) for part in placement.slices]
    return replace(placement, links=links_of(slices, network.layers, counts, rates))


def arrange_placement(placement: Placement, *, seed: int = 0, progress: Callable[[float], None] | None = None) -> Placement:
    """The same cores at other positions of the board, so that spikes travel least.

    Unchanged on a chip whose cores differ, and for a network that needs more cores than the board has.
    """
    traffic = placement.traffic()
    used, profile = placement.cores_used, placement.profile
    if traffic is None or profile.cores_differ or used > profile.cores:  # cores that differ cannot be exchanged
        return placement
    chips = -(-max(placement.cores_available, used) // profile["cores_per_chip"].number)
    mesh = replace(mesh_of(profile), chips=chips)  # chips that it may use, or takes anyway
    arranged = arrange(traffic.flow, used, mesh, seed=seed, progress=progress)
    return placement.moved(shared_routes(traffic, arranged, mesh) if "multicast" in traffic.routings else arranged)


def shared_routes(traffic: Traffic, arranged: Integers, mesh: Mesh) -> Integers:
    """Of `arranged`, cores in order and cores column by column, the one with the fewest multicast hops.

    Spikes go along their row first, so the targets in one column share all of the way.
    """
    at, place = mesh.position(np.arange(mesh.n_cores)), np.unique(traffic.homes, return_inverse=True)[1].ravel()
    ways = (arranged, np.arange(mesh.n_cores), np.lexsort((at.tile_y, at.tile_x, at.chip)))
    best: Integers = min(ways, key=lambda way: multicast_hops(traffic.links.copies, way[place], mesh))[: arranged.size]
    return best
