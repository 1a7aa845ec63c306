"""Saliency of synapses, by the Fisher diagonal of the loss, and the neurons that still have to be calculated.

Removing a weight w costs the loss h w^2 / 2 to second order, h being the curvature of the loss in it (LeCun et al. 1990,
"Optimal brain damage"). Near a minimum h is in expectation the squared gradient: the diagonal of the Fisher information (Theis
et al. 2018, arXiv 1801.05787). Every backward pass provides it, for pruned weights as well.

A hidden neuron without kept outputs changes no answer, and one without kept inputs never fires: neither has to be calculated
while pruned weights get no gradient. A strongly pruned network keeps 200 to 400 of 800 neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import WeightMatrix, masked_network
from neurodeploy.ir.arrays import Floats
from neurodeploy.passes.dead_neurons import needed_neurons

_FISHER_RATE = 0.02
"""Weight of the latest step in the moving average: it covers about fifty steps."""
_FISHER_FLOOR = 1e-6
"""Share of a layer's mean added to every weight: where no gradient arrives, larger weights still rank above smaller ones."""
_DENSE_ENOUGH = 0.9
"""Share of active neurons above which all are calculated: taking rows out of a matrix costs time too."""


class Weighted(Protocol):
    """Weights, and the gradient of the loss in them; None before the first backward pass."""

    @property
    def weight(self) -> torch.Tensor: ...
    @property
    def gradient(self) -> torch.Tensor | None: ...


class FisherDiagonal:
    """Moving average of squared gradients, layer by layer.

    Parameters
    ----------
    layers : mapping of name to weights, such as a WeightMatrix

    Attributes
    ----------
    means : dict of name to tensor of the weights' shape
    steps : int
        Number of updates.
    """

    def __init__(self, layers: Mapping[str, Weighted]) -> None:
        self.layers, self.steps = layers, 0
        self.means = {name: torch.zeros_like(matrix.weight).detach() for name, matrix in layers.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the current gradients into the averages."""
        # before the division below: 1 / steps is 1 at the first update
        self.steps += 1
        for name, matrix in self.layers.items():
            if (gradient := matrix.gradient) is not None:
                # a plain mean at first, so that the zeros of the start do not bias it
                self.means[name].lerp_(gradient.square(), max(_FISHER_RATE, 1 / self.steps))

    def normalized(self, masks: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
        """Curvature of each layer, (n_out, n_in), over the geometric mean of its own mean and that of all layers; ones at first.

        Means are weighted by the squared kept weights. With no normalisation by layer, a readout takes all memory where much is
        pruned at once; with the full one, readouts get too little: the geometric mean lies between.

        Parameters
        ----------
        masks : mapping of layer to tensor (n_out, n_in), bool
        """
        means = {name: mean.double() + _FISHER_FLOOR * mean.mean() for name, mean in self.means.items()}
        squares = {name: self.layers[name].weight.detach().double().square() * mask for name, mask in masks.items()}
        costs = {name: float((means[name] * square).sum()) for name, square in squares.items()}
        sums = {name: float(square.sum()) for name, square in squares.items()}
        # before the first gradient, or where a layer keeps no weight: nothing to normalise by
        if not (costs and all(costs.values())):
            return {name: np.ones(tuple(mean.shape)) for name, mean in means.items()}
        # The root between layers had 98.38 % on held-out MNIST at 1/16 of a core; full normalisation 98.12 and 97.99, none 98.03
        # (benchmarks/RESULTS.md, d).
        of_all = sum(costs.values()) / sum(sums.values())
        # geometric mean of the layer's own mean curvature and that of all
        units = {name: (of_all * costs[name] / sums[name]) ** 0.5 for name in means}
        return {name: (mean / units[name]).cpu().numpy() for name, mean in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Averages and the number of updates."""
        return {"means": self.means, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self.steps = state["steps"]
        for name, mean in self.means.items():
            # copy_ keeps the device; a checkpoint is read onto the CPU
            mean.copy_(state["means"][name])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeuronSubset:
    """Some neurons of a layer.

    Attributes
    ----------
    numbers : tensor (n,), int64
        Ascending, within 0..of-1.
    of : int
        Number of neurons of the layer.
    """

    numbers: torch.Tensor
    of: int

    def spread(self, signal: torch.Tensor) -> torch.Tensor:
        """Scatter (..., n) into (..., of), zero for the other neurons."""
        return signal.new_zeros(*signal.shape[:-1], self.of).index_copy(-1, self.numbers, signal)


ActiveNeurons: TypeAlias = Mapping[str, NeuronSubset]
"""Neurons that have to be calculated, by layer; all neurons of layers that are not in it."""


def active_neurons(
    model: TrainableNetwork, layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor]
) -> ActiveNeurons:  # fmt: skip
    """Find the neurons with kept inputs and outputs, of layers where skipping the others saves time."""
    found = {}
    for name, kept in (needed_neurons(masked_network(model, layers, masks)) if layers else {}).items():
        # with no needed neuron at all the layer is run whole: its product would have no rows
        if name in layers and 0 < kept.sum() <= _DENSE_ENOUGH * kept.size:
            numbers = torch.from_numpy(np.flatnonzero(kept)).to(masks[name].device)
            found[name] = NeuronSubset(numbers=numbers, of=kept.size)
    return found
