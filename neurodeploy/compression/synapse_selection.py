"""Selection of the synapses that the slices on a core keep, within its memory and their caps on axons.

With a price on every bit of synapse memory the selection is independent axon by axon: an axon keeps its n largest scores, where n
maximises  sum of scores - price * bits(n)  and bits(n) is the chip's own count. Caps on axons then keep the axons of largest
value, and each slice takes the encoding of larger value. Raising the price never raises the bits, so bisection finds the one
price at which all slices of the core just fit: the core's shadow price, at which memory goes to the slices that keep most by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from neurodeploy.compression.weight_matrices import StoredLists
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.mapping.budget import SliceBudget
from neurodeploy.resources.usage import Formula, index_bits, weight_bits
from neurodeploy.simulation.kernels import Array, compiled

PRICED_RESOURCES = ("synapse_memory_bits", "input_axons", "output_axons")
# 60 halvings go past the 53 bits of a float64; crossings before them are seldom more than 30
_MAX_CROSSINGS, _MAX_HALVINGS = 40, 60
_PRICE_TOLERANCE, _CROSSING_TOLERANCE = 1e-12, 1e-9
_SCORE_TOLERANCE = 1e-3
"""Share of the score that may be missing to the upper bound before encodings are tried one by one."""
_GREEDY_SHARE = 0.02
"""Share of the memory that is spent axon by axon; more takes too many steps."""


def within_caps(value: Floats, part: SliceBudget) -> Mask:
    """Axons (n_in,) of positive value that a slice may keep: the best of each source's, then the best of all.

    The caps nest (each source within the total), so taking the best first is optimal.
    """

    def best(value: Floats, among: Mask, n: int) -> Mask:
        if np.count_nonzero(among) <= n:
            return among
        # stable: ties go to the lower axon on every machine
        ranked = np.argsort(np.where(among, -value, np.inf), kind="stable")
        first = np.zeros_like(among)
        first[ranked[:n]] = True
        return first

    kept = value > 0
    for cap in part.sources:
        kept[cap.start : cap.stop] = best(value[cap.start : cap.stop], kept[cap.start : cap.stop], cap.axons)
    return best(value, kept, part.input_axons)


def axon_prices(value: Floats, part: SliceBudget) -> dict[str, float]:
    """Value of one more axon, in total and from the source whose cap costs most; `value` (n_in,) is net of the bits' price."""
    # the caps of the sources alone, without that of the slice
    from_sources = within_caps(value, replace(part, input_axons=value.size))
    kept = within_caps(value, part)
    capped = value[(value > 0) & ~from_sources]
    return {
        "input_axons": float(value[from_sources & ~kept].max(initial=0.0)),
        "output_axons": float(capped.max(initial=0.0)) if np.array_equal(from_sources, kept) else 0.0,
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceScores:
    """Saliency of each synapse of a slice, with the slice's limits.

    Attributes
    ----------
    score : array (n_neurons, n_in)
        At least 0: the error that keeping a synapse saves.
    part : SliceBudget
        Its caps on axons count; its memory is pooled with the core's other slices.
    bits : int
        Width that the weights will be stored in.
    rows : array (n,), int, optional
        Neurons that stay, ascending; the others are removed from the network, so that fewer index bits address those that stay.
        All of them by default.
    order : array (n_in, n), int, optional
        `neurons_by_score` of the rows' scores, where that is known; sorting takes longest of all.
    lists : tuple of StoredLists
        How the columns of the scores are stored.
    """

    score: Floats
    part: SliceBudget
    bits: int
    rows: Integers | None = None
    order: Integers | None = None
    lists: tuple[StoredLists, ...] = (StoredLists(),)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SynapseLists:
    """Score kept and bits spent by every axon that keeps its `sizes[k]` best synapses, in one encoding.

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
        Of the slice, removed ones included.
    """

    targets: Integers
    sizes: Integers
    bits: Integers
    gain: Floats
    n_neurons: int

    def best(self, price: float, bounds: tuple[Integers, Integers] | None = None) -> tuple[Integers, Floats]:
        """Index of every axon's best size at `price` a bit, and its value less the price of its bits; arrays (n_in,).

        `bounds` are the indices at a higher and at a lower price: only axons that differ there are searched.
        """
        n = len(self.gain)
        least, most = bounds or (np.zeros(n, dtype=np.int64), np.full(n, self.sizes.size - 1))
        index, value = np.empty(n, dtype=np.int64), np.empty(n)
        _search(self.gain, price * self.bits, least, most, index, value)
        return index, value

    def mask(self, index: Integers) -> Mask:
        """Mask (n_neurons, n_in) in which axon j keeps its `sizes[index[j]]` best synapses."""
        n_in, n = self.targets.shape
        mask = np.zeros((n_in, self.n_neurons), dtype=np.bool_)
        # targets come by falling score: the first `sizes` of them are the best
        np.put_along_axis(mask, self.targets, np.arange(n) < self.sizes[index][:, None], axis=1)
        return np.ascontiguousarray(mask.T)


@compiled
def _search(gain: Array, cost: Array, least: Array, most: Array, index: Array, value: Array) -> None:
    """Fill the index within least..most, and the value, of each axon's best size: gain (n_in, n_sizes) less cost (n_sizes,)."""
    for j in range(len(index)):
        index[j], value[j] = least[j], gain[j, least[j]] - cost[least[j]]
        for k in range(least[j] + 1, most[j] + 1):
            # the first of equals, hence the shortest list
            if gain[j, k] - cost[k] > value[j]:
                index[j], value[j] = k, gain[j, k] - cost[k]


def neurons_by_score(score: Floats) -> Integers:
    """Neurons of each axon by falling score, (n_in, n_neurons) as the scores are; ties by index."""
    keys = -score
    # most ties are of scores of 0; with a key for each the fast sort, which is not stable, leaves none but of equal scores
    np.copyto(keys, np.arange(1.0, 1 + keys.shape[1]), where=keys == 0)
    order: Integers = np.argsort(keys, axis=1)
    ranked = np.take_along_axis(keys, order, axis=1)
    tied = (ranked[:, 1:] == ranked[:, :-1]).any(axis=1)
    order[tied] = np.argsort(keys[tied], axis=1, kind="stable")
    return order


def synapse_lists(scores: SliceScores, profile: HardwareProfile) -> Sequence[SynapseLists]:
    """Build the slice's `SynapseLists` in each encoding that the chip has; a dense encoding keeps whole axons only."""
    rows = np.arange(len(scores.score)) if scores.rows is None else scores.rows
    by_axon = np.ascontiguousarray(scores.score[rows].T, dtype=np.float64)
    order = neurons_by_score(by_axon) if scores.order is None else scores.order
    # running[j, k]: score of the k best synapses of axon j
    running = np.zeros((len(by_axon), rows.size + 1))
    np.cumsum(np.take_along_axis(by_axon, order, axis=1), axis=1, out=running[:, 1:])
    width, allowed, encodings = weight_bits(scores.bits, profile), profile["encodings"].names, []
    sizes = np.arange(rows.size + 1)
    if "dense" in allowed or "sparse" not in allowed:
        # index_bits 0: the dense encoding, in which an axon with any synapse stores a weight for every neuron
        whole = _column_bits(np.asarray(rows.size), width, 0, scores.lists, profile)
        encodings.append((np.array([0, rows.size]), np.where(sizes > 0, whole, 0)))
    if "sparse" in allowed:
        # of the neurons that may stay: of a layer that loses neurons, a slice is a part of all of them
        index = index_bits(min(rows.size, scores.part.max_neurons), profile)
        bits = _column_bits(sizes, width, index, scores.lists, profile)
        # sizes after which one synapse more costs bits, and the whole list
        encodings.append((np.flatnonzero(np.append(np.diff(bits) > 0, True)), bits))
    n_neurons = len(scores.score)
    return [
        SynapseLists(targets=rows[order], sizes=sizes, bits=bits[sizes], gain=running[:, sizes], n_neurons=n_neurons)
        for sizes, bits in encodings
    ]


def _column_bits(
    n_synapses: Integers, width: int, index_bits: int, lists: tuple[StoredLists, ...], profile: HardwareProfile
) -> Integers:  # fmt: skip
    """Memory in bits of columns with `n_synapses` each, in one encoding."""
    total: Integers = np.zeros_like(np.asarray(n_synapses))
    for one in lists:
        formula = Formula.of(profile, width, is_delayed=one.is_delayed)
        entries = one.sources * formula.entry * (np.asarray(n_synapses) > 0)
        total = total + one.axons * (formula.lists(n_synapses, index_bits) + entries)
    return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SynapseSelection:
    """Kept synapses of a slice, and the shadow prices of its limits.

    Attributes
    ----------
    mask : array (n_neurons, n_in), bool
        True where a synapse is kept.
    value : array (n_in,)
        Score of each axon, less the price of its bits.
    prices : mapping of resource to float
        Shadow price of each of `PRICED_RESOURCES`: the score that one unit more would add; 0 where the limit does not bind.
        That of memory is one for all slices of a core.
    """

    mask: Mask
    value: Floats
    prices: Mapping[str, float]


def choose_on_core(scores: Sequence[SliceScores], memory_bits: int, profile: HardwareProfile) -> tuple[SynapseSelection, ...]:
    """Keep as much score as the slices of one core can hold together.

    Optimal for the bits it uses up to the price of the bits that are left over (less than one axon's last step, or one
    slice's change of encoding): no selection within the limits keeps more than ``kept + price * (memory_bits - used)``.

    Parameters
    ----------
    scores : sequence of SliceScores
        One for each slice, or several: one for each of its connections.
    memory_bits : int
        What they may use together; enough for at least one synapse of each.

    Returns
    -------
    tuple of SynapseSelection
        One for each of the scores, within every cap on axons; no slice is left without a synapse. Where the connections of a
        slice have more axons together than it may have, those of most value at the price of memory stay.
    """
    restricted, prices, allowed = list(scores), dict[int, float](), dict[int, Mask]()
    # of one connection the cap is part of the selection itself
    several = [members for members in _of_slice(scores) if len(members) > 1]
    while True:
        found = [
            replace(one, mask=one.mask & allowed[n], prices={**one.prices, "input_axons": prices[n]}) if n in allowed else one
            for n, one in enumerate(_choose(restricted, memory_bits, profile))
        ]
        # once more with the best axons alone, whose memory the others may use: then another slice may have too many
        for members in several:
            used = np.concatenate([found[n].mask.any(axis=0) for n in members])
            if np.count_nonzero(used) > (part := scores[members[0]].part).input_axons:
                # what memory was left for may have a value of 0
                value = np.maximum(np.concatenate([found[n].value for n in members]), np.finfo(np.float64).tiny)
                best = within_caps(np.where(used, value, 0.0), replace(part, sources=()))
                ends = np.cumsum([scores[n].score.shape[1] for n in members])[:-1]
                for n, own in zip(members, np.split(best, ends), strict=True):
                    restricted[n] = replace(scores[n], score=scores[n].score * own)
                    prices[n], allowed[n] = float(value[used & ~best].max()), own
                break
        else:
            return tuple(found)


def _of_slice(scores: Sequence[SliceScores]) -> list[list[int]]:
    """Indices of the scores of each slice."""
    found: dict[str, list[int]] = {}
    for n, one in enumerate(scores):
        found.setdefault(one.part.name, []).append(n)
    return list(found.values())


def _choose(scores: Sequence[SliceScores], memory_bits: int, profile: HardwareProfile) -> tuple[SynapseSelection, ...]:
    """Choose as `choose_on_core` does, with the cap on input axons for each of the scores by itself."""
    slices = [_Slice(one, synapse_lists(one, profile)) for one in scores]
    whole = [part.whole() for part in slices]
    core = _CoreMemory(slices, memory_bits)
    # all fits, so nothing has a price
    if core.spare(whole) >= 0 and all(part.fits_caps(kept) for part, kept in zip(slices, whole, strict=True)):
        return tuple(part.selection(kept, 0.0) for part, kept in zip(slices, whole, strict=True))
    price, kept = core.best()
    # a slice that would keep nothing gets one list, and the others share what is left
    single: dict[int, _SliceSelection] = {}
    # A loop, because what these lists take may leave another slice with nothing.
    while empty := [members for members in _of_slice(scores) if not any(kept[n].bits for n in members)]:
        # not a list without any score, where there are others
        least = [
            min(((n, slices[n].least()) for n in members), key=lambda pair: (pair[1].score <= 0, pair[1].bits))
            for members in empty
        ]
        single |= dict(least)
        others = [n for n in range(len(slices)) if n not in single]
        price, rest = _CoreMemory([slices[n] for n in others], core.spare(list(single.values()))).best()
        kept = [single[n] if n in single else rest[others.index(n)] for n in range(len(slices))]
    return tuple(part.selection(one, price) for part, one in zip(slices, kept, strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class _SliceSelection:
    """Chosen encoding of a slice, and the number of synapses kept per axon, as an index (n_in,) of the lists' sizes.

    `uncapped` has the indices in each encoding before the caps on axons, which bound those of other prices.
    """

    lists: SynapseLists
    index: Integers
    uncapped: tuple[Integers, ...] = ()

    @cached_property
    def bits(self) -> int:
        return int(self.lists.bits[self.index].sum())

    @cached_property
    def score(self) -> float:
        return float(self.lists.gain[np.arange(self.index.size), self.index].sum())


class _Slice:
    """A slice of the core, with its lists in each encoding."""

    def __init__(self, scores: SliceScores, encodings: Sequence[SynapseLists]) -> None:
        self.scores, self.encodings = scores, encodings

    def at(self, price: float, *between: _SliceSelection) -> _SliceSelection:
        """Selection at `price` a bit, in the encoding of largest value; `between` those at a higher and at a lower price."""
        bounds = zip(*(one.uncapped for one in between), strict=True) if between else [None] * len(self.encodings)
        bests = [lists.best(price, pair) for lists, pair in zip(self.encodings, bounds, strict=True)]
        kept = [within_caps(value, self.scores.part) for _, value in bests]
        n = int(np.argmax([value[own].sum() for own, (_, value) in zip(kept, bests, strict=True)]))
        uncapped = tuple(index for index, _ in bests)
        return _SliceSelection(lists=self.encodings[n], index=np.where(kept[n], uncapped[n], 0), uncapped=uncapped)

    def whole(self) -> _SliceSelection:
        """All synapses, in the encoding that takes the least memory then."""
        found = [_SliceSelection(lists=lists, index=np.full(len(lists.gain), lists.sizes.size - 1)) for lists in self.encodings]
        return min(found, key=lambda one: one.bits)

    def least(self) -> _SliceSelection:
        """One list, as short as possible, of the axon that gains most by it: a slice is never disconnected."""
        # sizes[0] is the empty list, sizes[1] the shortest other one
        lists = min(self.encodings, key=lambda one: int(one.bits[1]))
        open_ = np.concatenate([np.full(cap.stop - cap.start, cap.axons > 0) for cap in self.scores.part.sources])
        index = np.zeros(len(lists.gain), dtype=np.int64)
        index[int(np.where(open_, lists.gain[:, 1], -1.0).argmax())] = 1
        return _SliceSelection(lists=lists, index=index)

    def fits_caps(self, kept: _SliceSelection) -> bool:
        # values do not matter here, only the number of axons
        everywhere = np.where(kept.index > 0, np.inf, 0.0)
        return bool(within_caps(everywhere, self.scores.part).sum() == np.count_nonzero(kept.index))

    def highest_price(self) -> float:
        """Price of a bit at which no synapse pays for its bits."""
        ratios = [(lists.gain[:, 1:] / np.maximum(lists.bits[1:], 1)).max(initial=0.0) for lists in self.encodings]
        # twice the best gain per bit: clearly above it, whatever the rounding
        return 2 * max(map(float, ratios))

    def selection(self, kept: _SliceSelection, price: float) -> SynapseSelection:
        _, value = kept.lists.best(price)
        prices = {"synapse_memory_bits": price} | axon_prices(value, self.scores.part)
        return SynapseSelection(mask=kept.lists.mask(kept.index), value=value, prices=prices)

    def best_step(self, kept: _SliceSelection, spare: int) -> tuple[float, int, int]:
        """Best gain per bit by one axon's growth within `spare` bits, the axon, and the index it grows to."""
        lists, index = kept.lists, kept.index
        cost = lists.bits - lists.bits[index][:, None]
        gain = lists.gain - np.take_along_axis(lists.gain, index[:, None], axis=1)
        # axons in use rank first, so that a new one never takes the place of an old one
        open_ = within_caps(np.where(index > 0, np.inf, lists.gain[:, -1]), self.scores.part)
        value = np.where((cost > 0) & (cost <= spare) & open_[:, None], gain / np.maximum(cost, 1), 0.0)
        # argmax counts through the flattened (n_in, n_sizes)
        axon, size = divmod(int(value.argmax()), lists.sizes.size)
        return float(value[axon, size]), axon, size


class _CoreMemory:
    """Slices that share the memory of a core."""

    def __init__(self, slices: Sequence[_Slice], memory_bits: int) -> None:
        self.slices, self.memory_bits = slices, memory_bits

    def spare(self, kept: Sequence[_SliceSelection]) -> int:
        """Bits that are left over; below 0 where the selections do not fit."""
        return self.memory_bits - sum(one.bits for one in kept)

    def best(self) -> tuple[float, list[_SliceSelection]]:
        """Shadow price of the memory, and what each slice keeps; that may be nothing."""
        kept = [part.at(0.0) for part in self.slices]
        if self.spare(kept) >= 0:
            return 0.0, kept
        price, within, over = self._bisect(kept)
        moved = self._move(within, over)
        # weak duality: at this price no selection that fits scores more
        upper_bound = _total(within) + price * self.spare(within)
        if self.spare(moved) <= _GREEDY_SHARE * self.memory_bits:
            kept = self._spend_rest(moved)
            if _total(kept) >= (1 - _SCORE_TOLERANCE) * upper_bound:
                return price, kept
        # the encodings on either side of the price are a gap that no price closes: try each with the encodings fixed
        fixed = [
            [_Slice(part.scores, [lists]) for part, lists in zip(self.slices, encodings, strict=True)]
            for encodings in self._encodings(within, over)
        ]
        return price, max((_CoreMemory(slices, self.memory_bits)._with_fixed_encodings() for slices in fixed), key=_total)

    def _with_fixed_encodings(self) -> list[_SliceSelection]:
        kept = [part.at(0.0) for part in self.slices]
        if self.spare(kept) >= 0:
            return kept
        _, within, over = self._bisect(kept)
        return self._spend_rest(self._move(within, over))

    def _encodings(self, within: Sequence[_SliceSelection], over: Sequence[_SliceSelection]) -> list[list[SynapseLists]]:
        """Encodings to try, slice by slice: those on either side of the price, and each for all slices; none twice."""
        tries = [[one.lists for one in within], [one.lists for one in over]]
        tries += [[part.encodings[n] for part in self.slices] for n in range(len(self.slices[0].encodings))]
        return [
            one for n, one in enumerate(tries)
            if all(any(a is not b for a, b in zip(one, other, strict=True)) for other in tries[:n])
        ]  # fmt: skip

    def _bisect(self, over: list[_SliceSelection]) -> tuple[float, list[_SliceSelection], list[_SliceSelection]]:
        """Least price at which the slices fit, their selections there, and those just below it, which do not fit.

        `over` has the selections at a price of 0. The score that a price leaves is convex in it, so the price at which two
        selections leave the same is that of the best between them, or on its way there (Kelley's cutting planes).
        """
        low, high = 0.0, max(part.highest_price() for part in self.slices)
        within = [part.at(high) for part in self.slices]
        is_settled = False  # one step apart is not enough: another encoding may have a selection between
        for n in range(_MAX_CROSSINGS + _MAX_HALVINGS):
            crossing = (_total(over) - _total(within)) / (self.spare(within) - self.spare(over))
            if is_settled and _differ_by_one_step(within, over):
                # the gain per bit of the one step between; clipped, as rounding may put it outside the bracket
                return min(max(crossing, low), high), within, over
            if high - low <= _PRICE_TOLERANCE * high:
                break
            margin = _CROSSING_TOLERANCE * high
            is_halved = n >= _MAX_CROSSINGS or high - low <= 2 * margin
            price = (low + high) / 2 if is_halved else min(max(crossing, low + margin), high - margin)
            kept = [part.at(price, *pair) for part, *pair in zip(self.slices, within, over, strict=True)]
            is_settled = self.spare(kept) in (self.spare(within), self.spare(over))
            low, high, within, over = (price, high, within, kept) if self.spare(kept) < 0 else (low, price, kept, over)
        return high, within, over

    def _move(self, within: Sequence[_SliceSelection], over: Sequence[_SliceSelection]) -> list[_SliceSelection]:
        """Move axons from `within` to `over`, first to last, while memory lasts; a slice that changes its encoding moves whole.

        At the price between the two a move gains nothing and loses nothing, so the selection stays optimal.
        """
        moved, spare = [], self.spare(within)
        for part, low, high in zip(self.slices, within, over, strict=True):
            kept = low
            if low.lists is high.lists:
                # axons that `within` has stay; new ones come in where the caps allow
                value = np.where(low.index > 0, np.inf, np.where(high.index > low.index, 1.0, 0.0))
                goal = np.where(within_caps(value, part.scores.part), np.maximum(high.index, low.index), low.index)
                # a running sum that only grows: once an axon does not fit, none after it does
                fitting = np.cumsum(low.lists.bits[goal] - low.lists.bits[low.index]) <= spare
                kept = _SliceSelection(lists=low.lists, index=np.where(fitting, goal, low.index))
            elif high.bits - low.bits <= spare:
                kept = high
            spare -= kept.bits - low.bits
            moved.append(kept)
        return moved

    def _spend_rest(self, kept: list[_SliceSelection]) -> list[_SliceSelection]:
        """Spend the spare bits greedily: on the single step of an axon that gains most per bit, as long as one fits."""
        spare = self.spare(kept)
        while True:
            steps = [part.best_step(one, spare) for part, one in zip(self.slices, kept, strict=True)]
            which = max(range(len(steps)), key=lambda n: steps[n][0])
            value, axon, size = steps[which]
            if value <= 0:
                return kept
            index = kept[which].index.copy()
            index[axon] = size
            after = _SliceSelection(lists=kept[which].lists, index=index)
            spare -= after.bits - kept[which].bits
            kept = [*kept[:which], after, *kept[which + 1 :]]


def _total(kept: Sequence[_SliceSelection]) -> float:
    return sum(one.score for one in kept)


def _differ_by_one_step(within: Sequence[_SliceSelection], over: Sequence[_SliceSelection]) -> bool:
    """Whether they differ at most by one axon that grows by one size: the price between them is then what that gains per bit."""
    if any(low.lists is not high.lists for low, high in zip(within, over, strict=True)):
        return False
    return sum(int(np.abs(high.index - low.index).sum()) for low, high in zip(within, over, strict=True)) <= 1
