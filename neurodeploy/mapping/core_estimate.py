"""Size of a network before it is laid out: whether memory and cores allow a layout, and about how many cores it will take.

The estimate has closed forms only. Each layer is cut into equal blocks, selected for all layers together from coarse tables
(`neurodeploy.mapping.partition`); the volume of their slices, with the output axons that lead to their targets, is the number of
cores. No slice is packed, so the time does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, check_memory
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping import Array, CompiledLate
from neurodeploy.mapping.packing import axon_share
from neurodeploy.mapping.partition import BlockOptions, BlockSelection, block_options
from neurodeploy.mapping.placement import LAYER_LIMITS
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, Region, Usage, grid_of, limited_resources, usage_vector

MAX_UNFIT_CORES = 20_000
"""Networks whose neurons need more cores than this, and than the board has, are refused before anything is counted."""
BYTES_A_NEURON, BYTES_A_WEIGHT, BYTES_AN_INPUT = 14, 10, 56
"""Peak of memory while a layer is counted, beyond the network itself: for a neuron, a weight, and an input of a matrix."""
BYTES_KEPT_A_NEURON, BYTES_KEPT_A_WEIGHT = 4, 4
"""Memory that a layer keeps while others are counted: the slice of each neuron, and running counts of a matrix."""
ESTIMATE_STEP = 1.5
"""Growth of the number of blocks along a side from one option of the estimate to the next."""
ESTIMATE_SAMPLES = 16
"""Slices of a row that the estimate counts for each cut: rows may differ along themselves."""
ESTIMATE_CAUTIONS = (1.0, 0.5, 0.0)
"""Cautions of the block selection that the estimate tries; the layout tries them too."""
ESTIMATE_ERROR = 0.05
"""Difference from the cores of the layout, as a share of them, that most networks of benchmarks/RESULTS.md keep within."""


def layer_bytes(layer: AnyLayer) -> tuple[int, int]:
    """Bytes that counting a layer takes at its peak, and those of them that stay."""
    peak, kept = layer.n_neurons * BYTES_A_NEURON, layer.n_neurons * BYTES_KEPT_A_NEURON
    for connection in layer.connections:
        synapse: DenseWiring | SparseWiring | ConvWiring = connection.synapse
        peak += synapse.weight.size * BYTES_A_WEIGHT
        match synapse:
            case DenseWiring():
                peak += synapse.n_in * BYTES_AN_INPUT
                kept += synapse.weight.size * BYTES_KEPT_A_WEIGHT
            case SparseWiring() | ConvWiring():  # only the sources of a slice are looked at
                pass
            case _:
                raise unsupported_kind(synapse)
    return peak, kept


def check_size(network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int) -> None:
    """Raise `NetworkError`, before anything is counted, for a network too large to be laid out."""
    layers: Layers = network.layers
    needs = {layer.name: layer_bytes(layer) for layer in layers}
    largest = max(layers, key=lambda layer: needs[layer.name][0])
    peak, kept = needs[largest.name]
    total = peak + sum(one for _, one in needs.values()) - kept
    inputs = sum(connection.synapse.n_in for connection in largest.connections)
    check_memory(
        f"layer {largest.name!r}",
        f"to count {largest.n_neurons:,} neurons, {largest.n_weights:,} weights and {inputs:,} inputs", total,
    )  # fmt: skip
    a_core, n_neurons = profile.capacity("neurons"), network.n_neurons
    if (needed := -(-n_neurons // a_core)) > max(cores, MAX_UNFIT_CORES):
        largest = max(layers, key=lambda layer: layer.n_neurons)
        raise NetworkError(
            f"layer {largest.name!r}", f"neurons of the network on {cores:,} core{'s' * (cores > 1)}", need=n_neurons,
            limit=cores * a_core, source=profile["neurons_per_core"].where,
            remedy=f"It does not fit, and the {needed:,} cores or more that it needs are not laid out one by one. "
            f"Use a chip with at least {needed:,} cores, or remove neurons.",
        )  # fmt: skip


def least_cores(layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile) -> int:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreEstimate:
    """About how many cores a network takes, from closed forms.

    Attributes
    ----------
    cores, cores_available, cores_lower_bound : int
        As of `Placement`; `cores` is within `ESTIMATE_ERROR` of those of the layout for most networks;
        pruned convolutions and large recurrent layers may be further off (benchmarks/RESULTS.md, "Placement: estimate").
    binding : str
        The resource of which the layers take most.
    layer_cores : mapping of layer to float
        Cores' worth of `binding` that each layer takes.
    too_large : str
        Layer of which not even one neuron fits a core; empty if there is none. A layout gives each such neuron a core of its
        own, so `cores` is too low by any factor then.
    unchecked : tuple of str
        Limits of the chip that only a layout looks at: on neurons, layers and the input.
    """

    profile: HardwareProfile
    cores: int
    cores_available: int
    cores_lower_bound: int
    binding: str
    layer_cores: Mapping[str, float]
    too_large: str = ""
    unchecked: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the network fits by the estimate; within `ESTIMATE_ERROR` of the cores there are only a layout can tell."""
        return self.cores <= self.cores_available and not self.too_large

    @property
    def is_close(self) -> bool:
        """Whether the cores there are lie within `ESTIMATE_ERROR` of the estimate, or one core below it and above the bound."""
        missing, available = self.cores - self.cores_available, self.cores_available
        return abs(missing) <= ESTIMATE_ERROR * available or (missing == 1 and self.cores_lower_bound <= available)

    @property
    def sentences(self) -> list[str]:
        """The verdict, and the resource of which the layers take most."""
        largest = max(self.layer_cores, key=self.layer_cores.__getitem__)
        share = self.layer_cores[largest] / max(sum(self.layer_cores.values()), 1e-9)
        about = f"about {self.cores:,} of {self.cores_available:,} cores by an estimate"
        if self.too_large:
            said = (
                f"Now: does not fit. Not even one neuron of layer {self.too_large!r} fits a core, so cores cannot be estimated; "
                f"lower bound: {self.cores_lower_bound:,} of {self.cores_available:,}."
            )
        elif self.is_close:
            said = f"Now: close. It takes {about}, which may be 5 % off or more: only a layout tells."
        else:
            said = f"Now: {'fits' if self.fits else 'does not fit'}, {about}; lower bound: {self.cores_lower_bound:,}."
        others = [f"Not looked at, since cores alone are estimated: the limits on {', '.join(self.unchecked)}."]
        of = f"Fullest: {self.binding}. Of it" if self.fits else f"Of {self.binding}"
        return [said, f"{of}, {largest!r} takes {share:.0%}.", *(others if self.unchecked else [])]

    def to_json(self) -> dict[str, Any]:
        """The keys of ``neurodeploy inspect --fast --json``."""
        return {
            "plan": "estimate", "profile": self.profile.name, "target": self.profile.target, "fits": self.fits,
            "cores": {
                "used": None if self.too_large else self.cores, "available": self.cores_available,
                "lower_bound": self.cores_lower_bound,
            },
            "binding": [] if self.fits else [{"resource": "cores", "need": self.cores, "limit": self.cores_available}],
            "fullest": self.binding, "close": self.is_close,
            "layers": [{"name": name, "cores": round(n, 3)} for name, n in self.layer_cores.items()],
            "too_large": self.too_large or None, "unchecked": list(self.unchecked),
        }  # fmt: skip


def largest_block(option: BlockOptions) -> tuple[int, ...]:
    """Block of a layer's slices where they are fewest and fit a core; that of the smallest slice where none fits."""
    fits = option.own.max(axis=1) <= 1
    place = np.where(fits, option.pieces, np.inf).argmin() if fits.any() else option.neurons.argmin()
    return tuple(option.blocks[place].tolist())


def estimated_cores(
    layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile, available: int, bound: int
) -> CoreEstimate:
    """Estimate the cores of layers that are counted.

    Parameters
    ----------
    available, bound : int
        Cores that the network may use, and the lower bound on those that it takes.
    """
    options = {
        layer.name: block_options(counts[layer.name], grid_of(layer), profile, ESTIMATE_STEP, ESTIMATE_SAMPLES)
        for layer in layers
    }
    n_neurons, axon, names = {layer.name: layer.n_neurons for layer in layers}, axon_share(profile), limited_resources(profile)
    slices, best = BlockAnnealing(options, n_neurons, axon), dict[str, Any]()
    for caution in ESTIMATE_CAUTIONS:
        blocks = {name: one.block for name, one in BlockSelection(options, n_neurons, axon, caution).select(0).items()}
        shares = slices.shares(blocks)
        if not best or sum(each.max() for each in shares.values()) < sum(each.max() for each in best.values()):
            best = shares
    least = {name: option.own[option.neurons.argmin()].max() for name, option in options.items()}
    # slices of a layer on one core receive an input once, so what binds is told from the fewest slices that fit
    fewest = slices.shares({name: largest_block(option) for name, option in options.items()})
    binds = int(np.sum(list(fewest.values()), axis=0).argmax())
    longest = max(connection.delay_steps for layer in layers for connection in layer.connections)
    has_long_delays = longest > profile.number("max_delay_steps", longest)
    return CoreEstimate(
        profile=profile, cores=max(math.ceil(sum(each.max() for each in best.values()) - 1e-9), bound), cores_available=available,
        cores_lower_bound=bound, binding=names[binds], layer_cores={name: float(each[binds]) for name, each in fewest.items()},
        too_large=next((name for name, share in least.items() if share > 1), ""),
        unchecked=tuple(
            kind.resource for key, kind in LAYER_LIMITS.items()
            if key in profile and (key != "max_delay_steps" or has_long_delays)
        ),
    )  # fmt: skip


TEMPERATURES = 0.005, 1e-4
"""Initial and final temperature, as a share of all cores."""
MAX_BLOCKS_TRIED = 200
"""Blocks of a layer that a change may take, ordered by the total volume of all slices."""
NEIGHBOUR_CHANCE = 0.4
"""Probability that a source or target of the changed layer changes with it."""
OVERFLOW_PENALTY = 100.0
"""Penalty per core of overflow."""
VOLUME_WEIGHT = 0.05
"""Weight of the total volume, in cores, against the number of cores: breaks ties towards less storage."""
FULL_SHARE = 0.003
"""A core with at most this share left is full."""
ROUNDING = 10_000
"""Parts of a core to which the space that it has left is rounded."""


class BlockAnnealing:
    """Simulated annealing of the blocks of all layers.

    Layers select blocks (`neurodeploy.mapping.partition`) as if each had cores of its own. Here the slices of all layers share
    cores: each state is rated by an estimate of the cores that best fit decreasing would take.

    Parameters
    ----------
    options : mapping by layer, first layer first
        None of the layers is recurrent.
    n_neurons : mapping by layer
    axon : array (n_resources,)
        Share of a core that an output axon takes.
    """

    def __init__(self, options: Mapping[str, BlockOptions], n_neurons: Mapping[str, int], axon: Floats) -> None:
        self.options, self.names = options, list(options)
        numbers = {name: n for n, name in enumerate(options)}
        # A connection of the network: target, source, and where its output axons begin in `_sent`, one for each block.
        pairs = [(name, source) for name, option in options.items() for source in option.peak if source in options]
        sizes = [len(option.blocks) for option in options.values()]
        begins = np.cumsum([0, *(len(options[target].blocks) for target, _ in pairs)])[:-1]
        ids = [[numbers[name] for name in pair] for pair in pairs]
        self._pairs = np.column_stack([np.array(ids, dtype=np.int64).reshape(-1, 2), begins])
        received = [
            (options[target].received[source] / n_neurons[source], options[target].peak[source]) for target, source in pairs
        ]
        # Output axons of a source neuron for each block of the target: the mean, and of the neuron with most of them.
        self._sent = np.concatenate([np.zeros((0, 2)), *(np.stack(each, axis=1) for each in received)])
        # Blocks of all layers one after another: slices, neurons of each, and share of a core of each resource.
        self._first = np.concatenate([[0], np.cumsum(sizes)])
        self._blocks = np.concatenate(
            [np.column_stack([option.pieces, option.neurons, option.own]) for option in options.values()]
        )
        self._tables = self._first, self._blocks, self._pairs, self._sent, axon
        targets, sources = self._pairs[:, 0], self._pairs[:, 1]
        self._neighbours = [np.concatenate([sources[targets == n], targets[sources == n]]) for n in range(len(sizes))]
        # All layers whose blocks the volumes of a layer depend on: its neighbours, and the targets of its sources.
        self._around = [
            np.unique([n, *near, *targets[np.isin(sources, sources[targets == n])]]).astype(np.int64)
            for n, near in enumerate(self._neighbours)
        ]
        self._found: dict[tuple[int, bytes], NDArray[np.int64]] = {}

    def anneal(self, blocks: Mapping[str, tuple[int, ...]], changes: int, seed: int) -> dict[str, tuple[int, ...]]:
        """The best blocks found from these, which must be among the layers' options, by a number of changes."""
        rng, now = np.random.default_rng(seed), self._indices(blocks)
        cost = least = cost_of_blocks(now, *self._tables)
        best, start_cost = now, cost
        for turn in range(changes):
            # Geometric cooling.
            temperature = start_cost * TEMPERATURES[0] * (TEMPERATURES[1] / TEMPERATURES[0]) ** (turn / changes)
            tried = self._changed(now, rng)
            found = cost_of_blocks(tried, *self._tables)
            if found < cost or rng.random() < math.exp((cost - found) / temperature):  # Metropolis' rule
                now, cost = tried, found
                if cost < least:
                    best, least = now, cost
        return {name: tuple(self.options[name].blocks[n].tolist()) for name, n in zip(self.names, best.tolist(), strict=True)}

    def _indices(self, blocks: Mapping[str, tuple[int, ...]]) -> Integers:
        """Indices of the layers' blocks in their options: (n_layers,)."""
        return np.array([option.index_of(blocks[name]) for name, option in self.options.items()])

    def _changed(self, now: Integers, rng: np.random.Generator) -> Integers:
        tried, layer = now.copy(), int(rng.integers(len(self.names)))
        tried[layer] = self._drawn(now, layer, rng)
        neighbours = self._neighbours[layer]
        if neighbours.size and rng.random() < NEIGHBOUR_CHANCE:
            other = int(neighbours[rng.integers(neighbours.size)])
            tried[other] = self._drawn(tried, other, rng)
        return tried

    def _drawn(self, now: Integers, layer: int, rng: np.random.Generator) -> int:
        """Index of one of the layer's better blocks, drawn with a preference for the best."""
        key = layer, now[self._around[layer]].tobytes()
        if key not in self._found:
            volumes = volumes_of_blocks(now, layer, *self._tables)
            # Those that are better than the last one of interest, and of equal ones the first: a stable sort of few.
            most = min(MAX_BLOCKS_TRIED, volumes.size)
            better = np.flatnonzero(volumes <= np.partition(volumes, most - 1)[most - 1])
            self._found[key] = better[np.argsort(volumes[better], kind="stable")[:most]]
        places = self._found[key]
        return int(places[int(places.size * rng.random() ** 2)])  # the square prefers low places: small volumes

    def shares(self, blocks: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
        """Cores of each resource (n_resources,) that the slices of each layer fill together, neurons with mean output axons."""
        now, found = self._indices(blocks), {}
        for layer, (name, index) in enumerate(zip(self.names, now.tolist(), strict=True)):
            option, sent = self.options[name], output_axons(now, layer, -1, self._pairs, self._sent)[0]
            found[name] = option.pieces[index] * (option.own[index] + option.neurons[index] * sent * self._tables[-1])
        return found


@CompiledLate
def output_axons(now: Array, layer: int, but: int, pairs: Array, sent: Array) -> tuple[float, float]:
    """Mean and maximum of the output axons of a neuron of the layer, without those to the layer `but`."""
    mean = most = 0.0
    for pair in range(len(pairs)):
        if pairs[pair, 1] == layer and pairs[pair, 0] != but:
            mean += sent[pairs[pair, 2] + now[pairs[pair, 0]], 0]
            most += sent[pairs[pair, 2] + now[pairs[pair, 0]], 1]
    return mean, most


@CompiledLate
def share_of_block(block: Array, density: float, axon: Array) -> float:
    """Share of a core that a slice takes, at `density` output axons a neuron."""
    share = 0.0
    for resource in range(axon.size):
        share = max(share, block[2 + resource] + block[1] * density * axon[resource])
    return share


@CompiledLate
def volumes_of_blocks(now: Array, layer: int, first: Array, blocks: Array, pairs: Array, sent: Array, axon: Array) -> Array:
    """Volume, in cores, of the slices of the layer and its sources, for each of its blocks (n,)."""
    total = np.empty(first[layer + 1] - first[layer])
    mean, most = output_axons(now, layer, -1, pairs, sent)
    for index in range(total.size):
        block = blocks[first[layer] + index]
        # The mean rates the volume, the maximum decides whether the worst slice fits: blocks that no core holds come last.
        total[index] = block[0] * share_of_block(block, mean, axon) + (1e6 if share_of_block(block, most, axon) > 1 else 0.0)
    for pair in range(len(pairs)):
        source = pairs[pair, 1]
        if pairs[pair, 0] == layer:
            block = blocks[first[source] + now[source]]
            mean, most = output_axons(now, source, layer, pairs, sent)
            for index in range(total.size):
                more = sent[pairs[pair, 2] + index]
                over = max(share_of_block(block, most + more[1], axon) - 1, 0.0)
                total[index] += block[0] * (share_of_block(block, mean + more[0], axon) + OVERFLOW_PENALTY * over)
    return total


@CompiledLate
def cost_of_blocks(now: Array, first: Array, blocks: Array, pairs: Array, sent: Array, axon: Array) -> float:
    """Estimated cores of all slices, plus penalties for overflow and volume."""
    shares, pieces, penalties = np.empty(now.size), np.empty(now.size, dtype=np.int64), 0.0
    for layer in range(now.size):
        block, (mean, most) = blocks[first[layer] + now[layer]], output_axons(now, layer, -1, pairs, sent)
        share, over = share_of_block(block, mean, axon), share_of_block(block, most, axon) - 1
        shares[layer], pieces[layer] = min(share, 1.0), int(block[0])
        # + 0.5, so that an overflow of almost nothing never pays.
        overflow = pieces[layer] * (OVERFLOW_PENALTY * over + 0.5) if over > 0 else 0.0
        penalties += VOLUME_WEIGHT * share * pieces[layer] + overflow
    return estimate_cores(shares, pieces) + penalties


@CompiledLate
def estimate_cores(shares: Array, pieces: Array) -> int:
    """Estimated cores of slices by best fit decreasing, from the share of a core of each size and its number of slices."""
    # Shares left of begun cores, ascending, and the cores of each: rounded, so that almost equal ones count as one kind.
    left, many, kinds, n_cores = np.empty(ROUNDING + 2), np.empty(ROUNDING + 2, dtype=np.int64), 0, 0
    after, cores_after = np.empty(2 * ROUNDING + 6), np.empty(2 * ROUNDING + 6, dtype=np.int64)
    done = np.zeros(shares.size, dtype=np.bool_)
    for _ in range(shares.size):
        largest = -1
        for n in range(shares.size):
            if not done[n] and (largest < 0 or shares[n] > shares[largest]):
                largest = n
        done[largest] = True
        size, waiting, changed = max(shares[largest], 1e-6), pieces[largest], 0  # slices of nothing must not divide by 0
        begun, kept = 0, 0
        for at in range(kinds + 1):  # best fit: the least space left that is enough, and at last new cores
            free, cores = (left[at], many[at]) if at < kinds else (1.0, waiting)
            if waiting > 0 and free >= size - 1e-9:
                each = max(1, int((free + 1e-9) / size))
                full = min(cores, waiting // each)
                waiting -= full * each
                rest = waiting if full < cores else 0
                waiting -= rest
                for n, held in ((full, each), (int(rest > 0), rest)):
                    if n:
                        after[changed] = np.rint(max(free - held * size, 0.0) * ROUNDING) / ROUNDING
                        cores_after[changed], changed = n, changed + 1
                cores -= full + int(rest > 0)
                begun = full + int(rest > 0)
            if at < kinds:
                if cores:
                    left[kept], many[kept], kept = free, cores, kept + 1
                begun = 0
        n_cores, kinds = n_cores + begun, kept
        for n in range(changed):
            if after[n] <= FULL_SHARE:
                continue
            at = kinds
            while at > 0 and left[at - 1] > after[n]:
                at -= 1
            if at > 0 and left[at - 1] == after[n]:
                many[at - 1] += cores_after[n]
                continue
            for k in range(kinds, at, -1):
                left[k], many[k] = left[k - 1], many[k - 1]
            left[at], many[at], kinds = after[n], cores_after[n], kinds + 1
    return n_cores
