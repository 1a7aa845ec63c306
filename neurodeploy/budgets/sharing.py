"""How the cores are shared out among the layers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from neurodeploy.budgets.allotment import Allotment, allotted
from neurodeploy.budgets.budget import Budget
from neurodeploy.budgets.plan import MANY_SLICES, Unpruned, n_cores, planned
from neurodeploy.budgets.room import Lack
from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.network import Network
from neurodeploy.placement import Slice
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS, Layers, limited, vector


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
    explain : bool
        Where there is no budget, find out what would help, which takes longer than to see that there is none.

    Raises
    ------
    RequestError
        `cores` or `chips` is not within 1..what the profile has.
    BudgetError
        No pruning of synapses can help: too many neurons for the cores, or a core without room for a single axon.
    """
    cores = profile.cores_given(cores, chips)
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
    taken = np.stack([vector(part.usage, part.output_axons, profile) for part in bare])
    most = int((taken.sum(axis=0) / [max(profile.capacity(resource), 1) for resource in limited(profile)]).argmax())
    layers = [layer.name for layer in unpruned.layers]
    of_layer = np.bincount([layers.index(part.layer) for part in bare], taken[:, most])
    what = "cores for neurons, axons and a synapse on each core alone, whatever is pruned"
    enough = _fewest(enough, cores, unpruned, whole)
    told = replace(lack, layer=layers[int(of_layer.argmax())], what=what, need=enough, key=f"{limited(profile)[most]}_per_core")
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
