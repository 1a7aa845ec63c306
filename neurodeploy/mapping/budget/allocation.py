"""Who stands where, and how much of its memory each layer keeps there.

How the cores are shared out among the layers.

What one core more, or one bit less a weight, would give each layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.mapping.budget.slice_budgets import (
    Allotment,
    Lack,
    allotted,
    biases_of,
    bits_beside,
    least_room,
    memory_for_synapses,
    prunable_sources,
)
from neurodeploy.mapping.layout import counts_of, filled
from neurodeploy.mapping.placement import Placement, Slice
from neurodeploy.resources.counting import LayerCount, SourceNeurons
from neurodeploy.resources.encodings import weight_bits
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS, Layers, Region, Usage, bits_of, limited_resources, usage_vector

# -------------------- budgets.plan

_HALVINGS = 12
"""The level that all layers are brought to is found to a part in 2**12."""
MANY_SLICES = 200
"""From so many on it is found roughly first, with layers laid in the first way alone, ..."""
_QUICK_HALVINGS, _FULL_HALVINGS = 8, 4
"""... to a part in 2**8, and then, to a sixteenth of that, by how much all ways of laying them are above it."""
_ABOVE = 1.25
"""So many times that level they fit at most; and by no more than that do all ways take fewer cores than the first."""
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

    @cached_property
    def roughly(self) -> tuple[Slice, ...]:
        """The same, in one way only where slices are many."""
        if self._known is not None:
            return self._known
        slices = filled(self.layers, self.profile, self.counts, is_quick=True)
        return slices if len(slices) >= MANY_SLICES else self.slices

    def fits(self, cores: int) -> bool:
        """Whether the slices take no more cores; where one way is far from it, the others are not tried."""
        return n_cores(self.roughly) <= _ABOVE * cores and n_cores(self.slices) <= cores

    def pressed(self, shares: Mapping[str, float]) -> dict[str, Pressed]:
        """Every layer as if it kept such a share of its synapse memory; none of those that are not named."""
        return {
            name: Pressed(counted, shares.get(name, 0.0), prunes_axons=name in self._prunable, biases=self._biases[name])
            for name, counted in self.counts.items()
        }

    @cached_property
    def _prunable(self) -> Collection[str]:
        return prunable_sources(self.layers)

    @cached_property
    def _biases(self) -> Mapping[str, int]:
        return biases_of(self.layers, self._prunable)

    def bare(self, whole: Collection[str]) -> tuple[Slice, ...]:
        """The layers on the fewest cores that they can stand on, with next to no synapse but for those that are kept whole."""
        return filled(self.layers, self.profile, self.pressed(dict.fromkeys(whole, 1.0)))


def _is_full(layers: Layers) -> bool:
    """Whether no weight is zero."""
    return all(bool(connection.synapse.weight.all()) for layer in layers for connection in layer.connections)


class Pressed(LayerCount):
    """A layer that may keep a share of its unpruned synapse memory, and a synapse at least.

    Where axons have tables of their own, those of a layer that can be pruned axon by axon take next to no room in the plan: they
    are capped afterwards.

    Parameters
    ----------
    biases : int
        Neurons that bring biases to a layer that can be pruned axon by axon.
    """

    def __init__(self, whole: LayerCount, share: float, *, prunes_axons: bool, biases: int = 0) -> None:
        super().__init__(whole.layer, whole.width, whole.profile, 1.0, whole.counted, whole.wait_steps)
        self.share, self.prunes_axons, self.biases = share, prunes_axons, biases

    def usage(self, region: Region) -> Usage:
        usage = super().usage(region)
        bits, axons = least_room(self, usage, self.biases)
        memory = max(math.ceil(usage.synapse_memory_bits * self.share), bits)
        return replace(usage, synapse_memory_bits=memory, input_axons=axons if self.prunes_axons else usage.input_axons)

    def sources(self, region: Region) -> Iterator[SourceNeurons]:
        return iter(()) if self.prunes_axons and "memory_bits_per_core" not in self.profile else super().sources(region)


def planned(unpruned: Unpruned, cores: int, whole: Collection[str]) -> tuple[Slice, ...] | None:
    """The layers on the cores, each at the largest share that they hold, which may be all; None if they hold no synapses."""
    if unpruned.fits(cores):
        return unpruned.slices
    layers, profile = unpruned.layers, unpruned.profile
    shares = _shares(unpruned.roughly, profile, cores, whole)
    kept = {name for name, share in shares.items() if math.isinf(share)}

    is_quick = len(unpruned.roughly) >= MANY_SLICES

    def plan(level: float, kept: set[str], *, is_quick: bool = is_quick) -> tuple[Slice, ...] | None:
        level_of = {name: 1.0 if name in kept else min(level * min(share, 1.0), 1.0) for name, share in shares.items()}
        slices = filled(layers, profile, unpruned.pressed(level_of), is_quick=is_quick, enough=cores)
        return slices if n_cores(slices) <= cores else None

    low, high, best = 1.0, 1.0, plan(1.0, kept)
    if best is not None and (n_cores(best) == cores or len(kept) == len(layers)):
        return best
    if best is not None:
        high = 1 / min(shares.values())
    elif (best := plan(0.0, kept)) is not None:
        low = 0.0
    elif (best := plan(0.0, set(whole), is_quick=False)) is not None:
        low, kept = 0.0, set(whole)
    else:
        return None
    low, best = _highest(lambda level: plan(level, kept), low, high, best, _QUICK_HALVINGS if is_quick else _HALVINGS)
    if not is_quick:
        return best
    high = min(_ABOVE * low + 2**-_QUICK_HALVINGS, high)
    return _highest(lambda level: plan(level, kept, is_quick=False), low, high, best, _FULL_HALVINGS, enough=cores)[1]


def _highest(
    plan: Callable[[float], tuple[Slice, ...] | None],
    low: float,
    high: float,
    best: tuple[Slice, ...],
    halvings: int,
    enough: int | None = None,
) -> tuple[float, tuple[Slice, ...]]:
    """The highest level found at which there is a plan, and that; `best` is the plan at `low`.

    One found that takes `enough` cores is good enough: what they have left over goes to the slices on them.
    """
    for _ in range(halvings):
        middle = (low + high) / 2
        attempt = plan(middle)
        low, high, best = (middle, high, attempt) if attempt is not None else (low, middle, best)
        if attempt is not None and n_cores(attempt) == enough:
            break
    return low, best


def n_cores(slices: tuple[Slice, ...]) -> int:
    """Cores that hold a slice."""
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


# -------------------- budgets.sharing


def share_budget(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    chips: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
    whole: Collection[str] = (),
    unpruned: Unpruned | None = None,
    explain: bool = True,
) -> Budget:
    """Share the cores out among the layers.

    Synapse memory goes to the layers in proportion to the square root of what they would need unpruned, and never
    beyond that: of all shares b with sum B this makes the sum of need / b smallest, the loss by pruning being about
    inverse in the share that is kept. So small layers, readouts above all, are kept whole. The layers, each region at
    its share of what it would need, are then laid onto the cores as `neurodeploy.mapping.layout` lays them, at the highest level
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
    explain : bool
        Where there is no budget, find out what would help, which takes longer than to see that there is none.

    Raises
    ------
    RequestError
        `cores` or `chips` is not within 1..what the profile has.
    BudgetError
        No pruning of synapses can help: too many neurons for the cores, or a core without room for a single axon.
    """
    cores = profile.core_count(cores, chips)
    unpruned = Unpruned(network, profile, bits) if unpruned is None else unpruned
    found = _shared(unpruned, cores, whole)
    if isinstance(found, Lack):
        raise _explained(found, unpruned, cores, whole) if explain else found.error(profile, "")
    return found


def _shared(unpruned: Unpruned, cores: int, whole: Collection[str]) -> Budget | Lack:
    """A budget, or why there is none."""
    layers, profile = unpruned.layers, unpruned.profile
    if (lack := _too_many_neurons(layers, profile, cores)) is not None:
        return lack
    if (plan := planned(unpruned, cores, whole)) is None:
        return Lack(layer=layers[0].name, what="", need=0, limit=cores, key="cores_per_chip", is_of_cores=True)
    given = allotted(layers, profile, unpruned.counts, plan)
    if isinstance(given, Lack) and given.hangs_on_cut:
        given = _cut_less(given, unpruned, cores, whole)
    if isinstance(given, Lack):
        return given
    return Budget(profile=profile, cores=cores, weight_bits=unpruned.width, slices=given[0], layers=given[1])


def _cut_less(lack: Lack, unpruned: Unpruned, cores: int, whole: Collection[str]) -> Allotment | Lack:
    """On fewer cores layers are cut less, and fewer slices hear a neuron: so on half of them, a quarter, ... the fewest."""
    bare = unpruned.bare(whole)
    fits = n_cores(bare) <= cores
    while (cores := cores // 2) > n_cores(bare):
        plan = planned(unpruned, cores, whole)
        given = None if plan is None else allotted(unpruned.layers, unpruned.profile, unpruned.counts, plan)
        if given is not None and not isinstance(given, Lack):
            return given
    return allotted(unpruned.layers, unpruned.profile, unpruned.counts, bare) if fits else lack


def _too_many_neurons(layers: Layers, profile: HardwareProfile, cores: int) -> Lack | None:
    """More neurons than the cores hold, by their number or by the memory of their state."""
    state, n_neurons = profile.number("neuron_state_bits", 0), sum(layer.n_neurons for layer in layers)
    by_number = [profile.capacity("neurons", core) for core in range(cores)] if profile.cores_differ else None
    room, key = sum(by_number) if by_number else cores * profile.capacity("neurons"), "neurons_per_core"
    for pool in ("memory_bits", "neuron_memory_bits"):
        if state and cores * (profile.capacity(pool) // state) < room:
            room, key = cores * (profile.capacity(pool) // state), f"{pool}_per_core"
    if n_neurons <= room:
        return None
    largest = max(layers, key=lambda layer: layer.n_neurons)
    what = f"neurons of the network on {cores} cores (this layer alone has {largest.n_neurons:,})"
    return Lack(layer=largest.name, what=what, need=n_neurons, limit=room, key=key, is_of_cores=True)


def _explained(lack: Lack, unpruned: Unpruned, cores: int, whole: Collection[str]) -> BudgetError:
    """The lack, and the smallest change that helps: so many cores, or another limit where no number of them does."""
    asked = cores
    if lack.is_of_cores:
        bare = unpruned.bare(whole)
        cores = n_cores(bare)
        found: object = allotted(unpruned.layers, unpruned.profile, unpruned.counts, bare)
        if not isinstance(found, Lack) and len(bare) < MANY_SLICES:
            found = _shared(unpruned, cores, whole)
        if not isinstance(found, Lack):
            return _of_cores(lack, bare, asked, unpruned, whole)
        lack = found
    enough = _enough(unpruned, cores, whole) if lack.hangs_on_cut else None
    if enough is None:
        return lack.hopeless(unpruned.profile)
    return lack.error(unpruned.profile, _allow("Allow", _fewest(enough, asked, unpruned, whole), unpruned.profile))


def _fewest(enough: int, cores: int, unpruned: Unpruned, whole: Collection[str]) -> int:
    """As few cores as do, between those asked for and those found enough; of few slices, since each number is tried."""
    while (
        len(unpruned.slices) < MANY_SLICES and enough - 1 > cores and not isinstance(_shared(unpruned, enough - 1, whole), Lack)
    ):
        enough -= 1
    return enough


def _of_cores(lack: Lack, bare: tuple[Slice, ...], cores: int, unpruned: Unpruned, whole: Collection[str]) -> BudgetError:
    """What to say where layers with a synapse each, but for those kept whole, take more cores than there are."""
    profile, enough = unpruned.profile, n_cores(bare)
    if lack.what:
        enough = max(enough, -(-lack.need * cores // lack.limit))  # cores that are smaller than others count for what they are
        enough = _fewest(enough, cores, unpruned, whole)
        return lack.error(profile, f"Pruning synapses does not help: {_allow('allow', enough, profile, 'take out neurons')}")
    taken = np.stack([usage_vector(part.usage, part.output_axons, profile) for part in bare])
    limited = limited_resources(profile)
    most = int((taken.sum(axis=0) / [max(profile.capacity(resource), 1) for resource in limited]).argmax())
    layers = [layer.name for layer in unpruned.layers]
    of_layer = np.bincount([layers.index(part.layer) for part in bare], taken[:, most])
    what = "cores for neurons, axons and a synapse on each core alone, whatever is pruned"
    enough = _fewest(enough, cores, unpruned, whole)
    told = replace(lack, layer=layers[int(of_layer.argmax())], what=what, need=enough, key=f"{limited[most]}_per_core")
    return told.error(profile, _allow("Allow", enough, profile, "take out neurons"))


def _allow(begin: str, enough: int, profile: HardwareProfile, otherwise: str = "") -> str:
    """The sentence that asks for so many cores."""
    fewer = "" if enough <= profile.cores else f": {profile.name} has fewer"
    return f"{begin} {enough} cores{' or ' * bool(otherwise)}{otherwise}{fewer}."


def _enough(unpruned: Unpruned, cores: int, whole: Collection[str]) -> int | None:
    """Cores on which there is a budget where there is none on so many; None if there is none however many there are."""

    def is_enough(cores: int) -> bool:
        plan = planned(unpruned, cores, whole)
        return plan is not None and not isinstance(allotted(unpruned.layers, unpruned.profile, unpruned.counts, plan), Lack)

    low, high = cores, n_cores(unpruned.slices)
    if high <= low or not is_enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


# -------------------- budgets.gains


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Share of its unpruned synapse memory that a layer may keep, 0..1: as things stand, and if they stood otherwise.

    Attributes
    ----------
    kept : float
    with_a_core_more : float or None
        None where the profile has no more, or it helps nobody.
    a_width_narrower : float or None
        Of its memory at the narrower width; None where the chip has no narrower one.
    narrower_bits : int or None
    """

    layer: str
    kept: float
    with_a_core_more: float | None
    a_width_narrower: float | None
    narrower_bits: int | None


def gains(
    network: Network | QuantizedNetwork, profile: HardwareProfile, budget: Budget, *, unpruned: Unpruned | None = None
) -> tuple[Gain, ...]:
    """A line a layer; none where every layer may be kept whole. `unpruned` as `share_budget` takes it."""
    if all(layer.kept >= 1 and not layer.binds for layer in budget.layers):
        return ()
    narrower = max((bits for bits in profile["weight_bits"].choices if 1 < bits < budget.weight_bits), default=None)
    more = _kept(network, profile, budget.cores + 1, budget.weight_bits, unpruned) if budget.cores < profile.cores else {}
    thinner = _kept(network, profile, budget.cores, narrower, None) if narrower is not None else {}
    return tuple(
        Gain(
            layer=layer.layer,
            kept=layer.kept,
            with_a_core_more=more.get(layer.layer),
            a_width_narrower=thinner.get(layer.layer),
            narrower_bits=narrower,
        )
        for layer in budget.layers
    )


def _kept(
    network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int, bits: int, unpruned: Unpruned | None
) -> dict[str, float]:
    try:
        budget = share_budget(network, profile, cores=cores, bits=bits, unpruned=unpruned, explain=False)
        return {layer.layer: layer.kept for layer in budget.layers}
    except BudgetError:  # what helps elsewhere may cut a slice that had just enough
        return {}
