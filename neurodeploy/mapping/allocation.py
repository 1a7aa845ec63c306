"""Sharing the cores of a chip among the layers of a network: `share_budget`, and what more cores or fewer bits would gain.

The layers are cut and packed as if each kept a share of its synapse memory. The largest share at which they fit the cores is
found by bisection; what the cores have left over then goes to the slices on them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from neurodeploy.errors import BudgetError, check_arguments
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork, is_sigma_delta, no_sigma_delta
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.place import UNFIT_SLICES, CountCache, counts_of, pack_layers
from neurodeploy.mapping.placement import Placement, Slice
from neurodeploy.mapping.slice_budgets import (
    Infeasibility,
    PrunableAxons,
    SliceAndLayerBudgets,
    memory_for_synapses,
    minimum_usage,
    neuron_and_axon_bits,
    prunable_axons,
    slice_budgets,
)
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import (
    Layers,
    Region,
    Usage,
    bits_of,
    limited_resources,
    usage_vector,
    weight_bits,
)
from neurodeploy.targets import default_weight_bits

BISECTION_STEPS = 12
"""Steps of the bisection of the share level, which end at 1 part in 2**12."""
MANY_SLICES = 200
"""From this many slices on, the level is found in two passes: a coarse one with one packing variant, a fine one with all."""
COARSE_STEPS, FINE_STEPS = 8, 4
"""Bisection steps of the two passes."""
MAX_VARIANT_GAIN = 1.25
"""All packing variants together are taken to allow at most this many times the level, and cores, of the first variant alone."""
MIN_FREE_MEMORY = 0.1
"""Share of the synapse memory assumed free for synapses when the shares are estimated, whatever output axons take."""


class Unpruned:
    """A network counted as if no weight were zero; packed when first asked for, once for all its budgets.

    Parameters
    ----------
    bits : int, optional
        Width of the stored weights, where they are not narrower yet; rounded up to one that the chip has, by default its widest.
    known : Placement, optional
        The placement of the network as it is; reused where none of its weights is zero.
    counted : dict, optional
        Shared with calls for the same profile, as of `neurodeploy.mapping.place.lay_out`.
    """

    def __init__(
        self, network: Network | QuantizedNetwork, profile: HardwareProfile, bits: int, known: Placement | None = None,
        counted: CountCache | None = None,
    ) -> None:  # fmt: skip
        self.layers: Layers = network.layers
        self.profile, self.width = profile, weight_bits(bits, profile)
        widths = {layer.name: weight_bits(min(bits, bits_of(layer, bits)), profile) for layer in self.layers}
        self.counts = counts_of(self.layers, widths, profile, connectivity=1.0, counted=counted)  # 1: as if no weight were zero
        is_full = all(bool(connection.synapse.weight.all()) for layer in self.layers for connection in layer.connections)
        self._prunable = prunable_axons(self.layers)
        self._known = known.slices if known is not None and known.weight_bits == widths and is_full else None

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """The unpruned network on the fewest cores found."""
        return pack_layers(self.layers, self.profile, self.counts) if self._known is None else self._known

    @cached_property
    def quick_slices(self) -> tuple[Slice, ...]:
        """The same, by one packing variant only where slices are many."""
        if self._known is not None:
            return self._known
        slices = pack_layers(self.layers, self.profile, self.counts, is_quick=True)
        return slices if len(slices) >= MANY_SLICES else self.slices

    @property
    def is_large(self) -> bool:
        """Whether its slices are many, so that plans are made in two passes."""
        return len(self.quick_slices) >= MANY_SLICES

    def fitting(self, cores: int, *, is_coarse: bool = False) -> tuple[Slice, ...] | None:
        """The unpruned slices where they fit this many cores; None where they do not."""
        quick = count_cores(self.quick_slices)
        if is_coarse and quick <= cores:
            return self.quick_slices
        # the other variants cost time, and are not tried where the first one is far off
        return self.slices if quick <= MAX_VARIANT_GAIN * cores and count_cores(self.slices) <= cores else None

    def pruned_counts(self, shares: Mapping[str, float]) -> dict[str, PrunedLayerCount]:
        """Every layer counted as if it kept a share of its synapse memory, 0..1; layers not named keep the minimum."""
        return {
            name: PrunedLayerCount(counted, shares.get(name, 0.0), self._prunable.get(name))
            for name, counted in self.counts.items()
        }

    def minimal_plan(self, whole: Collection[str]) -> tuple[Slice, ...]:
        """The layers on the fewest cores that can hold them: one synapse a slice, but all synapses of the layers in `whole`."""
        return pack_layers(self.layers, self.profile, self.pruned_counts(dict.fromkeys(whole, 1.0)), repacked=UNFIT_SLICES)

    def memory_shares(self, cores: int, whole: Collection[str]) -> dict[str, float]:
        """Share of its unpruned memory that each layer may use, by square-root water-filling; infinite where it keeps all."""
        bits: dict[str, float] = defaultdict(float)
        for part in self.quick_slices:
            bits[part.layer] += part.usage.synapse_memory_bits
        memory = float(cores * memory_for_synapses(self.profile))
        taken = sum(neuron_and_axon_bits(part, self.profile) for part in self.quick_slices) + sum(bits[name] for name in whole)
        # Cut for fewer cores, layers send to fewer slices: the output axons of the unpruned cut must not use up the estimate.
        left = max(memory - taken, memory * MIN_FREE_MEMORY)
        shares = dict.fromkeys(whole, math.inf)
        needs = {name: need for name, need in bits.items() if name not in shares}
        # Square-root water-filling: a layer that would get more than it needs keeps all of it, and the others share the rest
        # anew.
        while needs:
            level = left / sum(np.sqrt(need) for need in needs.values())
            kept_whole = {name: need for name, need in needs.items() if need <= level * np.sqrt(need)}
            if not kept_whole:
                return shares | {name: float(level / np.sqrt(need)) for name, need in needs.items()}
            shares |= dict.fromkeys(kept_whole, math.inf)
            left -= sum(kept_whole.values())
            needs = {name: need for name, need in needs.items() if name not in kept_whole}
        return shares


class PrunedLayerCount(LayerCount):
    """A layer counted as if it kept a share of its unpruned synapse memory, at least one synapse a slice.

    On chips with separate memory for axons, a layer that is pruned axon by axon counts with one synapse's axons only: its axons
    are capped afterwards.

    Parameters
    ----------
    whole : LayerCount
        The layer as if no weight were zero.
    share : float
        0..1.
    prunable : PrunableAxons or None
        Axons of the layer that are pruned one by one.
    """

    def __init__(self, whole: LayerCount, share: float, prunable: PrunableAxons | None = None) -> None:
        # All that is counted is that of the whole layer; only `share` differs, and with it what a region takes.
        vars(self).update(vars(whole), _used={}, _taken={}, tables={})
        self.whole, self.share, self.prunable = whole, share, prunable
        # where axons share the memory, the plan has to count them
        if prunable is not None and "memory_bits_per_core" not in self.profile:
            self.capped_sources = frozenset(c.source for c in self.layer.connections) - prunable.uncapped

    def usage(self, region: Region) -> Usage:
        """Usage of a region at the layer's share."""
        usage = self.whole.usage(region)  # counted once for all shares
        bits, axons = minimum_usage(self, region, usage, self.prunable)
        memory = max(math.ceil(usage.synapse_memory_bits * self.share), bits)  # one synapse a slice at least
        return replace(usage, synapse_memory_bits=memory, input_axons=usage.input_axons if self.prunable is None else axons)


def plan_slices(unpruned: Unpruned, cores: int, whole: Collection[str], *, is_coarse: bool = False) -> tuple[Slice, ...] | None:
    """The layers packed on the cores at the largest share level found; None if not even one synapse a slice fits.

    Where slices are many, `is_coarse` leaves out the second pass.
    """
    if (slices := unpruned.fitting(cores, is_coarse=is_coarse)) is not None:
        return slices
    layers, profile = unpruned.layers, unpruned.profile
    shares = unpruned.memory_shares(cores, whole)
    kept = {name for name, share in shares.items() if math.isinf(share)}  # layers that keep every synapse
    is_quick = unpruned.is_large

    def plan(level: float, kept: set[str], *, is_quick: bool = is_quick) -> tuple[Slice, ...] | None:
        level_of = {name: 1.0 if name in kept else min(level * min(share, 1.0), 1.0) for name, share in shares.items()}
        slices = pack_layers(layers, profile, unpruned.pruned_counts(level_of), is_quick=is_quick, enough=cores)
        return slices if count_cores(slices) <= cores else None

    low, high, best = 1.0, 1.0, plan(1.0, kept)  # level 1: each layer at its own share
    if best is not None and (count_cores(best) == cores or len(kept) == len(layers)):
        return best
    if best is not None:
        high = 1 / min(shares.values())  # from there on every layer is whole
    elif (best := plan(0.0, kept)) is not None:
        low = 0.0
    elif (best := plan(0.0, set(whole), is_quick=False)) is not None:  # small layers cannot be kept whole: prune them too
        low, kept = 0.0, set(whole)
    else:
        return None
    low, best = _bisect_level(lambda level: plan(level, kept), low, high, best, COARSE_STEPS if is_quick else BISECTION_STEPS)
    if not is_quick or is_coarse:
        return best
    high = min(MAX_VARIANT_GAIN * low + 2**-COARSE_STEPS, high)  # what further variants may gain, and a coarse step
    return _bisect_level(lambda level: plan(level, kept, is_quick=False), low, high, best, FINE_STEPS, enough=cores)[1]


def _bisect_level(
    plan: Callable[[float], tuple[Slice, ...] | None],
    low: float,
    high: float,
    best: tuple[Slice, ...],
    steps: int,
    enough: int | None = None,
) -> tuple[float, tuple[Slice, ...]]:
    """The highest level found at which there is a plan, and that plan; `best` is the plan at `low`."""
    for _ in range(steps):
        middle = (low + high) / 2
        attempt = plan(middle)
        low, high, best = (middle, high, attempt) if attempt is not None else (low, middle, best)
        if attempt is not None and count_cores(attempt) == enough:
            break  # all cores are used: what they have left over goes to the slices on them anyway
    return low, best


def count_cores(slices: tuple[Slice, ...]) -> int:
    """Number of cores that hold a slice."""
    return len({part.core for part in slices})


@check_arguments
def share_budget(
    network: Network | QuantizedNetwork,
    profile: Chip,
    *,
    cores: int | None = None,
    chips: int | None = None,
    bits: int | None = None,
    whole: Collection[str] = (),
    unpruned: Unpruned | None = None,
    explain: bool = True,
    is_coarse: bool = False,
) -> Budget:
    """Share the cores of a chip among the layers of a network.

    Synapse memory goes to the layers in proportion to the square root of what they need unpruned, and never beyond that: of all
    shares b with a fixed sum this minimises the sum of need / b, the loss by pruning being about inverse in the share that is
    kept. So small layers, readouts above all, are kept whole. The layers are then packed as `neurodeploy.mapping.place` packs
    them, at the largest common level at which they fit, and what a core has left over goes to the slices on it.

    Parameters
    ----------
    cores, chips : int, optional
        Cores, or chips of them, that the network may use; all of the profile's by default.
    bits : int, optional
        Width of the stored weights, where they are not narrower yet; rounded up to one that the chip has, by default its widest.
    whole : collection of str
        Layers that keep every synapse, whatever that leaves for the others.
    unpruned : Unpruned, optional
        The same network at this width, where it has been packed already.
    explain : bool
        Where there is no budget, search for the smallest change that helps. It takes longer than the refusal itself.
    is_coarse : bool
        For comparing networks of many slices: layers may get up to a fifth less than they could.

    Raises
    ------
    RequestError
        `cores` or `chips` is not within 1..what the profile has.
    BudgetError
        No pruning of synapses can help: too many neurons for the cores, or a core that cannot hold a single axon.
    """
    profile = load_profile(profile)
    cores, bits = profile.core_count(cores, chips), default_weight_bits(profile, bits)
    if isinstance(network, QuantizedNetwork) and is_sigma_delta(network):
        error = no_sigma_delta("network", "which are not compressed")
        raise BudgetError(error.where, error.what, remedy=error.remedy)
    sharing = CoreSharing(Unpruned(network, profile, bits) if unpruned is None else unpruned, whole, is_coarse=is_coarse)
    found = sharing.budget(cores)
    if isinstance(found, Infeasibility):
        raise sharing.explained(found, cores) if explain else found.error(profile, "")
    return found


class CoreSharing:
    """The budgets of a network for any number of cores, or the limit that makes them infeasible.

    Parameters
    ----------
    whole : collection of str
        Layers that keep every synapse.
    """

    def __init__(self, unpruned: Unpruned, whole: Collection[str], *, is_coarse: bool = False) -> None:
        self.unpruned, self.whole, self.profile, self.is_coarse = unpruned, whole, unpruned.profile, is_coarse

    def budget(self, cores: int) -> Budget | Infeasibility:
        """The budget for a number of cores, or the limit that allows none."""
        if (infeasible := self._too_many_neurons(cores)) is not None:
            return infeasible
        layers = self.unpruned.layers
        if (plan := plan_slices(self.unpruned, cores, self.whole, is_coarse=self.is_coarse)) is None:
            # No single layer is to blame: `_core_shortage` finds the scarcest resource if an explanation is asked for.
            return Infeasibility(layer=layers[0].name, what="", need=0, limit=cores, key="cores_per_chip", is_of_cores=True)
        found = self._slice_budgets(plan)
        if isinstance(found, Infeasibility) and found.depends_on_cut:  # fewer slices take fewer output axons
            found = self._with_fewer_slices(found, cores)
        if isinstance(found, Infeasibility):
            return found
        return Budget(profile=self.profile, cores=cores, weight_bits=self.unpruned.width, slices=found[0], layers=found[1])

    def _slice_budgets(self, plan: tuple[Slice, ...]) -> SliceAndLayerBudgets | Infeasibility:
        return slice_budgets(self.unpruned.layers, self.profile, self.unpruned.counts, plan)

    def _with_fewer_slices(self, infeasible: Infeasibility, cores: int) -> SliceAndLayerBudgets | Infeasibility:
        """Budgets on a half, a quarter, ... of the cores: layers are cut into fewer slices, so neurons need fewer axons."""
        minimal = self.unpruned.minimal_plan(self.whole)
        fits = count_cores(minimal) <= cores
        while (cores := cores // 2) > count_cores(minimal):
            plan = plan_slices(self.unpruned, cores, self.whole)
            found = None if plan is None else self._slice_budgets(plan)
            if found is not None and not isinstance(found, Infeasibility):
                return found
        return self._slice_budgets(minimal) if fits else infeasible

    def _too_many_neurons(self, cores: int) -> Infeasibility | None:
        """The limit on neurons, by number or by the memory of their state, if the cores hold fewer than the network has."""
        layers, profile = self.unpruned.layers, self.profile
        state, n_neurons = profile.number("neuron_state_bits", 0), sum(layer.n_neurons for layer in layers)
        by_number = [profile.capacity("neurons", core) for core in range(cores)] if profile.cores_differ else None
        limit, key = sum(by_number) if by_number else cores * profile.capacity("neurons"), "neurons_per_core"
        for pool in ("memory_bits", "neuron_memory_bits"):
            if state and cores * (profile.capacity(pool) // state) < limit:  # a neuron's state is not split over cores
                limit, key = cores * (profile.capacity(pool) // state), f"{pool}_per_core"
        if n_neurons <= limit:
            return None
        largest = max(layers, key=lambda layer: layer.n_neurons)
        on_cores = f"{cores} core{'s' * (cores > 1)}"
        what = f"neurons of the network on {on_cores} (this layer alone has {largest.n_neurons:,})"
        return Infeasibility(layer=largest.name, what=what, need=n_neurons, limit=limit, key=key, is_of_cores=True)

    def explained(self, infeasible: Infeasibility, cores: int) -> BudgetError:
        """The error with the smallest change that helps: a number of cores, or a higher limit where no number of them does."""
        requested = cores
        if infeasible.is_of_cores:
            minimal = self.unpruned.minimal_plan(self.whole)
            cores = count_cores(minimal)
            found: object = self._slice_budgets(minimal)
            if not isinstance(found, Infeasibility) and len(minimal) < MANY_SLICES:  # a full plan takes long for large networks
                found = self.budget(cores)
            if not isinstance(found, Infeasibility):
                return self._core_shortage(infeasible, minimal, requested)
            infeasible = found
        enough = self._enough_cores(cores) if infeasible.depends_on_cut else None
        if enough is None:
            return infeasible.error(
                self.profile, f"Neither more cores nor pruning helps: the limit would have to be {infeasible.need:,}."
            )
        return infeasible.error(self.profile, self._core_remedy(self._fewest_cores(enough, requested)))

    def _core_shortage(self, infeasible: Infeasibility, minimal: tuple[Slice, ...], cores: int) -> BudgetError:
        """The error for layers that take more cores than there are, even with one synapse a slice."""
        profile, enough = self.profile, count_cores(minimal)
        if infeasible.what:
            # where cores differ, the smaller ones count for what they hold
            enough = max(enough, -(-infeasible.need * cores // infeasible.limit))
            remedy = self._core_remedy(self._fewest_cores(enough, cores), " or remove neurons")
            return infeasible.error(profile, f"Pruning synapses does not help. {remedy}")
        taken = np.stack([usage_vector(part.usage, part.output_axons, profile) for part in minimal])
        limited = limited_resources(profile)
        # The resource whose total fills most cores.
        scarcest = int((taken.sum(axis=0) / [max(profile.capacity(resource), 1) for resource in limited]).argmax())
        layers = [layer.name for layer in self.unpruned.layers]
        of_layer = np.bincount([layers.index(part.layer) for part in minimal], taken[:, scarcest])
        enough = self._fewest_cores(enough, cores)
        found = replace(
            infeasible, layer=layers[int(of_layer.argmax())], need=enough, key=f"{limited[scarcest]}_per_core",
            what="cores for the neurons, axons and one synapse a slice that remain however much is pruned",
        )  # fmt: skip
        return found.error(profile, self._core_remedy(enough, " or remove neurons"))

    def _core_remedy(self, enough: int, otherwise: str = "") -> str:
        """Return the sentence that asks for `enough` cores, or for a larger chip if this one has fewer."""
        cores = f"{enough} core{'s' * (enough > 1)}"
        if enough > self.profile.cores:
            return f"Use a chip with at least {cores} ({self.profile.name} has {self.profile.cores}){otherwise}."
        return f"Allow {cores}{otherwise}."

    def _fewest_cores(self, enough: int, cores: int) -> int:
        """Fewest cores with a budget, from those requested to those known to be enough; tried one by one if slices are few."""
        while (
            len(self.unpruned.quick_slices) < MANY_SLICES
            and enough - 1 > cores
            and not isinstance(self.budget(enough - 1), Infeasibility)
        ):
            enough -= 1
        return enough

    def _enough_cores(self, cores: int) -> int | None:
        """Find a number of cores above `cores` that has a budget; None if there is none."""

        def is_enough(cores: int) -> bool:
            plan = plan_slices(self.unpruned, cores, self.whole)
            return plan is not None and not isinstance(self._slice_budgets(plan), Infeasibility)

        low, high = cores, count_cores(self.unpruned.slices)
        if high <= low or not is_enough(high):  # even the unpruned network's cores do not help
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Share of its unpruned synapse memory that a layer may keep, 0..1: now, with one core more, and with narrower weights.

    Attributes
    ----------
    kept : float
    with_a_core_more : float or None
        None where the profile has no more, or no budget results.
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
    """Return what each layer could keep with one core more, or with the next narrower weight; empty if all are kept whole.

    Parameters
    ----------
    unpruned : Unpruned, optional
        As in `share_budget`.
    """
    if all(layer.kept >= 1 and not layer.binds for layer in budget.layers):
        return ()
    # 1 bit of a signed weight would be its sign alone.
    narrower = max((bits for bits in profile["weight_bits"].choices if 1 < bits < budget.weight_bits), default=None)
    # `unpruned` is of one width, so only the first can reuse it.
    more = _kept_shares(network, profile, budget.cores + 1, budget.weight_bits, unpruned) if budget.cores < profile.cores else {}
    thinner = _kept_shares(network, profile, budget.cores, narrower, None) if narrower is not None else {}
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


def _kept_shares(
    network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int, bits: int, unpruned: Unpruned | None
) -> dict[str, float]:
    """Share that each layer may keep; empty where there is no budget."""
    try:
        budget = share_budget(network, profile, cores=cores, bits=bits, unpruned=unpruned, explain=False)
        return {layer.layer: layer.kept for layer in budget.layers}
    except BudgetError:  # with another number of cores a slice may be cut that just fitted before
        return {}
