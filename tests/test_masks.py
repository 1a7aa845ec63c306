"""The choice of surviving synapses: by hand, by brute force, and within every limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from neurodeploy.compression.pruning_method import axons_in_force, memory_in_force
from neurodeploy.compression.synapse_selection import (
    PRICED_RESOURCES,
    SliceScores,
    SynapseSelection,
    _CoreMemory,
    choose_on_core,
    neurons_by_score,
)
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.budget import AxonCap, SliceBudget
from neurodeploy.resources.usage import Region, axon_bits, index_bits, slice_usage

BITS = 8
SCORES = st.one_of(st.integers(0, 3).map(float), st.floats(0, 10, width=32))


def a_slice(n_neurons: int, n_in: int, memory: int, *, axons: int | None = None, caps: list[int] | None = None) -> SliceBudget:
    """A slice whose source is cut into as many equal parts as there are caps."""
    edges = np.linspace(0, n_in, len(caps or [n_in]) + 1).astype(int).tolist()
    sources = [AxonCap(start=a, stop=b, axons=n) for (a, b), n in zip(pairwise(edges), caps or [n_in], strict=True)]
    return SliceBudget(
        layer="l", core=0, region=Region.run(0, n_neurons), synapse_memory_bits=memory,
        input_axons=n_in if axons is None else axons, sources=tuple(sources),
    )  # fmt: skip


@st.composite
def problems(draw: st.DrawFn, max_neurons: int, max_inputs: int) -> tuple[NDArray[np.float64], SliceBudget]:
    """Scores, ties and zeros among them, and a slice budget that leaves room for a synapse."""
    n_neurons, n_in = draw(st.integers(1, max_neurons)), draw(st.integers(2, max_inputs))
    score = draw(hnp.arrays(np.float64, (n_neurons, n_in), elements=SCORES))
    memory = draw(st.integers(64, 64 + 16 * n_neurons * n_in))
    caps = draw(st.sampled_from([[n_in], [1, 1], [n_in, 0], [0, n_in], [n_in, 1]]))
    axons = draw(st.integers(1, min(n_in, sum(caps))))
    return score, a_slice(n_neurons, n_in, memory, axons=axons, caps=caps)


def choose_synapses(score: NDArray[np.float64], part: SliceBudget, bits: int, profile: HardwareProfile) -> SynapseSelection:
    """The selection of a slice that has a core's memory to itself."""
    return choose_on_core([SliceScores(score=score, part=part, bits=bits)], part.synapse_memory_bits, profile)[0]


# ---------------------------------------------------------------------------------------------- the choice


def test_the_choice_by_hand(tiny: HardwareProfile) -> None:
    """Synapses of 8 + 6 bits and 10 bits of header: three of them fill a unit of 64 bits, eight fill two."""
    score = np.array([[10, 1, 1, 1, 0, 0, 0, 0, 0], [5, 5, 5, 0.5, 0, 0, 0, 0, 0]]).T
    choice = choose_synapses(score, a_slice(9, 2, memory=64), BITS, tiny)
    assert choice.mask.sum(axis=0).tolist() == [0, 3]  # not the axon with the largest score of all
    assert choice.mask[:3, 1].all()
    assert choice.prices["synapse_memory_bits"] == pytest.approx(12 / 64)  # one unit more: 10 + 1 + 1 of the other axon
    choice = choose_synapses(score, a_slice(9, 2, memory=128), BITS, tiny)
    assert choice.mask.sum(axis=0).tolist() == [3, 3]
    choice = choose_synapses(score, a_slice(9, 2, memory=256), BITS, tiny)
    assert choice.mask.all()  # dense: 9 * 8 + 10 bits are two units an axon
    assert choice.prices == dict.fromkeys(PRICED_RESOURCES, 0.0)


def test_the_price_of_an_axon_by_hand(tiny: HardwareProfile) -> None:
    score = np.array([[4.0, 3, 2, 1]])
    choice = choose_synapses(score, a_slice(1, 4, memory=640, axons=2), BITS, tiny)
    assert choice.mask.tolist() == [[True, True, False, False]]
    assert choice.prices == {"synapse_memory_bits": 0, "input_axons": 2, "output_axons": 0}
    choice = choose_synapses(score, a_slice(1, 4, memory=640, caps=[1, 2]), BITS, tiny)
    assert choice.mask.tolist() == [[True, False, True, True]]
    assert choice.prices == {"synapse_memory_bits": 0, "input_axons": 0, "output_axons": 3}


def test_whole_axons_are_kept_where_that_keeps_more(tiny: HardwareProfile) -> None:
    score = np.ones((64, 10))
    dense_axon = int(axon_bits(np.asarray(64), BITS, 0, tiny))
    choice = choose_synapses(score, a_slice(64, 10, memory=3 * dense_axon), BITS, tiny)
    assert choice.mask.sum() == 3 * 64  # sparse, 14 bits a synapse, would hold fewer
    assert choice.mask.all(axis=0).sum() == 3
    assert choice.prices["synapse_memory_bits"] == pytest.approx(64 / dense_axon)


@examples(60)
@given(problem=problems(max_neurons=70, max_inputs=12))
def test_the_survivors_keep_within_every_limit_and_are_never_none(
    problem: tuple[NDArray[np.float64], SliceBudget], tiny: HardwareProfile
) -> None:
    score, part = problem
    choice = choose_synapses(score, part, BITS, tiny)
    usage = slice_usage(choice.mask, BITS, tiny)
    assert usage.synapses >= 1
    assert usage.synapse_memory_bits <= part.synapse_memory_bits
    assert usage.input_axons <= part.input_axons
    for cap in part.sources:
        assert choice.mask[:, cap.start : cap.stop].any(axis=0).sum() <= cap.axons
    assert all(price >= 0 for price in choice.prices.values())


@given(problem=problems(max_neurons=5, max_inputs=4))
def test_no_choice_within_the_budget_keeps_more_than_the_price_allows(
    problem: tuple[NDArray[np.float64], SliceBudget], tiny: HardwareProfile
) -> None:
    """Against all choices there are: of every axon its 0, 1, 2, ... best synapses."""
    score, part = problem
    n_neurons, n_in = score.shape
    choice = choose_synapses(score, part, BITS, tiny)
    kept = float(score[choice.mask].sum())
    best = np.vstack([np.zeros(n_in), np.sort(score, axis=0)[::-1].cumsum(axis=0)])
    sparse_bits = axon_bits(np.arange(n_neurons + 1), BITS, index_bits(n_neurons, tiny), tiny)
    dense_axon = int(axon_bits(np.asarray(n_neurons), BITS, 0, tiny))
    spare = part.synapse_memory_bits - int(sparse_bits[choice.mask.sum(axis=0)].sum())
    whole = set(choice.mask.sum(axis=0).tolist()) <= {0, n_neurons}
    sizes = np.array(list(product(range(n_neurons + 1), repeat=n_in)))
    open_ = sizes > 0
    legal = open_.sum(axis=1) <= part.input_axons
    for cap in part.sources:
        legal &= open_[:, cap.start : cap.stop].sum(axis=1) <= cap.axons
    gain = best[sizes, np.arange(n_in)].sum(axis=1)
    dense = legal & (dense_axon * open_.sum(axis=1) <= part.synapse_memory_bits)
    assert gain[dense].max() <= kept + 1e-9
    if not whole:
        sparse = legal & (sparse_bits[sizes].sum(axis=1) <= part.synapse_memory_bits)
        assert gain[sparse].max() <= kept + choice.prices["synapse_memory_bits"] * spare + 1e-9


@given(first=problems(max_neurons=3, max_inputs=3), second=problems(max_neurons=3, max_inputs=3), memory=st.integers(128, 600))
def test_no_choice_on_a_core_keeps_more_than_the_price_allows(
    first: tuple[NDArray[np.float64], SliceBudget],
    second: tuple[NDArray[np.float64], SliceBudget],
    memory: int,
    tiny: HardwareProfile,
) -> None:
    """Two slices, one memory: against every pair of masks there is, within the caps on axons."""
    wishes = [
        SliceScores(score=score, part=replace(part, layer=name), bits=BITS)
        for name, (score, part) in zip("ab", (first, second), strict=True)
    ]
    choices = choose_on_core(wishes, memory, tiny)
    used = sum(slice_usage(choice.mask, BITS, tiny).synapse_memory_bits for choice in choices)
    kept = sum(float(wish.score[choice.mask].sum()) for wish, choice in zip(wishes, choices, strict=True))
    assert used <= memory
    assert all(choice.mask.any() for choice in choices)
    price = choices[0].prices["synapse_memory_bits"]
    assert price == choices[1].prices["synapse_memory_bits"]
    front = [_front(wish, tiny) for wish in wishes]
    best = max(
        (a + b for bits_a, a in front[0] for bits_b, b in front[1] if bits_a + bits_b <= memory and min(bits_a, bits_b) > 0),
        default=0.0,
    )
    starving = min(float(wish.score.sum()) for wish in wishes) == 0.0
    assert kept >= best - price * 256 - 1e-9 or starving


def halved(core: _CoreMemory, over: list[Any]) -> tuple[float, list[Any], list[Any]]:
    """`_CoreMemory._bisect` by nothing but halvings, each of which searches all lists."""
    low, high = 0.0, max(part.highest_price() for part in core.slices)
    within = [part.at(high) for part in core.slices]
    while high - low > 1e-12 * high:
        price = (low + high) / 2
        kept = [part.at(price) for part in core.slices]
        low, high, within, over = (price, high, within, kept) if core.spare(kept) < 0 else (low, price, kept, over)
    return high, within, over


@examples(30)
@given(parts=st.lists(problems(max_neurons=40, max_inputs=10), min_size=1, max_size=3), memory=st.integers(200, 4000))
def test_the_price_is_found_as_by_halving(
    tiny: HardwareProfile, parts: list[tuple[NDArray[np.float64], SliceBudget]], memory: int
) -> None:
    scores = [SliceScores(score=score, part=replace(part, layer=f"l{n}"), bits=BITS) for n, (score, part) in enumerate(parts)]
    found = choose_on_core(scores, memory, tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_CoreMemory, "_bisect", halved)
        expected = choose_on_core(scores, memory, tiny)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert one.prices == pytest.approx(other.prices, rel=1e-9, abs=1e-9)


@given(score=hnp.arrays(np.float64, (4, 60), elements=SCORES))
def test_equal_scores_are_in_the_order_of_their_neurons(score: NDArray[np.float64]) -> None:
    assert np.array_equal(neurons_by_score(score), np.argsort(-score, axis=1, kind="stable"))


def _front(wish: SliceScores, profile: HardwareProfile) -> list[tuple[int, float]]:
    """Memory and score of the best axons' best synapses, however many of each."""
    score, part = wish.score, wish.part
    sizes = np.array(list(product(range(len(score) + 1), repeat=score.shape[1])))
    legal = (sizes > 0).sum(axis=1) <= part.input_axons
    for cap in part.sources:
        legal &= (sizes[:, cap.start : cap.stop] > 0).sum(axis=1) <= cap.axons
    ranked = np.vstack([np.zeros(score.shape[1]), np.sort(score, axis=0)[::-1].cumsum(axis=0)])
    found = []
    for size in sizes[legal]:
        mask = np.arange(len(score))[:, None] < size
        worth = float(ranked[size, np.arange(score.shape[1])].sum())
        found.append((slice_usage(mask, BITS, profile).synapse_memory_bits, worth))
    return found


def test_memory_flows_to_the_slice_that_keeps_most(tiny: HardwareProfile) -> None:
    generator = np.random.default_rng(0)
    scores = [generator.random((20, 30)), generator.random((20, 30))]
    for shares in ((1.0, 1.0), (1.0, 100.0), (100.0, 1.0)):
        wishes = [SliceScores(score=s * by, part=a_slice(20, 30, 1), bits=BITS) for s, by in zip(scores, shares, strict=True)]
        first, second = (int(choice.mask.sum()) for choice in choose_on_core(wishes, 4096, tiny))
        assert (first > 3 * second) == (shares[0] > shares[1])
        assert (second > 3 * first) == (shares[1] > shares[0])


@given(score=hnp.arrays(np.float64, (9, 4), elements=st.floats(0.01, 10)), memory=st.integers(64, 700))
def test_memory_is_used_up_but_for_less_than_an_axons_next_step(
    score: NDArray[np.float64], memory: int, tiny: HardwareProfile
) -> None:
    choice = choose_synapses(score, a_slice(9, 4, memory), BITS, tiny)
    n_synapses = choice.mask.sum(axis=0)
    bits = axon_bits(np.arange(10), BITS, index_bits(9, tiny), tiny)
    spare = memory - slice_usage(choice.mask, BITS, tiny).synapse_memory_bits
    assert choice.mask.all() or spare < 128  # the longest step of such an axon
    assert choice.mask.all() or all(bits[n + 1] > bits[n] for n in n_synapses if 0 < n < 9)  # units that are paid for are full


# ---------------------------------------------------------------------------------------------- the budget in force


def test_the_budget_in_force_shrinks_from_the_need_to_the_limit(
    make_network: Callable[..., Network], tiny: HardwareProfile
) -> None:
    budget = share_budget(make_network([100, 60, 10]), tiny, cores=2)
    part = replace(budget.of("layer1")[0], input_axons=40)
    steps = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0)
    at = [axons_in_force(part, progress) for progress in steps]
    memory = [memory_in_force([part], budget, progress) for progress in steps]
    full = slice_usage(np.ones((part.neurons, 100)), BITS, tiny)
    assert memory[0] == full.synapse_memory_bits > part.synapse_memory_bits
    assert memory == sorted(memory, reverse=True)
    assert at[-1] == at[-2] == part
    assert at[0].input_axons == 100
    assert [limits.input_axons for limits in at] == sorted((limits.input_axons for limits in at), reverse=True)
    assert memory[2] == pytest.approx(np.sqrt(memory[0] * memory[-1]), abs=1)
