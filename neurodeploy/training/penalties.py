"""The paper's penalty: y, the price of squared weight outside the survivors, presses towards zero what should be zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from neurodeploy.training.matrices import Matrix

Survivors = Mapping[str, torch.Tensor]


@torch.no_grad()
def shrink(layers: Mapping[str, Matrix], survivors: Survivors, penalties: Mapping[str, float], learning_rate: float) -> None:
    """The proximal map of the penalty: every weight outside the survivors is divided by 1 + 2 * learning_rate * y."""
    for name, matrix in layers.items():
        rest = 1 / (1 + 2 * learning_rate * penalties[name])
        matrix.scale(torch.where(survivors[name], 1.0, rest))


@torch.no_grad()
def ascend(layers: Mapping[str, Matrix], survivors: Survivors, penalties: dict[str, float], rate: float) -> None:
    """Raise y where weights that should be zero are not, by the share of the layer's squared weight that they hold."""
    for name, matrix in layers.items():
        squared = matrix.weight.square()
        outside = float((squared * ~survivors[name]).sum())
        penalties[name] += rate * outside / max(float(squared.sum()), torch.finfo().tiny)
