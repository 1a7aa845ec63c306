"""Who stands where, and how much of its memory each layer keeps there."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from neurodeploy.budgets.core_shares import biases_of, bits_beside, memory_for_synapses, prunable_sources
from neurodeploy.budgets.room import least_room
from neurodeploy.hardware import HardwareProfile
from neurodeploy.layout.laying import counts_of, filled
from neurodeploy.network import Network
from neurodeploy.placement import Placement, Slice
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.resources.counting import Heard, LayerCount
from neurodeploy.resources.encodings import weight_bits
from neurodeploy.resources.regions import Region
from neurodeploy.resources.usage import Layers, Usage, bits_of

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
        super().__init__(whole.layer, whole.width, whole.profile, 1.0, whole.counted, whole.waits)
        self.share, self.prunes_axons, self.biases = share, prunes_axons, biases

    def usage(self, region: Region) -> Usage:
        usage = super().usage(region)
        bits, axons = least_room(self, usage, self.biases)
        memory = max(math.ceil(usage.synapse_memory_bits * self.share), bits)
        return replace(usage, synapse_memory_bits=memory, input_axons=axons if self.prunes_axons else usage.input_axons)

    def heard(self, region: Region) -> Iterator[Heard]:
        return iter(()) if self.prunes_axons and "memory_bits_per_core" not in self.profile else super().heard(region)


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
