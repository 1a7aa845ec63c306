"""Which axons a slice may keep, of those that are worth something.

What an axon's list of synapses is worth, and what it costs, at each of its lengths.

Which synapses of the slices on a core survive.

With a price on every bit of synapse memory the choice falls apart axon by axon: an axon keeps its n largest scores, n
being what makes  sum of scores - price * bits(n)  largest, bits(n) the chip's own count. Caps on axons then keep the
axons that are worth most, and each slice takes the encoding that is worth more. Raising the price never raises the bits,
so bisection finds the one price at which all slices of the core just fit: the core's shadow price, by which its memory
flows to where it keeps most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.mapping.budget.budget import SliceBudget
from neurodeploy.resources.encodings import axon_bits, index_bits, weight_bits

# -------------------- training.caps


def within_caps(worth: Floats, part: SliceBudget) -> Mask:
    """The axons (n_in,) worth something that a slice may keep: the best of each source's, then the best of all.

    The caps nest (each source within the total), so taking the best first is optimal.
    """
    kept = worth > 0
    for cap in part.sources:
        kept[cap.start : cap.stop] = _first(worth[cap.start : cap.stop], kept[cap.start : cap.stop], cap.axons)
    return _first(worth, kept, part.input_axons)


def _first(worth: Floats, among: Mask, n: int) -> Mask:
    if np.count_nonzero(among) <= n:
        return among
    ranked = np.argsort(np.where(among, -worth, np.inf), kind="stable")
    best = np.zeros_like(among)
    best[ranked[:n]] = True
    return best


def axon_prices(worth: Floats, part: SliceBudget) -> dict[str, float]:
    """What one axon more would be worth, in total and from the source that misses it most; `worth` after its bits are paid."""
    room = replace(part, input_axons=worth.size)
    from_sources = within_caps(worth, room)
    kept = within_caps(worth, part)
    capped = worth[(worth > 0) & ~from_sources]
    return {
        "input_axons": float(worth[from_sources & ~kept].max(initial=0.0)),
        "output_axons": float(capped.max(initial=0.0)) if np.array_equal(from_sources, kept) else 0.0,
    }


# -------------------- training.lists


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wish:
    """A slice, and what its synapses are worth.

    Attributes
    ----------
    score : array (n_neurons, n_in)
        What a synapse is worth, at least 0: how much nearer it brings the slice to its weights.
    part : SliceBudget
        Caps on its axons; its memory is the core's affair.
    bits : int
        Width that the weights will be stored in.
    rows : array (n,), int, optional
        The neurons that are to stay, ascending; the others are taken out of the network, so that the targets of those that
        stay are told apart by fewer bits. All of them by default.
    order : array (n_in, n), int, optional
        `by_axon_falling` of the rows' scores, where that is known; sorting takes longest of all.
    axons : int
        How many there are for each column of the scores, all with the same synapses: the pixels that pooling adds up.
    """

    score: Floats
    part: SliceBudget
    bits: int
    rows: Integers | None = None
    order: Integers | None = None
    axons: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lists:
    """What every axon gains, and costs, by keeping its `sizes[k]` best synapses, in one encoding.

    Only sizes that fill their memory units are listed: one synapse more in a unit that is paid for costs nothing.

    Attributes
    ----------
    targets : array (n_in, n), int64
        Neurons of each axon by falling score.
    sizes, bits : array (n_sizes,), int64
        Ascending, from 0.
    gain : array (n_in, n_sizes)
        Score that is kept.
    n_neurons : int
        Of the slice, those that are taken out too.
    """

    targets: Integers
    sizes: Integers
    bits: Integers
    gain: Floats
    n_neurons: int

    def best(self, price: float, reach: int | None = None) -> tuple[Integers, Floats]:
        """For every axon the index of its best size at `price` a bit, and what it is then worth; arrays (n_in,).

        `reach` is an index that none exceeds: that of a lower price.
        """
        sizes = slice(None if reach is None else reach + 1)
        net = self.gain[:, sizes] - price * self.bits[sizes]
        index = net.argmax(axis=1)
        return index, np.take_along_axis(net, index[:, None], axis=1)[:, 0]

    def mask(self, index: Integers) -> Mask:
        """(n_neurons, n_in), with axon j keeping its `sizes[index[j]]` best synapses."""
        n_in, n = self.targets.shape
        mask = np.zeros((n_in, self.n_neurons), dtype=np.bool_)
        np.put_along_axis(mask, self.targets, np.arange(n) < self.sizes[index][:, None], axis=1)
        return np.ascontiguousarray(mask.T)


def by_axon_falling(score: Floats) -> Integers:
    """The neurons of each axon, (n_in, n_neurons), by falling score (n_neurons, n_in); equals by their number."""
    order: Integers = np.argsort(-np.ascontiguousarray(score.T), axis=1, kind="stable")
    return order


def lists_of(wish: Wish, profile: HardwareProfile) -> Sequence[Lists]:
    """The slice's lists in each encoding that the chip has; whole axons only where it is dense."""
    rows = np.arange(len(wish.score)) if wish.rows is None else wish.rows
    by_axon = np.ascontiguousarray(wish.score[rows].T, dtype=np.float64)
    order = by_axon_falling(wish.score[rows]) if wish.order is None else wish.order
    running = np.zeros((len(by_axon), rows.size + 1))
    np.cumsum(np.take_along_axis(by_axon, order, axis=1), axis=1, out=running[:, 1:])
    width, allowed, ways = weight_bits(wish.bits, profile), profile["encodings"].names, []
    if "dense" in allowed or "sparse" not in allowed:
        whole = int(axon_bits(np.asarray(rows.size), width, 0, profile))
        ways.append((np.array([0, rows.size]), np.where(np.arange(rows.size + 1) > 0, whole, 0)))
    if "sparse" in allowed:
        bits = axon_bits(np.arange(rows.size + 1), width, index_bits(rows.size, profile), profile)
        ways.append((np.flatnonzero(np.append(np.diff(bits) > 0, True)), bits))
    return [
        Lists(targets=rows[order], sizes=sizes, bits=bits[sizes] * wish.axons, gain=running[:, sizes], n_neurons=len(wish.score))
        for sizes, bits in ways
    ]


# -------------------- training.masks


RESOURCES = ("synapse_memory_bits", "input_axons", "output_axons")
_BISECTIONS = 60
_EXACT = 1e-12
_NEAR = 1e-3
"""Share of the score that may be missing to the bound before encodings are tried one by one."""
_LITTLE = 0.02
"""Share of the memory that is spent axon by axon; more takes too many steps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """The synapses of a slice that survive, and what keeps the others out.

    Attributes
    ----------
    mask : array (n_neurons, n_in), bool
        True where a synapse survives.
    prices : mapping of resource to float
        Shadow price of each of `RESOURCES`, in score per unit: what one unit more would let in; 0 where it does not bind.
        That of memory is one for all slices of a core.
    """

    mask: Mask
    prices: Mapping[str, float]


def choose_on_core(wishes: Sequence[Wish], memory_bits: int, profile: HardwareProfile) -> tuple[Choice, ...]:
    """Keep as much score as the slices of one core can hold together.

    Optimal for the bits it uses up to the price of the bits that are left over (less than one axon's last step, or one
    slice's change of encoding): no choice within the limits keeps more than ``kept + price * (memory_bits - used)``.

    Parameters
    ----------
    wishes : sequence of Wish
        The slices, and what their synapses are worth.
    memory_bits : int
        What they may use together; room for at least one synapse of each.

    Returns
    -------
    tuple of Choice
        One for each wish, within every cap on axons, and never empty.
    """
    slices = [_Slice(wish, lists_of(wish, profile)) for wish in wishes]
    whole = [part.whole() for part in slices]
    if _bits(whole) <= memory_bits and all(part.iswithin_caps(stand) for part, stand in zip(slices, whole, strict=True)):
        return tuple(part.choice(stand, 0.0) for part, stand in zip(slices, whole, strict=True))
    price, stands = _best(slices, memory_bits)
    single: dict[int, _Stand] = {}
    while starved := [n for n, stand in enumerate(stands) if stand.bits == 0 and n not in single]:
        single |= {n: slices[n].least() for n in starved}
        others = [n for n in range(len(slices)) if n not in single]
        price, fed = _best([slices[n] for n in others], memory_bits - _bits(list(single.values())))
        stands = [single[n] if n in single else fed[others.index(n)] for n in range(len(slices))]
    return tuple(part.choice(stand, price) for part, stand in zip(slices, stands, strict=True))


def _best(slices: Sequence[_Slice], memory_bits: int) -> tuple[float, list[_Stand]]:
    """The shadow price of the slices' memory, and what each keeps; it may be nothing."""
    kept = [part.at(0.0) for part in slices]
    if _bits(kept) <= memory_bits:
        return 0.0, kept
    price, within, over = _bisect(slices, memory_bits)
    moved = _move(slices, within, over, memory_bits)
    most = _score(within) + price * (memory_bits - _bits(within))
    if _bits(moved) >= (1 - _LITTLE) * memory_bits:
        kept = _spend_rest(moved, slices, memory_bits)
        if _score(kept) >= (1 - _NEAR) * most:
            return price, kept
    held = [
        [_Slice(part.wish, [lists]) for part, lists in zip(slices, ways, strict=True)]
        for ways in _encodings(slices, within, over)
    ]
    return price, max((_held(fixed, memory_bits) for fixed in held), key=_score)


def _held(slices: Sequence[_Slice], memory_bits: int) -> list[_Stand]:
    """What slices keep, each in the one encoding that it has."""
    kept = [part.at(0.0) for part in slices]
    if _bits(kept) <= memory_bits:
        return kept
    _, within, over = _bisect(slices, memory_bits)
    return _spend_rest(_move(slices, within, over, memory_bits), slices, memory_bits)


def choose_synapses(score: NDArray[np.float64], part: SliceBudget, bits: int, profile: HardwareProfile) -> Choice:
    """The same for a slice that has a core's memory, `part.synapse_memory_bits`, to itself.

    Parameters
    ----------
    score : array (n_neurons, n_in)
        What a synapse is worth, at least 0.
    bits : int
        Width that the weights will be stored in.
    """
    return choose_on_core([Wish(score=score, part=part, bits=bits)], part.synapse_memory_bits, profile)[0]


# ---------------------------------------------------------------------------------------------- slices at a price


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stand:
    """How a slice is stored: in which lists, and the size of each axon's, as an index (n_in,) of their sizes.

    `reach` has, for each way to store it, an index that none exceeds at that price or a higher one.
    """

    lists: Lists
    index: Integers
    reach: tuple[int, ...] = ()

    @property
    def bits(self) -> int:
        return int(self.lists.bits[self.index].sum())

    @property
    def score(self) -> float:
        return float(np.take_along_axis(self.lists.gain, self.index[:, None], axis=1).sum())


class _Slice:
    """A slice of the core: what it wishes, and the ways to store it."""

    def __init__(self, wish: Wish, ways: Sequence[Lists]) -> None:
        self.wish, self.ways = wish, ways

    def at(self, price: float, reach: Sequence[int] = ()) -> _Stand:
        """What it keeps at `price` a bit, in the encoding that is worth most then; `reach` is that of a lower price."""
        stands, worths, reached = [], [], []
        for way, lists in enumerate(self.ways):
            index, worth = lists.best(price, reach[way] if reach else None)
            kept = within_caps(worth, self.wish.part)
            stands.append(_Stand(lists=lists, index=np.where(kept, index, 0)))
            worths.append(float(worth[kept].sum()))
            reached.append(int(index.max(initial=0)))
        return replace(stands[int(np.argmax(worths))], reach=tuple(reached))

    def whole(self) -> _Stand:
        """Everything, in the encoding that takes the least memory then."""
        stands = [_Stand(lists=way, index=np.full(len(way.gain), way.sizes.size - 1)) for way in self.ways]
        return min(stands, key=lambda stand: stand.bits)

    def least(self) -> _Stand:
        """One list, as short as there is, from the axon that gains most by it: a slice is never cut off."""
        lists = min(self.ways, key=lambda way: int(way.bits[1]))
        open_ = np.concatenate([np.full(cap.stop - cap.start, cap.axons > 0) for cap in self.wish.part.sources])
        index = np.zeros(len(lists.gain), dtype=np.int64)
        index[int(np.where(open_, lists.gain[:, 1], -1.0).argmax())] = 1
        return _Stand(lists=lists, index=index)

    def iswithin_caps(self, stand: _Stand) -> bool:
        everywhere = np.where(stand.index > 0, np.inf, 0.0)
        return bool(within_caps(everywhere, self.wish.part).sum() == np.count_nonzero(stand.index))

    def dearest(self) -> float:
        """A price at which nothing is worth keeping."""
        return 2 * max(float((lists.gain[:, 1:] / np.maximum(lists.bits[1:], 1)).max(initial=0.0)) for lists in self.ways)

    def choice(self, stand: _Stand, price: float) -> Choice:
        _, worth = stand.lists.best(price)
        return Choice(
            mask=stand.lists.mask(stand.index), prices={"synapse_memory_bits": price} | axon_prices(worth, self.wish.part)
        )


def _bits(stands: Sequence[_Stand]) -> int:
    return sum(stand.bits for stand in stands)


def _score(stands: Sequence[_Stand]) -> float:
    return sum(stand.score for stand in stands)


def _encodings(slices: Sequence[_Slice], within: Sequence[_Stand], over: Sequence[_Stand]) -> list[list[Lists]]:
    """Encodings to hold fixed, slice by slice: those on either side of the price, and each for all."""
    ways = [[stand.lists for stand in within], [stand.lists for stand in over]]
    ways += [[part.ways[n] for part in slices] for n in range(len(slices[0].ways))]
    return [way for n, way in enumerate(ways) if all(any(a is not b for a, b in zip(way, w, strict=True)) for w in ways[:n])]


def _bisect(slices: Sequence[_Slice], memory_bits: int) -> tuple[float, list[_Stand], list[_Stand]]:
    """The least price at which the slices fit the memory, what they keep there, and just below, where they do not fit."""
    low, high = 0.0, max(part.dearest() for part in slices)
    within, over = [part.at(high) for part in slices], [part.at(low) for part in slices]
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        stands = [part.at(price, stand.reach) for part, stand in zip(slices, over, strict=True)]
        if _bits(stands) > memory_bits:
            low, over = price, stands
        else:
            high, within = price, stands
        if _are_next(within, over):
            price = (_score(over) - _score(within)) / (_bits(over) - _bits(within))
            return min(max(price, low), high), within, over
        if high - low <= _EXACT * high:
            break
    return high, within, over


def _are_next(within: Sequence[_Stand], over: Sequence[_Stand]) -> bool:
    """Whether one axon grows by one size between them, and nothing else changes: so they part at what that gains a bit."""
    if any(low.lists is not high.lists for low, high in zip(within, over, strict=True)):
        return False
    return sum(int(np.abs(high.index - low.index).sum()) for low, high in zip(within, over, strict=True)) <= 1


def _move(slices: Sequence[_Slice], within: Sequence[_Stand], over: Sequence[_Stand], memory_bits: int) -> list[_Stand]:
    """Take axons from `within` to `over`, first to last, while memory lasts; a slice stored in another way moves whole.

    At the price where the two part they gain nothing and lose nothing by it, so the choice stays optimal.
    """
    moved, spare = [], memory_bits - _bits(within)
    for part, low, high in zip(slices, within, over, strict=True):
        stand = low
        if low.lists is high.lists:
            wish = np.where(low.index > 0, np.inf, np.where(high.index > low.index, 1.0, 0.0))
            goal = np.where(within_caps(wish, part.wish.part), np.maximum(high.index, low.index), low.index)
            fitting = np.cumsum(low.lists.bits[goal] - low.lists.bits[low.index]) <= spare
            stand = _Stand(lists=low.lists, index=np.where(fitting, goal, low.index))
        elif high.bits - low.bits <= spare:
            stand = high
        spare -= stand.bits - low.bits
        moved.append(stand)
    return moved


def _spend_rest(stands: list[_Stand], slices: Sequence[_Slice], memory_bits: int) -> list[_Stand]:
    """Spend the bits that are left on whatever single step of an axon gains most a bit, as long as one fits."""
    spare = memory_bits - _bits(stands)
    while True:
        steps = [_best_step(stand, part.wish.part, spare) for stand, part in zip(stands, slices, strict=True)]
        which = max(range(len(steps)), key=lambda n: steps[n][0])
        value, axon, size = steps[which]
        if value <= 0:
            return stands
        index = stands[which].index.copy()
        index[axon] = size
        after = _Stand(lists=stands[which].lists, index=index)
        spare -= after.bits - stands[which].bits
        stands = [*stands[:which], after, *stands[which + 1 :]]


def _best_step(stand: _Stand, part: SliceBudget, spare: int) -> tuple[float, int, int]:
    """The best gain a bit by one axon's growth within `spare` bits, the axon, and the size it grows to."""
    lists, index = stand.lists, stand.index
    cost = lists.bits - lists.bits[index][:, None]
    gain = lists.gain - np.take_along_axis(lists.gain, index[:, None], axis=1)
    open_ = within_caps(np.where(index > 0, np.inf, lists.gain[:, -1]), part)
    value = np.where((cost > 0) & (cost <= spare) & open_[:, None], gain / np.maximum(cost, 1), 0.0)
    axon, size = divmod(int(value.argmax()), lists.sizes.size)
    return float(value[axon, size]), axon, size
