"""Soft thresholds: the price of a synapse, taken off its weight.

Behind the weights are hidden ones that learn on while their synapse is away. The count of synapses at a price is relaxed to its
convex envelope, and the weights are what its proximal map leaves of the hidden ones::

    w = sign(h) max(|h| - d, 0)        with d^2 the bits of a synapse times the price of a bit

so the synapses that survive are those above d, as the exact choice has them, and nothing jumps where one comes or goes: what
comes back is what gradients keep pushing, and chance does no harm. In optimization this is dual averaging with an l1 price (Xiao
2010, JMLR 11); for spiking networks it is STDS (Chen et al., ICML 2022), whose d rises by a schedule in place of a price.

Where lists are paid for in units of memory, what comes and goes are those of an axon's synapses that share one. Of their weights,
as one vector of length l, a length d is taken off (the proximal map of a group's price: Yuan and Lin 2006, J. R. Stat. Soc. B
68); each gives its part of it, d / l of itself.

Of many weights more are large by chance: the largest of n that are Laplace's is near ln n times their scale. So weights are
compared, and d is laid, in units of ln n, n being the synapses of a layer: few onto outputs, many before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.budgets.budget import SliceBudget
from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.resources.encodings import Formula, axon_bits, index_bits, weight_bits
from neurodeploy.training.forms import Form
from neurodeploy.training.matrices import Matrix
from neurodeploy.training.options import MinimaxOptions

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def costs_alike(profile: HardwareProfile) -> bool:
    """Whether a synapse costs the same whatever stands beside it: words with indices, no blocks, headers, units or entries."""
    formula = Formula.of(profile, 1)
    plain = (formula.block, formula.header, formula.unit, formula.entry) == (UNLIMITED, 0, 1, 0)
    return plain and tuple(profile["encodings"].names) == ("sparse",)


def is_soft(profile: HardwareProfile, options: MinimaxOptions) -> bool:
    """Whether the method's thresholds are soft on a chip."""
    return options.soft and options.integers and (options.soft_lists or costs_alike(profile))


class SoftThresholds:
    """What is taken off the hidden weights that the layers hold, until the compression closes.

    Parameters
    ----------
    by_size : bool
        Weights are compared in units of ln n; without, as they are.

    Attributes
    ----------
    off : dict of layer to tensor (n_out, n_in)
        What is taken off each, in the units of the weights.
    units : dict of layer to float
        Above 0; 1 for the largest layer.
    """

    def __init__(self, layers: Mapping[str, Matrix], profile: HardwareProfile, *, by_size: bool = True) -> None:
        self.layers, self.profile = layers, profile
        logs = {name: math.log(max(matrix.weight.numel(), 2)) if by_size else 1.0 for name, matrix in layers.items()}
        self.units = {name: log / max(logs.values()) for name, log in logs.items()}
        self.off = {name: torch.zeros_like(matrix.weight).detach() for name, matrix in layers.items()}

    def share(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        """Of hidden weights (n_out, n_in), the share 0..1 that the loss sees."""
        off = self.off[name].to(hidden)
        return torch.relu(1 - off / hidden.abs().clamp(min=torch.finfo(hidden.dtype).tiny))

    def follow(self, part: SliceBudget, price: float, form: Form, mask: torch.Tensor) -> None:
        """Lay the thresholds of a slice's survivors anew, at a price of a bit in squared weight of the largest layer."""
        n_neurons = max(len(form.rows.get(part.name, range(part.neurons))), 1)
        width, index = weight_bits(form.width, self.profile), index_bits(n_neurons, self.profile)
        bits = axon_bits(np.arange(part.neurons + 1), width, index, self.profile) * form.axons
        hidden = self.layers[part.layer].weight.detach()[part.start : part.stop] * mask[part.start : part.stop]
        unit = self.units[part.layer]
        off = unit * group_thresholds(hidden.abs().cpu().double().numpy() / unit, bits, price)
        self.off[part.layer][part.start : part.stop] = torch.from_numpy(off).to(self.off[part.layer])

    def take_off(self) -> None:
        """Let the layers hold the weights themselves."""
        for name, matrix in self.layers.items():
            matrix.scale(self.share(name, matrix.weight.detach()))


def group_thresholds(size: Floats, bits: Integers, price: float) -> Floats:
    """What is taken off synapses, (n_neurons, n_in), so that each group of an axon's that share memory pays for it.

    Where none of them can, all pay half of what they have: a slice is not cut off.

    Parameters
    ----------
    size : array (n_neurons, n_in)
        Of the survivors; 0 for others.
    bits : array (n_neurons + 1,)
        Of a list of so many synapses.
    """
    neuron, axon = np.nonzero(size)
    order = np.lexsort((-size[neuron, axon], axon))
    neuron, axon = neuron[order], axon[order]
    rank = np.arange(axon.size) - np.searchsorted(axon, axon)
    ends = np.flatnonzero(np.append(np.diff(bits) > 0, True))
    step = np.searchsorted(ends, rank, side="right") - 1
    group = axon * ends.size + step
    length = np.sqrt(np.bincount(group, weights=size[neuron, axon] ** 2, minlength=1))[group]
    share = np.minimum(np.sqrt(price * np.diff(bits[ends], append=0)[step]) / length, 1)
    share = share if (share < 1).any() else share / 2
    off = np.zeros_like(size)
    off[neuron, axon] = share * size[neuron, axon]
    return off
