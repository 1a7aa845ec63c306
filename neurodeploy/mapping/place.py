"""Layout of a network on a chip: cut the layers into slices, pack them onto the fewest cores, and arrange these on the board.

`lay_out` packs, whether the network fits or not; `place` refuses what does not fit, and arranges the cores so that spikes travel
least. Layers are packed from the last to the first, so that the slices that receive a neuron's spikes, and with them its output
axons, are known when it is put on a core. Where all layers are rows of neurons, no packing that keeps the layers in order, with
one slice of a layer on a core, takes fewer cores, output axons aside: usage never falls as neurons are added to a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import RequestError, check_arguments
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.graph import wait_steps
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.core_estimate import BlockAnnealing, check_size, least_cores
from neurodeploy.mapping.energy import Traffic, mesh_of, multicast_hops
from neurodeploy.mapping.mesh_arrangement import arrange
from neurodeploy.mapping.packing import (
    FanOut,
    OpenCores,
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


MAX_SLICES_REPACKED, UNFIT_SLICES = 30_000, 1_000
"""Networks of more slices are packed by one variant only: those that may fit, and those that do not however they are packed."""
MAX_SLICES_SORTED = 6_000
"""Of blocks with more slices than this, only the best annealed ones are cut before any slice is packed."""
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
    unpacked: list[tuple[float, Mapping[str, SelectedBlock]]] = []
    for seed in range(ANNEALING_SEEDS):
        blocks = annealing.anneal({name: one.block for name, one in selected.items()}, changes, seed)
        annealed = {name: replace(one, block=blocks[name]) for name, one in selected.items()}
        yield _fill_cores(layers, profile, counts, annealed, is_even=True)
        n_slices = sum(option.pieces[option.index_of(blocks[name])] for name, option in options.items())
        if n_slices <= MAX_SLICES_SORTED:
            yield _pack_slices(layers, profile, counts, annealed)
        else:
            unpacked.append((n_slices, annealed))
    # packing all slices at once takes the square of their number in time: of many, only the fewest
    fewest = min(unpacked, key=lambda one: one[0], default=None)
    if fewest is not None and fewest[0] <= MAX_SLICES_REPACKED:
        yield _pack_slices(layers, profile, counts, fewest[1])


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
    n_cores, n_overfull = board.n_cores_and_overfull
    first_core_first = (replace(part, core=n_cores - 1 - part.core) for part in reversed(slices))
    return n_overfull, n_cores, tuple(sorted(first_core_first, key=lambda part: part.core))


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


OVERRUN_COST = 1e6
"""Cost of exceeding a limit by the amount that a core has: more than any difference between cores that hold the layer."""


def assign_layers(needs: NDArray[np.int64], profile: HardwareProfile) -> NDArray[np.int64]:
    """Core of each uncut layer (n_layers,): the smallest that holds it, or the least overfilled where none does.

    Layers with a core to themselves (``slices_per_core: 1``) are matched to cores optimally (a linear assignment
    problem). Others share: the last layer chooses first, each the fullest core that still holds it.

    Parameters
    ----------
    needs : array (n_layers, n_resources)
        Usage of each layer in the order of `limited_resources`.

    Returns
    -------
    array (n_layers,), int64
        Layers beyond the chip's cores get higher numbers.
    """
    names = limited_resources(profile)
    cores = np.stack([np.resize(profile[f"{name}_per_core"].choices, profile.cores) for name in names], axis=1).astype(np.float64)
    if profile.capacity("slices") == 1:
        more = max(0, len(needs) - len(cores))
        # Imaginary cores, the largest of each resource, for layers beyond the chip's cores: the report then says how many are
        # missing.
        cores = np.concatenate([cores, np.repeat(cores.max(axis=0)[None], more, axis=0)])
        cost = _cost(needs[:, None, :], cores)
        cost[:, len(cores) - more :] += OVERRUN_COST * len(needs)  # taken after all real cores
        # imported here: scipy.optimize takes long, and few chips need it
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(cost)
        return np.asarray(columns[np.argsort(rows)], dtype=np.int64)
    left, selected = cores.copy(), np.zeros(len(needs), dtype=np.int64)
    for layer in reversed(range(len(needs))):
        selected[layer] = int(_cost(needs[layer], left).argmin())
        left[selected[layer]] -= needs[layer]
    return selected


def _cost(needs: NDArray[np.int64], cores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cost of a layer on a core: the space that it leaves, and far more for every share of a limit that it exceeds."""
    over = np.maximum(needs - cores, 0) / np.maximum(cores, 1)
    free = np.maximum(cores - needs, 0) / np.maximum(cores, 1)
    cost: NDArray[np.float64] = (
        # The last summand breaks ties towards the smaller core.
        over.sum(axis=-1) * OVERRUN_COST + free.mean(axis=-1) + np.log2(np.maximum(cores, 1)).mean(axis=-1) * 1e-3
    )
    return cost


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
    counted: CountCache | None = None,
) -> Placement:
    """The placement with the traffic between its slices, at measured or assumed rates; `counted` as of `lay_out`."""
    counts = counts_of(network.layers, placement.weight_bits, placement.profile, connectivity, counted)
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
