"""The chip's weights, while they are still learning.

`neurodeploy.quantization.quantize` gives a layer's largest weight the largest integer of its width, and rounds the threshold
on the same scale. The same rule stands here, twice: on tensors, for the weights that the loss sees, and on arrays, for what
rounding leaves of each synapse's worth. What the chip computes depends on weights and threshold only by their ratio, so
the threshold's rounding is put into the weights, and the model's neurons stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.fixedpoint import THRESHOLD_MAX
from neurodeploy.network import LIF, Network

Floats = NDArray[np.float64]

_CLIPS = (1.0, 0.85, 0.72, 0.61, 0.52, 0.44, 0.38, 0.32)
"""Shares of the largest weight to clip at that are tried: few synapses are that large, and each bit counts for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The values that a layer's weights can take.

    Attributes
    ----------
    width : int
        Bits of a weight.
    largest : float
        The weight that takes the largest integer; larger ones are clipped.
    is_mixed : bool
        Weights of both signs have even integers.
    threshold : float or None
        In the units of the weights; becomes an integer as well.
    """

    width: int
    largest: float
    is_mixed: bool = True
    threshold: float | None = None

    @property
    def most(self) -> int:
        """Steps that the largest weight has."""
        return (1 << (self.width - 1)) - 1 if self.is_mixed else (1 << self.width) - 1

    @property
    def step(self) -> float:
        """Between two values, as weights are rounded."""
        step = self.largest / self.most if self.largest > 0 else 1.0
        return step if self.threshold is None else max(step, self._stride * self.threshold / THRESHOLD_MAX)

    @property
    def value(self) -> float:
        """Of a step, beside the threshold that has become an integer."""
        if self.threshold is None:
            return self.step
        return self._stride * self.threshold / max(round(self.threshold * self._stride / self.step), 1)

    @property
    def _stride(self) -> int:
        return 2 if self.is_mixed else 1

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest values to surviving weights; the largest of these takes the largest integer, if nothing is clipped."""
        return self.beside(weight, weight)

    def beside(self, bias: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The nearest values to biases that come by a synapse of their own, on the scale of surviving weights."""
        least, most = torch.stack(torch.aminmax(weight)).tolist()  # a GPU is waited for once
        grid = replace(self, largest=min(self.largest, max(-least, most)), is_mixed=least < 0 < most)
        return (bias / grid.step).round_().clamp_(-grid.most, grid.most).mul_(grid.value)

    def worth(self, weight: Floats) -> Floats:
        """How much nearer a layer comes to its weights, in squared distance, by each synapse that is kept and rounded."""
        kept = self._nearest(weight)
        nearer: Floats = np.maximum(kept * (2 * weight - kept), 0.0)
        return nearer

    def error(self, weight: Floats) -> Floats:
        """The squared distance of each weight from the grid."""
        distance: Floats = (weight - self._nearest(weight)) ** 2
        return distance

    def _nearest(self, weight: Floats) -> Floats:
        nearest: Floats = np.clip(np.rint(weight / self.step), -self.most, self.most) * self.value
        return nearest


def best_grid(weight: Floats, width: int, threshold: float | None = None, clips: Sequence[float] = _CLIPS) -> Grid:
    """The grid of a width that weights, array (n,), are nearest to."""
    largest = float(np.abs(weight).max(initial=0.0))
    is_mixed = bool((weight < 0).any() and (weight > 0).any())
    grids = [Grid(width=width, largest=clip * largest, is_mixed=is_mixed, threshold=threshold) for clip in clips]
    return max(grids, key=lambda grid: float(grid.worth(weight).sum()))


def one_threshold_each(network: Network, levels: int = 1) -> dict[str, float]:
    """The threshold of each layer that fires at one for all its neurons, in the units of its weights as they are trained.

    Parameters
    ----------
    levels : int
        Of the input: the first layer's weights, trained on intensities 0..1, are divided by it on the chip.
    """
    firing = [(layer.name, layer.neuron.threshold) for layer in network if isinstance(layer.neuron, LIF)]
    each = {name: float(threshold.max()) for name, threshold in firing if threshold.min() == threshold.max()}
    return {name: threshold * levels if name == network.layers[0].name else threshold for name, threshold in each.items()}
