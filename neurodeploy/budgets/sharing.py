"""How the cores are shared out among the layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from neurodeploy.budgets.allotment import allotted, bits_beside, memory_for_synapses, prunable_sources
from neurodeploy.budgets.budget import Budget
from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.layout.laying import counts_of, filled
from neurodeploy.network import Network
from neurodeploy.placement import Placement, Slice
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.resources.counting import Heard, LayerCount
from neurodeploy.resources.encodings import weight_bits
from neurodeploy.resources.regions import Region
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS, Layers, Usage, bits_of

_HALVINGS = 12
"""The level that all layers are brought to is found to a part in 2**12."""
_MANY_SLICES = 200
"""From so many on it is found roughly first, with layers laid in the first way alone, ..."""
_QUICK_HALVINGS, _FULL_HALVINGS = 8, 4
"""... to a part in 2**8, and then, to a sixteenth of that, by how much all ways of laying them are above it."""
_ABOVE = 1.25
"""So many times that level they fit at most."""
_LEFT_AT_LEAST = 0.1
"""So much of the memory is thought to be left for synapses, whatever output axons would take."""


class Unpruned:
    """A network as if no weight were zero: counted, and laid out when that is first asked for, once for all its budgets.

    Parameters
    ----------
    bits : int
        Width that the weights will be stored in, where they are not narrower yet; rounded up to one that the chip has.
    known : Placement, optional
        The network laid out as it is: taken, where it has no weight that is zero.
    """

    def __init__(
        self, network: Network | QuantizedNetwork, profile: HardwareProfile, bits: int, known: Placement | None = None
    ) -> None:
        self.layers: Layers = network.layers
        self.profile, self.width = profile, weight_bits(bits, profile)
        widths = {layer.name: weight_bits(min(bits, bits_of(layer, bits)), profile) for layer in self.layers}
        self.counts = counts_of(self.layers, widths, profile, connectivity=1.0)
        self._known = known.slices if known is not None and known.weight_bits == widths and _is_full(self.layers) else None

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        return filled(self.layers, self.profile, self.counts) if self._known is None else self._known


def _is_full(layers: Layers) -> bool:
    """Whether no weight is zero."""
    return all(bool(connection.synapse.weight.all()) for layer in layers for connection in layer.connections)


def share_budget(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    chips: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
    whole: Collection[str] = (),
    unpruned: Unpruned | None = None,
) -> Budget:
    """Share the cores out among the layers.

    Synapse memory goes to the layers in proportion to the square root of what they would need unpruned, and never
    beyond that: of all shares b with sum B this makes the sum of need / b smallest, the loss by pruning being about
    inverse in the share that is kept. So small layers, readouts above all, are kept whole. The layers, each region at
    its share of what it would need, are then laid onto the cores as `neurodeploy.layout.laying` lays them, at the highest level
    (the same for all that shrink) at which they fit, and what a core has left over goes to the slices on it.

    Parameters
    ----------
    cores, chips : int, optional
        How many cores, or chips of them, the network may use; all of the profile's by default.
    bits : int
        Width that the weights will be stored in, where they are not narrower yet; rounded up to one that the chip has.
    whole : collection of str
        Layers that keep every synapse, whatever the others have to do without.
    unpruned : Unpruned, optional
        The same network at this width, where it has been laid out already.

    Raises
    ------
    RequestError
        `cores` or `chips` is not within 1..what the profile has.
    BudgetError
        No pruning of synapses can help: too many neurons for the cores, or a core without room for a single axon.
    """
    cores = profile.cores_given(cores, chips)
    _check_neurons(network.layers, profile, cores)
    unpruned = Unpruned(network, profile, bits) if unpruned is None else unpruned
    parts, budgets = allotted(network.layers, profile, unpruned.counts, _plan(unpruned, cores, whole), cores)
    return Budget(profile=profile, cores=cores, weight_bits=unpruned.width, slices=parts, layers=budgets)


def _check_neurons(layers: Layers, profile: HardwareProfile, cores: int) -> None:
    """Refuse more neurons than the cores hold, by their number or by the memory of their state."""
    state, n_neurons = profile.number("neuron_state_bits", 0), sum(layer.n_neurons for layer in layers)
    by_number = [profile.capacity("neurons", core) for core in range(cores)] if profile.cores_differ else None
    room, key = sum(by_number) if by_number else cores * profile.capacity("neurons"), "neurons_per_core"
    for pool in ("memory_bits", "neuron_memory_bits"):
        if state and cores * (profile.capacity(pool) // state) < room:
            room, key = cores * (profile.capacity(pool) // state), f"{pool}_per_core"
    if n_neurons > room:
        largest = max(layers, key=lambda layer: layer.n_neurons)
        raise BudgetError(
            f"layer {largest.name!r}", f"neurons of the network on {cores} cores (this layer alone has {largest.n_neurons:,})",
            need=n_neurons, limit=room, source=profile[key].where,
            remedy=f"Pruning synapses does not help: allow {-(-n_neurons * cores // room)} cores or take out neurons.",
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- who stands where


class _Pressed(LayerCount):
    """A layer that may keep a share of its unpruned synapse memory.

    Where axons have tables of their own, those of a layer that can be pruned axon by axon take no room in the plan: they are
    capped afterwards.
    """

    def __init__(self, whole: LayerCount, share: float, *, prunes_axons: bool) -> None:
        super().__init__(whole.layer, whole.width, whole.profile, 1.0, whole.counted, whole.waits)
        self.share, self.prunes_axons = share, prunes_axons

    def usage(self, region: Region) -> Usage:
        usage = super().usage(region)
        memory = math.ceil(usage.synapse_memory_bits * self.share)
        return replace(usage, synapse_memory_bits=memory, input_axons=0 if self.prunes_axons else usage.input_axons)

    def heard(self, region: Region) -> Iterator[Heard]:
        return iter(()) if self.prunes_axons and "memory_bits_per_core" not in self.profile else super().heard(region)


def _plan(unpruned: Unpruned, cores: int, whole: Collection[str]) -> tuple[Slice, ...]:
    """The layers on the cores, each at the largest share that they hold: as they are, if they fit so."""
    if _n_cores(unpruned.slices) <= cores:
        return unpruned.slices
    layers, profile, prunable = unpruned.layers, unpruned.profile, prunable_sources(unpruned.layers)
    shares = _shares(unpruned.slices, profile, cores, whole)
    kept = {name for name, share in shares.items() if math.isinf(share)}

    is_quick = len(unpruned.slices) >= _MANY_SLICES

    def plan(level: float, kept: set[str], *, is_quick: bool = is_quick) -> tuple[Slice, ...] | None:
        pressed = {}
        for layer in layers:
            share = 1.0 if layer.name in kept else min(level * min(shares[layer.name], 1.0), 1.0)
            pressed[layer.name] = _Pressed(unpruned.counts[layer.name], share, prunes_axons=layer.name in prunable)
        slices = filled(layers, profile, pressed, is_quick=is_quick)
        return slices if _n_cores(slices) <= cores else None

    low, high, best = 1.0, 1.0, plan(1.0, kept)
    if best is not None and (_n_cores(best) == cores or len(kept) == len(layers)):
        return best
    if best is not None:
        high = 1 / min(shares.values())
    elif (best := plan(0.0, kept)) is not None:
        low = 0.0
    elif (best := plan(0.0, set(whole), is_quick=False)) is not None:
        low, kept = 0.0, set(whole)
    else:
        raise _no_plan(unpruned, whole, cores)
    low, best = _highest(lambda level: plan(level, kept), low, high, best, _QUICK_HALVINGS if is_quick else _HALVINGS)
    if not is_quick:
        return best
    high = min(_ABOVE * low + 2**-_QUICK_HALVINGS, high)
    return _highest(lambda level: plan(level, kept, is_quick=False), low, high, best, _FULL_HALVINGS)[1]


def _highest(
    plan: Callable[[float], tuple[Slice, ...] | None], low: float, high: float, best: tuple[Slice, ...], halvings: int
) -> tuple[float, tuple[Slice, ...]]:
    """The highest level found at which there is a plan, and that; `best` is the plan at `low`."""
    for _ in range(halvings):
        middle = (low + high) / 2
        attempt = plan(middle)
        low, high, best = (middle, high, attempt) if attempt is not None else (low, middle, best)
    return low, best


def _no_plan(unpruned: Unpruned, whole: Collection[str], cores: int) -> BudgetError:
    """What to say where even layers without a synapse, but for those kept whole, need more cores."""
    layers, profile, prunable = unpruned.layers, unpruned.profile, prunable_sources(unpruned.layers)
    bare = {
        name: _Pressed(counted, float(name in whole), prunes_axons=name in prunable) for name, counted in unpruned.counts.items()
    }
    needed = _n_cores(filled(layers, profile, bare))
    return BudgetError(
        f"layer {max(layers, key=lambda layer: layer.n_neurons).name!r}", "cores for neurons and axons alone, whatever is pruned",
        need=needed, limit=cores,
        source=profile["memory_bits_per_core" if "memory_bits_per_core" in profile else "neurons_per_core"].where,
        remedy=f"Allow {needed} cores or take out neurons" + ("." if needed <= profile.cores else f": {profile.name} has fewer."),
    )  # fmt: skip


def _n_cores(slices: tuple[Slice, ...]) -> int:
    return len({part.core for part in slices})


def _shares(unpruned: tuple[Slice, ...], profile: HardwareProfile, cores: int, whole: Collection[str]) -> dict[str, float]:
    """Share of its unpruned bits that a layer may use: square-root water-filling; infinite for a layer that is kept whole.

    Cut for fewer cores, layers send less; so the output axons that they have whole are taken to leave them some room.
    """
    bits: dict[str, float] = defaultdict(float)
    for part in unpruned:
        bits[part.layer] += part.usage.synapse_memory_bits
    room = float(cores * memory_for_synapses(profile))
    taken = sum(bits_beside(part, profile) for part in unpruned) + sum(bits[name] for name in whole)
    left = max(room - taken, room * _LEFT_AT_LEAST)
    shares = dict.fromkeys(whole, math.inf)
    needs = {name: need for name, need in bits.items() if name not in shares}
    while needs:
        level = left / sum(np.sqrt(need) for need in needs.values())
        kept_whole = {name: need for name, need in needs.items() if need <= level * np.sqrt(need)}
        if not kept_whole:
            return shares | {name: float(level / np.sqrt(need)) for name, need in needs.items()}
        shares |= dict.fromkeys(kept_whole, math.inf)
        left -= sum(kept_whole.values())
        needs = {name: need for name, need in needs.items() if name not in kept_whole}
    return shares
