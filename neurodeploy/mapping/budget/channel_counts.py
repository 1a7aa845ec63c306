"""Number of channels that convolutions keep under a budget.

Of a convolution mostly its neurons and their axons bind on the chip, so whole channels are pruned; of one with many channels and
a small image it is the memory of its kernels, which lose synapses besides. The chip decides how many channels and synapses fit,
training which ones stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.network import Network
from neurodeploy.mapping.budget.allocation import Unpruned, share_budget
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.passes.dead_neurons import is_depthwise, tied_layers, trimmable, without_neurons
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS

# Below the highest level convolutions lose more channels, but dense layers keep more synapses.
LEVEL_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Fractions of the highest feasible level that are tried."""
LEVELS = 64
"""Resolution of the level."""


def narrow_budget(
    network: Network, profile: HardwareProfile, *, cores: int | None = None, bits: int = DEFAULT_WEIGHT_BITS
) -> Budget:
    """Share the cores of a chip among layers: convolutions lose channels, dense layers synapses.

    A convolution keeps a share c of its channels, and all layers shares b of their synapse memory, as `share_budget` gives them
    once the channels are known. Shares c are inversely proportional to the square root of the neurons that a layer has, with
    its pools, and never beyond 1: for a fixed number of neurons this minimises the sum of 1 / c, the loss by pruning being
    about inverse in the share that is kept. Of the feasible levels, the one with the smallest sum of 1 / c and 1 / b is
    taken.

    Parameters
    ----------
    network : Network
        A chain. Without a convolution that can lose channels the result is that of `share_budget`.
    cores : int, optional
        All of the profile's by default.
    bits : int
        Width that the weights will be stored in.

    Returns
    -------
    Budget
        Its regions refer to the narrowed network.

    Raises
    ------
    RequestError
        `cores` is not within 1..what the profile has.
    BudgetError
        The network does not fit even with one channel for each convolution.
    """
    if not narrowable(network):
        return _attempt(network, profile, cores, bits, {}).budget

    @cache  # neighbouring levels often round to the same channels
    def shared(channels: tuple[tuple[str, int], ...]) -> _Attempt | None:
        try:
            return _attempt(network, profile, cores, bits, dict(channels), explain=False)
        except BudgetError:
            return None

    def attempt(level: int) -> _Attempt | None:
        return shared(tuple(_channels(network, level / LEVELS).items()))

    if (whole := attempt(LEVELS)) is not None and whole.keeps_all:
        return whole.budget
    low, high = 0, LEVELS
    while high - low > 1 and whole is None:  # feasibility is taken as monotone: fewer channels fit more easily
        middle = (low + high) // 2
        low, high = (middle, high) if attempt(middle) is not None else (low, middle)
    most = LEVELS if whole is not None else max(low, 1)
    tried = [attempt(level) for level in sorted({max(round(part * most), 1) for part in LEVEL_FRACTIONS})]
    found = [one for one in tried if one is not None]
    return (
        min(found, key=lambda one: one.loss).budget
        if found
        else _attempt(network, profile, cores, bits, _channels(network, 0.0)).budget
    )


def narrowable(network: Network) -> tuple[str, ...]:
    """Convolutions that can lose channels, and the depthwise layers that lose them too."""
    return tuple(name for group in _groups(network) for name in group)


def _groups(network: Network) -> list[tuple[str, ...]]:
    """Convolutions that can lose channels, in groups that lose the same ones."""
    convolved = {layer.name for layer in network if any(is_convolution(c.synapse) for c in layer.connections)}
    return [group for group in tied_layers(network) if convolved.intersection(trimmable(network)).issuperset(group)]


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """A budget with some of the channels, and the loss expected of it."""

    budget: Budget
    loss: float
    keeps_all: bool


def _attempt(
    network: Network, profile: HardwareProfile, cores: int | None, bits: int, channels: Mapping[str, int], *, explain: bool = True
) -> _Attempt:
    narrow = first_channels(network, channels)
    unpruned = Unpruned(narrow, profile, bits)
    whole = [layer.name for layer in network if len(layer.shape) == 3 and not unpruned.counts[layer.name].prunes_kernels]
    budget = share_budget(narrow, profile, cores=cores, bits=bits, whole=whole, unpruned=unpruned, explain=explain)
    # Depthwise layers follow their source.
    own = [name for name in channels if not any(is_depthwise(c.synapse) for c in network[name].connections)]
    kept = [layer.kept for layer in budget.layers if layer.layer not in whole]
    # 1e-9: a layer that keeps nothing loses, but is comparable.
    loss = sum(network[name].shape[0] / channels[name] for name in own) + sum(1 / max(b, 1e-9) for b in kept)
    is_whole = all(n == network[name].shape[0] for name, n in channels.items())
    return _Attempt(budget=budget, loss=loss, keeps_all=is_whole and min(kept, default=1.0) >= 1)


def _channels(network: Network, level: float) -> dict[str, int]:
    """Channels that each convolution, and its pools, keep at a level 0..1: at least one, and all of them at 1."""
    groups = _groups(network)
    need = [sum(network[name].n_neurons for name in names) for names in groups]
    channels: dict[str, int] = {}
    for names, n_neurons in zip(groups, need, strict=True):
        share = min(1.0, level * math.sqrt(max(need) / n_neurons))  # the layers with most neurons keep `level` itself
        channels |= dict.fromkeys(names, max(round(share * network[names[0]].shape[0]), 1))
    return channels


def first_channels(network: Network, n_channels: Mapping[str, int]) -> Network:
    """The network with the first `n_channels` channels of each convolution; any others would take as much of the chip."""
    kept = {}
    for name, n in n_channels.items():
        channels, *plane = network[name].shape
        kept[name] = np.repeat(np.arange(channels) < n, int(np.prod(plane)))
    return without_neurons(network, kept)
