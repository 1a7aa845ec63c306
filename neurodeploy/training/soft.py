"""Soft thresholds: the price of a synapse, taken off its weight, where every synapse of a core costs the same.

Behind the weights are hidden ones that learn on while their synapse is away. The count of synapses at a price is relaxed to its
convex envelope, and the weights are what its proximal map leaves of the hidden ones::

    w = sign(h) max(|h| - d, 0)        with d^2 the bits of a synapse times the price of a bit

so the synapses that survive are those above d, as the exact choice has them, and nothing jumps where one comes or goes: what
comes back is what gradients keep pushing, and chance does no harm. In optimization this is dual averaging with an l1 price (Xiao
2010, JMLR 11); for spiking networks it is STDS (Chen et al., ICML 2022), whose d rises by a schedule in place of a price.
Where lists are paid for in units no d parts those that are kept from the others, and weights rest instead.

Of many weights more are large by chance: the largest of n that are Laplace's is near ln n times their scale. So weights are
compared, and d is laid, in units of ln n, n being the synapses of a layer: few onto outputs, many before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from neurodeploy.budgets.budget import SliceBudget
from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.resources.encodings import Formula, axon_bits, index_bits, weight_bits
from neurodeploy.training.forms import Form
from neurodeploy.training.matrices import Matrix


def costs_alike(profile: HardwareProfile) -> bool:
    """Whether a synapse costs the same whatever stands beside it: words with indices, no blocks, headers, units or entries."""
    formula = Formula.of(profile, 1)
    plain = (formula.block, formula.header, formula.unit, formula.entry) == (UNLIMITED, 0, 1, 0)
    return plain and tuple(profile["encodings"].names) == ("sparse",)


class SoftThresholds:
    """What is taken off the hidden weights that the layers hold, until the compression closes.

    Parameters
    ----------
    by_size : bool
        Weights are compared in units of ln n; without, as they are.

    Attributes
    ----------
    off : dict of layer to tensor (n_out, 1)
        d of each neuron's slice, in the units of the weights.
    units : dict of layer to float
        Above 0; 1 for the largest layer.
    """

    def __init__(self, layers: Mapping[str, Matrix], profile: HardwareProfile, *, by_size: bool = True) -> None:
        self.layers, self.profile = layers, profile
        logs = {name: math.log(max(matrix.weight.numel(), 2)) if by_size else 1.0 for name, matrix in layers.items()}
        self.units = {name: log / max(logs.values()) for name, log in logs.items()}
        self.off = {name: torch.zeros_like(matrix.weight[:, :1]).detach() for name, matrix in layers.items()}

    def share(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        """Of hidden weights (n_out, n_in), the share 0..1 that the loss sees."""
        off = self.off[name].to(hidden)
        return torch.relu(1 - off / hidden.abs().clamp(min=torch.finfo(hidden.dtype).tiny))

    def follow(self, part: SliceBudget, price: float, form: Form, mask: torch.Tensor) -> None:
        """Lay the threshold of a slice anew, at a price of a bit in squared weight of the largest layer.

        Half of its largest weight where even that is below: a slice is never cut off.
        """
        n_neurons = max(len(form.rows.get(part.name, range(part.neurons))), 1)
        width, index = weight_bits(form.width, self.profile), index_bits(n_neurons, self.profile)
        bits = int(axon_bits(np.asarray(1), width, index, self.profile))
        hidden = self.layers[part.layer].weight.detach()[part.start : part.stop] * mask[part.start : part.stop]
        threshold, largest = self.units[part.layer] * (price * bits * form.axons) ** 0.5, float(hidden.abs().max())
        self.off[part.layer][part.start : part.stop] = threshold if threshold < largest else largest / 2

    def take_off(self) -> None:
        """Let the layers hold the weights themselves."""
        for name, matrix in self.layers.items():
            matrix.scale(self.share(name, matrix.weight.detach()))
