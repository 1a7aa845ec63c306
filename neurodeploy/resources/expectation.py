"""What to expect of lists of synapses if every weight survives with a given chance."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.encodings import Formula, Integers, index_bits, power_of_two
from neurodeploy.resources.windows import ListBits


def expected_lists(
    sizes: Integers, how_many: Integers, n_neurons: int, connectivity: float, formula: Formula, profile: HardwareProfile
) -> tuple[int, int, int, str]:
    """Memory bits, input axons, synapses and encoding to expect of a slice, rounded up.

    Parameters
    ----------
    sizes, how_many : array (n_sizes,)
        `how_many` axons have a list of `sizes` synapses each before weights are taken out.
    n_neurons : int
        Neurons of the slice.
    connectivity : float
        Chance of each weight to survive, 0..1.
    """
    alive = float(how_many @ (1 - (1 - connectivity) ** sizes))
    allowed = profile["encodings"].names
    bits: dict[str, float] = {}
    if "dynapcnn" in allowed:
        bits["dynapcnn"] = int(how_many.sum()) * power_of_two(n_neurons) * formula.synapse_bits
    if "crossbar" in allowed:
        bits["crossbar"] = alive * n_neurons * formula.synapse_bits
    if "dense" in allowed:
        bits["dense"] = alive * int(formula.lists(np.asarray(n_neurons)))
    if "sparse" in allowed:
        index = index_bits(n_neurons, profile)
        bits["sparse"] = sum(
            int(m) * _expected(int(n), 1, connectivity, formula, index) for n, m in zip(sizes, how_many, strict=True)
        )
    best = min(bits, key=lambda name: bits[name])
    memory = math.ceil(bits[best] + alive * formula.entry)
    return memory, math.ceil(alive), round(float(sizes @ how_many) * connectivity), best


def expected_window(connectivity: float) -> ListBits:
    """The `ListBits` of a convolution whose weights survive with the given chance; a list is as long as its longest channel."""

    def lists(formula: Formula, atoms: int, longest: Integers, index: int) -> NDArray[np.int64]:
        bits = [_expected(int(n), atoms, connectivity, formula, index) for n in longest.reshape(-1)]
        return np.ceil(bits).astype(np.int64).reshape(longest.shape)

    return lists


@lru_cache(maxsize=1 << 14)
def _expected(n: int, atoms: int, chance: float, formula: Formula, index: int) -> float:
    """Bits to expect of `atoms` lists that share a length, the longest of as many binomial draws of n weights."""
    from scipy.stats import binom  # takes longer to load than the rest of the package, and few ask what to expect

    if chance >= 1:
        return float(formula.lists(np.asarray(n * atoms), index))

    lengths = np.arange(n + 1)
    shares = np.diff(binom.cdf(lengths, n, chance) ** atoms, prepend=0.0)
    return float(shares @ formula.lists(lengths * atoms, index))
