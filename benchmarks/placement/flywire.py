"""A synthetic network with the size and the irregularity of the fruit fly's brain, to stand in for it where only those count.

What is taken from the FlyWire connectome, release 783 (Dorkenwald et al. 2024 and Schlegel et al. 2024, Nature 634, 124 and 139).
Where no paper is named, the number was counted in that release by users who published the count, not by us; what is said of
Wang et al. (arXiv 2508.16792) is from published notes on their paper.

- 138,639 neurons and 15,091,983 pairs of them with synapses, 54,492,922 synapses in all: what Shiu et al. 2024 (Nature 634, 210)
  simulate and Wang et al. ran on 12 Loihi 2 chips, where a pair is one synapse with a 9-bit weight.
- Sources of a neuron: median 69, 1 % above 661, at most 10,356: a log-normal and, for the last hundredth, a heavier tail.
- Targets of a neuron, among pairs of five synapses and more: median 12, mean 20.9, 1 % above 138, 0.1 % above 466, at most 6,399.
- 26.6 % of the pairs are mutual without a threshold on synapses; with one of five, 13.8 % (Lin et al. 2024, Nature 634, 153).
- Synapses a pair: 50 % have two and more, 18 % five, 7 % ten, 0.007 % above 255 (Wang et al.), at most 2,405; 3.6 on average.
- 60 % of the pairs excite. A neuron excites all its targets or none (Shiu et al.).
- 78 neuropils (Lin et al.); 62 % of the neurons belong to the two optic lobes; of pairs of five synapses and more, 6.6 % cross
  between lobes and central brain.

Assumed: targets without the threshold are shaped as with it, but the largest only doubles, as the largest number of sources does;
a neuron with many sources has many targets (correlation 0.7); module sizes fall as 1/rank, 5 modules a lobe and 68 in the central
brain; 60 % of the pairs are drawn within a module, 26 % within a lobe or the central brain and 14 % anywhere, which gives the
6.6 %. A slow test holds what comes out against the numbers above.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedLIF, QuantizedNetwork, QuantizedSparse

NEURONS = 138_639
PAIRS = 15_091_983
CONTACTS = 50_000_000
"""Synapses, each counted, as the titles have it; the release says 54.5 million."""

INPUTS = 1000
LOBE = 0.309
"""Share of the neurons in each of the two optic lobes."""

WITHIN_MODULE, WITHIN_REGION = 0.60, 0.26
RECIPROCATED = 0.135
"""Share of the pairs drawn that are given their reverse; with those mutual by chance, 26.6 % are in the end."""

LARGEST_DRAWN = 40_000.0
"""What the largest number of targets is drawn as: many are drawn twice, and 13,000 or so are left."""

EXCITATORY = 0.60
SYNAPSES_AT_LEAST = np.array(
    [(1, 1.0), (2, 0.5033), (3, 0.3257), (4, 0.2344), (5, 0.1789), (10, 0.0707), (50, 0.0052), (256, 7.2e-5), (2405, 6.6e-8)]
)
"""Share of the pairs with so many synapses and more; the one at 50 is set so that the mean comes within 3 % of 3.61."""

CHUNK = 1 << 22

Keys = NDArray[np.int64]
"""Pairs as target * neurons + source."""


def flywire(*, seed: int = 0, synapses: str = "pairs", neurons: int = NEURONS) -> QuantizedNetwork:
    """One recurrent population wired like FlyWire's, with modules of contiguous neurons, and 1000 inputs onto one neuron each.

    Membranes of 20 ms and currents of 5 ms at steps of 1 ms; a weight is twice the number of synapses, at most 127 of them, so
    that it is even and 8 bits wide. The delay that all synapses share (1.8 ms) is left out.

    Parameters
    ----------
    seed : int
    synapses : {"pairs", "contacts"}
        15,091,983 distinct pairs, as Wang et al. stored them, or 50 million, as if no two synapses were between the same neurons;
        all degrees are larger by the same factor.
    neurons : int
        Fewer give a small network of the same mean degree, or half of all pairs where that is less.
    """
    rng = np.random.default_rng(seed)
    wanted = {"pairs": PAIRS, "contacts": CONTACTS}[synapses]
    wanted = min(wanted * neurons // NEURONS, neurons * (neurons - 1) // 2)
    keys = draw_pairs(rng, neurons, wanted)
    starts = np.searchsorted(keys, np.arange(neurons + 1) * np.int64(neurons))
    sources = (keys % neurons).astype(np.int32)
    del keys
    weight = draw_weights(rng, sources, neurons)
    itself = QuantizedSparse(n_in=neurons, starts=starts, sources=sources, weight=weight, weight_bits=8)
    inputs = _one_to_one(rng, min(INPUTS, neurons), neurons)
    layer = QuantizedLayer(
        name="brain", shape=(neurons,), neuron=QuantizedLIF(vth=np.array(1018), du=np.array(742), dv=np.array(200)),
        connections=(Connection(source=INPUT, synapse=inputs), Connection(source="brain", synapse=itself)),
        bias=np.array(0), scale=np.array(0.0),
    )  # fmt: skip
    return QuantizedNetwork(input_shape=(inputs.n_in,), layers=(layer,))


def module_starts(neurons: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First neurons of the 78 modules, and of the regions (left lobe, right lobe, central brain); each ends with `neurons`."""
    falling = {n: 1 / np.arange(1, n + 1) / (1 / np.arange(1, n + 1)).sum() for n in (5, 68)}
    shares = np.concatenate([[0.0], LOBE * falling[5], LOBE * falling[5], (1 - 2 * LOBE) * falling[68]])
    modules = np.round(np.cumsum(shares) * neurons).astype(np.int64)
    return modules, modules[[0, 5, 10, 78]]


def degree_quantiles(neurons: int, *, median: float, sigma: float, largest: float) -> NDArray[np.float64]:
    """Degrees in ascending order: log-normal up to the last hundredth, then in a straight line of logarithms to the largest."""
    scores = np.array([NormalDist().inv_cdf((k + 0.5) / neurons) for k in range(neurons)])
    bend = NormalDist().inv_cdf(0.99)
    line = np.interp(scores, (scores[0], bend, scores[-1]), (sigma * scores[0], sigma * bend, np.log(largest / median)))
    quantiles: NDArray[np.float64] = median * np.exp(line)
    return quantiles


def draw_degrees(rng: np.random.Generator, neurons: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sources and targets of each neuron, up to a factor, correlated in rank."""
    drawn = rng.standard_normal((2, neurons))
    drawn[1] = 0.7 * drawn[0] + np.sqrt(1 - 0.7**2) * drawn[1]
    ranks = np.argsort(np.argsort(drawn, axis=1), axis=1)
    in_degree = degree_quantiles(neurons, median=69.0, sigma=0.97, largest=10_356.0)[ranks[0]]
    out_degree = degree_quantiles(neurons, median=58.0, sigma=1.10, largest=LARGEST_DRAWN)[ranks[1]]
    return in_degree, out_degree


def draw_pairs(rng: np.random.Generator, neurons: int, wanted: int) -> Keys:
    """So many distinct pairs, ascending, none of a neuron with itself."""
    in_degree, out_degree = draw_degrees(rng, neurons)
    goal = np.minimum(in_degree * (wanted * 1.01 / (1 + RECIPROCATED) / in_degree.sum()), 0.8 * neurons)
    goal = (goal + rng.random(neurons)).astype(np.int64)
    keys: Keys = np.empty(0, dtype=np.int64)
    for attempt in range(6):
        missing = goal - np.bincount(keys // neurons, minlength=neurons)
        if missing.max() <= 0:
            break
        keys = _merged(keys, *_candidates(rng, np.maximum(missing, 0), out_degree, narrow=0.5**attempt))
    back = keys[rng.random(keys.size, dtype=np.float32) < RECIPROCATED]
    keys = _merged(keys, back % neurons * neurons + back // neurons)
    while keys.size < wanted:
        keys = _merged(keys, *_candidates(rng, np.full(neurons, (wanted - keys.size) // neurons + 1), out_degree, narrow=0.0))
    drawn: Keys = np.delete(keys, rng.choice(keys.size, keys.size - wanted, replace=False))
    return drawn


def _merged(*parts: Keys) -> Keys:
    keys = np.concatenate(parts)
    keys.sort()
    distinct: Keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return distinct


def _candidates(
    rng: np.random.Generator, missing: NDArray[np.int64], out_degree: NDArray[np.float64], *, narrow: float
) -> Iterator[Keys]:
    """Pairs onto each neuron, as many as it is missing, less those of a neuron with itself; some may be drawn twice."""
    neurons = missing.size
    reach = np.concatenate([[0.0], np.cumsum(out_degree)])
    module_low, module_high, region_low, region_high = (
        reach[starts[np.searchsorted(starts, np.arange(neurons), side="right") - 1 + end]]
        for starts in module_starts(neurons)
        for end in (0, 1)
    )
    targets = np.repeat(np.arange(neurons, dtype=np.int32), missing)
    for first in range(0, targets.size, CHUNK):
        target = targets[first : first + CHUNK]
        scope = rng.random(target.size, dtype=np.float32)
        module, region = scope < narrow * WITHIN_MODULE, scope < WITHIN_MODULE + WITHIN_REGION
        low = np.where(module, module_low[target], np.where(region, region_low[target], 0.0))
        high = np.where(module, module_high[target], np.where(region, region_high[target], reach[-1]))
        source = np.searchsorted(reach, low + rng.random(target.size) * (high - low), side="right") - 1
        source = np.minimum(source, neurons - 1)
        yield (target.astype(np.int64) * neurons + source)[source != target]


def draw_weights(rng: np.random.Generator, sources: NDArray[np.int32], neurons: int) -> NDArray[np.int16]:
    """Twice the number of synapses of each pair, at most 127 of them; its sign is the source's."""
    sign = np.where(rng.random(neurons) < EXCITATORY, 2, -2).astype(np.int16)
    count, share = np.log(SYNAPSES_AT_LEAST.T)
    weight = np.empty(sources.size, dtype=np.int16)
    for first in range(0, sources.size, CHUNK):
        part = slice(first, first + CHUNK)
        lot = np.log1p(-rng.random(sources[part].size))
        synapses = np.exp(np.interp(lot, share[::-1], count[::-1]))
        weight[part] = np.minimum(synapses, 127.0).astype(np.int16) * sign[sources[part]]
    return weight


def _one_to_one(rng: np.random.Generator, inputs: int, neurons: int) -> QuantizedSparse:
    """Each input onto a neuron of its own."""
    heard = np.sort(rng.choice(neurons, inputs, replace=False))
    starts = np.searchsorted(heard, np.arange(neurons + 1))
    return QuantizedSparse(
        n_in=inputs, starts=starts, sources=rng.permutation(inputs).astype(np.int32), weight=np.full(inputs, 255), weight_bits=8
    )
