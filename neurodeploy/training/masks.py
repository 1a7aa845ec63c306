"""Which synapses of a slice survive.

With a price on every bit of synapse memory the choice falls apart axon by axon: an axon keeps its n largest scores, n
being what makes  sum of scores - price * bits(n)  largest, bits(n) the chip's own count. Caps on axons then keep the
axons that are worth most. Raising the price never raises the bits, so bisection finds the price at which the
slice just fits: its shadow price. The dense encoding, where a whole axon is kept or none of it, is tried as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neurodeploy.budgets.budget import SliceBudget
from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.encodings import axon_bits, index_bits, weight_bits
from neurodeploy.resources.usage import Usage, count

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

RESOURCES = ("synapse_memory_bits", "input_axons", "output_axons")
_BISECTIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """The synapses of a slice that survive, and what keeps the others out.

    Attributes
    ----------
    mask : array (n_neurons, n_in), bool
        True where a synapse survives.
    prices : mapping of resource to float
        Shadow price of each of `RESOURCES`, in score per unit: what one unit more would let in; 0 where it does not bind.
    """

    mask: Mask
    prices: Mapping[str, float]


def choose_synapses(score: NDArray[np.float64], part: SliceBudget, bits: int, profile: HardwareProfile) -> Choice:
    """Keep as much score as the slice's budget allows.

    Optimal for the bits it uses up to the price of the bits that are left over (less than one axon's last step):
    no choice within the budget keeps more than ``kept + price * (budget - used)``.

    Parameters
    ----------
    score : array (n_neurons, n_in)
        What a synapse is worth, at least 0: its squared weight.
    part : SliceBudget
        The limits; memory for at least one synapse.
    bits : int
        Width that the weights will be stored in.

    Returns
    -------
    Choice
        Within every limit of `part`, and never empty.
    """
    score = np.asarray(score, dtype=np.float64)
    if fits(np.full(score.shape[1], score.shape[0]), part, bits, profile):
        return Choice(mask=np.ones(score.shape, dtype=np.bool_), prices=dict.fromkeys(RESOURCES, 0.0))
    width = weight_bits(bits, profile)
    sparse = _choose_sparse(score, part, width, profile)
    dense = _choose_dense(score, part, width, profile)
    best = max(sparse, dense, key=lambda choice: float(score[choice.mask].sum()))
    return best if best.mask.any() else replace(best, mask=_one_synapse(score.shape, part))


def fits(n_synapses: Integers, part: SliceBudget, bits: int, profile: HardwareProfile) -> bool:
    """Whether a slice with so many synapses an axon, array (n_in,), keeps within all its limits."""
    usage, sources = usage_of(n_synapses, part, bits, profile)
    return (
        usage.synapse_memory_bits <= part.synapse_memory_bits
        and usage.input_axons <= part.input_axons
        and all(used <= cap.axons for used, cap in zip(sources, part.sources, strict=True))
    )


def usage_of(n_synapses: Integers, part: SliceBudget, bits: int, profile: HardwareProfile) -> tuple[Usage, list[int]]:
    """What the slice uses of its core, and how many axons from each of `part.sources`."""
    sources = [int(np.count_nonzero(n_synapses[cap.start : cap.stop])) for cap in part.sources]
    return count(n_synapses, part.neurons, bits, profile), sources


# ---------------------------------------------------------------------------------------------- sparse


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Axons:
    """What every axon gains, and costs, by keeping its `sizes[k]` best synapses.

    Only sizes that fill their memory units are listed: one synapse more in a unit that is paid for costs nothing.

    Attributes
    ----------
    order : array (n_in, n_neurons), int64
        Neurons of each axon by falling score.
    sizes, bits : array (n_sizes,), int64
        Ascending, from 0.
    gain : array (n_in, n_sizes)
        Score that is kept.
    """

    order: Integers
    sizes: Integers
    bits: Integers
    gain: Floats

    def best(self, price: float) -> tuple[Integers, Floats]:
        """For every axon the index of its best size at `price` a bit, and what it is then worth; arrays (n_in,)."""
        net = self.gain - price * self.bits
        index = net.argmax(axis=1)
        return index, np.take_along_axis(net, index[:, None], axis=1)[:, 0]

    def mask(self, index: Integers) -> Mask:
        """(n_neurons, n_in), with axon j keeping its `sizes[index[j]]` best synapses."""
        n_in, n_neurons = self.order.shape
        mask = np.empty((n_in, n_neurons), dtype=np.bool_)
        np.put_along_axis(mask, self.order, np.arange(n_neurons) < self.sizes[index][:, None], axis=1)
        return np.ascontiguousarray(mask.T)


def _axons(score: Floats, width: int, profile: HardwareProfile) -> _Axons:
    n_neurons, n_in = score.shape
    by_axon = np.ascontiguousarray(score.T)
    order = np.argsort(-by_axon, axis=1, kind="stable")
    running = np.zeros((n_in, n_neurons + 1))
    np.cumsum(np.take_along_axis(by_axon, order, axis=1), axis=1, out=running[:, 1:])
    bits = axon_bits(np.arange(n_neurons + 1), width, index_bits(n_neurons, profile), profile)
    sizes = np.flatnonzero(np.append(np.diff(bits) > 0, True))
    return _Axons(order=order, sizes=sizes, bits=bits[sizes], gain=running[:, sizes])


def _choose_sparse(score: Floats, part: SliceBudget, width: int, profile: HardwareProfile) -> Choice:
    axons = _axons(score, width, profile)
    price, kept = 0.0, _at_price(axons, 0.0, part)
    if axons.bits[kept].sum() > part.synapse_memory_bits:
        price, within, over = _bisect(axons, part)
        kept = _spend_rest(axons, _move(axons, within, over, part), part)
    _, worth = axons.best(price)
    return Choice(mask=axons.mask(kept), prices={"synapse_memory_bits": price} | _axon_prices(worth, part))


def _at_price(axons: _Axons, price: float, part: SliceBudget) -> Integers:
    """The size, as an index (n_in,), that every axon takes at `price` a bit; 0 for the axons that the caps keep out."""
    index, worth = axons.best(price)
    return np.where(_within_caps(worth, part), index, 0)


def _bisect(axons: _Axons, part: SliceBudget) -> tuple[float, Integers, Integers]:
    """The least price at which the slice fits its memory, the choice there, and the one just below, which does not fit."""
    low, high = 0.0, 2 * float((axons.gain[:, 1:] / axons.bits[1:]).max())
    within, over = _at_price(axons, high, part), _at_price(axons, low, part)
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        index = _at_price(axons, price, part)
        if axons.bits[index].sum() > part.synapse_memory_bits:
            low, over = price, index
        else:
            high, within = price, index
    return high, within, over


def _move(axons: _Axons, within: Integers, over: Integers, part: SliceBudget) -> Integers:
    """Take axons from `within` to `over`, first to last, while memory lasts.

    At the price where the two part these axons gain nothing and lose nothing by it, so the choice stays optimal.
    """
    wish = np.where(within > 0, np.inf, np.where(over > within, 1.0, 0.0))
    goal = np.where(_within_caps(wish, part), np.maximum(over, within), within)
    spare = part.synapse_memory_bits - int(axons.bits[within].sum())
    fitting = np.cumsum(axons.bits[goal] - axons.bits[within]) <= spare
    return np.where(fitting, goal, within)


def _spend_rest(axons: _Axons, index: Integers, part: SliceBudget) -> Integers:
    """Spend the bits that are left on whatever single step of an axon gains most a bit, as long as one fits."""
    index = index.copy()
    rows = np.arange(index.size)
    while True:
        spare = part.synapse_memory_bits - int(axons.bits[index].sum())
        cost = axons.bits - axons.bits[index][:, None]
        gain = axons.gain - axons.gain[rows, index][:, None]
        open_ = _within_caps(np.where(index > 0, np.inf, axons.gain[:, -1]), part)
        value = np.where((cost > 0) & (cost <= spare) & open_[:, None], gain / np.maximum(cost, 1), 0.0)
        best = int(value.argmax())
        axon, size = divmod(best, axons.sizes.size)
        if value[axon, size] <= 0:
            return index
        index[axon] = size


# ---------------------------------------------------------------------------------------------- dense


def _choose_dense(score: Floats, part: SliceBudget, width: int, profile: HardwareProfile) -> Choice:
    """Whole axons, those that are worth most."""
    bits = int(axon_bits(np.asarray(part.neurons), width, 0, profile))
    room = part.synapse_memory_bits // bits
    worth = score.sum(axis=0)
    kept = _within_caps(worth, replace(part, input_axons=min(part.input_axons, room)))
    prices = _axon_prices(worth, part)
    if room < part.input_axons:  # memory binds first: what it would buy is the next axon
        left_out = _within_caps(worth, part) & ~kept
        prices = dict.fromkeys(RESOURCES, 0.0) | {"synapse_memory_bits": float(worth[left_out].max(initial=0.0)) / bits}
    return Choice(mask=np.broadcast_to(kept, score.shape).copy(), prices=prices)


# ---------------------------------------------------------------------------------------------- axons


def _within_caps(worth: Floats, part: SliceBudget) -> Mask:
    """The axons (n_in,) worth something that a slice may keep: the best of each source's, then the best of all.

    The caps nest (each source within the total), so taking the best first is optimal.
    """
    kept = worth > 0
    for cap in part.sources:
        kept[cap.start : cap.stop] = _best(worth[cap.start : cap.stop], kept[cap.start : cap.stop], cap.axons)
    return _best(worth, kept, part.input_axons)


def _best(worth: Floats, among: Mask, n: int) -> Mask:
    if np.count_nonzero(among) <= n:
        return among
    ranked = np.argsort(np.where(among, -worth, np.inf), kind="stable")
    best = np.zeros_like(among)
    best[ranked[:n]] = True
    return best


def _axon_prices(worth: Floats, part: SliceBudget) -> dict[str, float]:
    """What one axon more would be worth, in total and from the source that misses it most; `worth` after its bits are paid."""
    room = replace(part, input_axons=worth.size)
    from_sources = _within_caps(worth, room)
    kept = _within_caps(worth, part)
    capped = worth[(worth > 0) & ~from_sources]
    return {
        "input_axons": float(worth[from_sources & ~kept].max(initial=0.0)),
        "output_axons": float(capped.max(initial=0.0)) if np.array_equal(from_sources, kept) else 0.0,
    }


def _one_synapse(shape: tuple[int, ...], part: SliceBudget) -> Mask:
    """Any single synapse, for a slice whose scores are all nothing: a slice is never cut off."""
    mask = np.zeros(shape, dtype=np.bool_)
    cap = next(cap for cap in part.sources if cap.axons > 0)
    mask[0, cap.start] = True
    return mask
