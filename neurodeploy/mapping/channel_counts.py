"""Number of channels that convolutions keep under a budget, and of neurons that dense layers keep.

Of a convolution mostly its neurons and their axons bind on the chip, so whole channels are pruned; of one with many channels and
a small image it is the memory of its kernels, which lose synapses besides. Dense layers lose synapses, and neurons only where no
pruning of synapses is enough. The chip decides how many channels, neurons and synapses fit, training which ones stay.
A *unit* below is a channel of an image or a neuron of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from neurodeploy.errors import BudgetError, check_arguments
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.graph import bias_sources
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import Unpruned, share_budget
from neurodeploy.mapping.budget import Budget, SliceBudget
from neurodeploy.mapping.delay_balancing import Balance, balanced, relays_of
from neurodeploy.passes.dead_neurons import is_depthwise, tied_layers, trimmable, without_neurons
from neurodeploy.resources.usage import Region
from neurodeploy.targets import default_weight_bits

# Below the highest level convolutions lose more channels, but dense layers keep more synapses.
LEVEL_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Fractions of the highest feasible level that are tried."""
LEVELS = 64
"""Resolution of the level for channels."""


@check_arguments
def narrow_budget(
    network: Network, profile: Chip, *, cores: int | None = None, bits: int | None = None,
    balances: tuple[Balance, ...] = (),
) -> Budget:  # fmt: skip
    """Share the cores of a chip among layers: convolutions lose channels, dense layers synapses, and neurons where they have to.

    A convolution keeps a share c of its channels, and all layers shares b of their synapse memory, as `share_budget` gives them
    once the channels are known. Shares c are inversely proportional to the square root of the neurons that a layer has, with
    its pools, and never beyond 1: for a fixed number of neurons this minimises the sum of 1 / c, the loss by pruning being
    about inverse in the share that is kept. Of the feasible levels, the one with the smallest sum of 1 / c and 1 / b is
    taken. Where no level is feasible, hidden dense layers lose neurons in the same way.

    Parameters
    ----------
    network : Network
        Where all its channels and neurons fit, the result is that of `share_budget`.
    cores : int, optional
        All of the profile's by default.
    bits : int, optional
        Width that the weights will be stored in; the widest that the chip has by default.
    balances : tuple of Balance
        Delays to plan with, of `neurodeploy.balance`. Relays lose the units of their source; where the network cannot fit with
        them, all spikes wait in synapses.

    Returns
    -------
    Budget
        Regions of images refer to the narrowed network. Those of rows of neurons refer to `network`, and `max_neurons` of each
        slice may stay.

    Raises
    ------
    RequestError
        `cores` is not within 1..what the profile has.
    BudgetError
        The network does not fit even with one channel for each convolution, and one neuron for each hidden dense layer.
    """
    profile = load_profile(profile)
    bits = default_weight_bits(profile, bits)
    channels, neurons = _groups(network)
    attempted = partial(_attempt, network, profile, cores, bits)
    found = _best_attempt(partial(attempted, balances), network, channels)
    if found is None and relays_of(balances) and all(choice.synapses_cost is not None for choice in balances):
        # relays take neurons, which no pruning of synapses frees
        balances = tuple(replace(choice, by="synapses") for choice in balances)
        found = _best_attempt(partial(attempted, balances), network, channels)
    if found is None and neurons:
        found = _best_attempt(partial(attempted, balances), network, [*channels, *neurons])
    if found is None:
        try:
            return attempted(balances, _units_kept(network, [*channels, *neurons], 0.0)).budget
        except BudgetError as error:
            if neurons:
                error.what = f"{error.what.rstrip(',')}, with one neuron of each hidden layer kept,"
            raise
    return found


def _best_attempt(attempted: Callable[..., _Attempt], network: Network, groups: list[tuple[str, ...]]) -> Budget | None:
    """The budget of smallest loss, of layers that lose units in groups; None if none of those tried is feasible."""

    @cache  # neighbouring levels often round to the same units
    def shared(units: tuple[tuple[str, int], ...]) -> _Attempt | None:
        try:
            return attempted(dict(units), explain=False, is_coarse=True)
        except BudgetError:
            return None

    # a level that tells neurons of the largest row apart
    n_levels = max([LEVELS, *(network[names[0]].n_neurons for names in groups if len(network[names[0]].shape) == 1)])

    def attempt(level: int) -> _Attempt | None:
        return shared(tuple(_units_kept(network, groups, level / n_levels).items()))

    if (whole := attempt(n_levels)) is not None and (whole.keeps_synapses or not groups):
        return whole.refined()
    low, high = 0, n_levels
    while high - low > 1 and whole is None and groups:  # feasibility is taken as monotone: fewer units fit more easily
        middle = (low + high) // 2
        low, high = (middle, high) if attempt(middle) is not None else (low, middle)
    most = n_levels if whole is not None else max(low, 1)
    if (highest := attempt(most)) is not None and highest.keeps_synapses:
        return highest.refined()  # below it layers lose more units, and gain nothing
    tried: list[_Attempt | None] = []
    for level in sorted({max(round(part * most), 1) for part in LEVEL_FRACTIONS}):
        tried.append(attempt(level))
        # losses fall and then rise; for networks of many slices an attempt takes seconds
        if len(tried) > 1 and (one := tried[-1]) and (before := tried[-2]) and one.refine and one.loss > before.loss:
            break
    # 0 is a unit of each layer, which the lowest level may exceed
    found = [one for one in (*tried, attempt(0) if not any(tried) else None) if one is not None]
    return min(found, key=lambda one: one.loss).refined() if found else None


def _groups(network: Network) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Layers that can lose units, in groups that lose the same ones: convolutions, with what pools them, and rows of neurons."""
    free, biases = set(trimmable(network)), bias_sources(network)
    convolved = {layer.name for layer in network if any(is_convolution(c.synapse) for c in layer.connections)}
    rows = {layer.name for layer in network if len(layer.shape) == 1} - biases
    groups = tied_layers(network)
    channels, neurons = ([group for group in groups if (kind & free).issuperset(group)] for kind in (convolved, rows))
    return channels, neurons


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """A budget with some of the channels, and the loss expected of it; `refine` makes it again, if it is a coarse one."""

    budget: Budget
    loss: float
    keeps_synapses: bool
    refine: Callable[[], _Attempt] | None

    def refined(self) -> Budget:
        try:
            return self.budget if self.refine is None else self.refine().budget
        except BudgetError:  # with other cuts a slice may need more than its core has
            return self.budget


def _attempt(
    network: Network, profile: HardwareProfile, cores: int | None, bits: int, balances: tuple[Balance, ...],
    units: Mapping[str, int], *, explain: bool = True, is_coarse: bool = False,
) -> _Attempt:  # fmt: skip
    narrow, relays = balanced(first_units(network, units), balances), relays_of(balances)
    unpruned = Unpruned(narrow, profile, bits)
    whole = unpruned_layers(unpruned, relays)
    budget = share_budget(
        narrow, profile, cores=cores, bits=bits, whole=whole, unpruned=unpruned, explain=explain, is_coarse=is_coarse
    )
    # Depthwise layers follow their source.
    own = [name for name in units if not any(is_depthwise(c.synapse) for c in network[name].connections)]
    kept = [layer.kept for layer in budget.layers if layer.layer not in whole]
    # 1e-9: a layer that keeps nothing loses, but is comparable.
    loss = sum(network[name].shape[0] / units[name] for name in own) + sum(1 / max(b, 1e-9) for b in kept)
    rows = {name: (n, network[name].n_neurons) for name, n in units.items() if len(network[name].shape) == 1}
    # relays stay as many as the neurons that they repeat
    rows |= {relay: rows[source] for relay, source in relays.items() if source in rows}
    budget, keeps_synapses = replace(_spread(budget, rows), balances=balances), min(kept, default=1.0) >= 1
    refine = partial(_attempt, network, profile, cores, bits, balances, units, explain=False)
    is_final = not is_coarse or not unpruned.is_large
    return _Attempt(budget=budget, loss=loss, keeps_synapses=keeps_synapses, refine=None if is_final else refine)


def unpruned_layers(unpruned: Unpruned, relays: Collection[str] = ()) -> list[str]:
    """Layers that lose no synapses: relays, and images whose kernels are not pruned, which lose channels instead."""
    return [
        layer.name
        for layer in unpruned.layers
        if layer.name in relays or (len(layer.shape) == 3 and not unpruned.counts[layer.name].prunes_kernels)
    ]


def _units_kept(network: Network, groups: list[tuple[str, ...]], level: float) -> dict[str, int]:
    """Units that each layer of some groups keeps at a level 0..1: at least one, and all of them at 1."""
    need = [sum(network[name].n_neurons for name in names) for names in groups]
    kept: dict[str, int] = {}
    for names, n_neurons in zip(groups, need, strict=True):
        share = min(1.0, level * math.sqrt(max(need) / n_neurons))  # the layers with most neurons keep `level` itself
        kept |= dict.fromkeys(names, max(round(share * network[names[0]].shape[0]), 1))
    return kept


def first_units(network: Network, n_units: Mapping[str, int]) -> Network:
    """The network with the first `n_units` units of each layer; any others would take as much of the chip."""
    kept = {}
    for name, n in n_units.items():
        units, *plane = network[name].shape
        kept[name] = np.repeat(np.arange(units) < n, int(np.prod(plane)))
    return without_neurons(network, kept)


def _spread(budget: Budget, rows: Mapping[str, tuple[int, int]]) -> Budget:
    """The budget with slices that cover whole rows of neurons, of which so many may stay as the slices had.

    A slice's share of a row is that of the neurons kept, so layers that lose the same neurons are cut in the same places.

    Parameters
    ----------
    rows : mapping of layer to (neurons kept, neurons)
    """

    def spread(layer: str, start: int, stop: int) -> tuple[int, int]:
        kept, n = rows.get(layer, (1, 1))
        return start * n // kept, stop * n // kept

    def of_row(part: SliceBudget) -> SliceBudget:
        caps = []
        for cap in part.sources:
            start, stop = spread(cap.source, cap.start, cap.stop)
            caps.append(replace(cap, start=start, stop=stop))
        if part.layer not in rows:
            return replace(part, sources=tuple(caps))
        region = Region.run(*spread(part.layer, part.start, part.stop))
        return replace(part, region=region, sources=tuple(caps), max_neurons=part.neurons)

    return replace(budget, slices=tuple(of_row(part) for part in budget.slices)) if rows else budget
