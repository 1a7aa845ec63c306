"""Rivals whose weights are functions of hidden ones, which learn on while their synapse is away: STDS and Grad R."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.compression.rivals.masked import Masked
from neurodeploy.compression.pruning_method import Phase
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget.budget import Budget


class Hidden(Masked):
    """One whose model holds hidden weights until the compression closes, and then those that they stand for.

    Gradients are taken at the weights, and go to the hidden ones as they are: also to those whose synapse is away, so that it
    can come back.
    """

    is_open = True

    @abstractmethod
    def seen(self, name: str) -> torch.Tensor:
        """The weights (n_out, n_in) that the hidden ones of a layer stand for."""

    def effective(self, name: str) -> torch.Tensor:
        """These, where they survive."""
        return self.seen(name) * self.masks[name] if self.is_open else super().effective(name)

    @torch.no_grad()
    def close(self) -> None:
        """From here on the model holds the weights themselves."""
        super().close()
        weights = {name: self.effective(name) for name in self.layers}
        for name, module in self.layers.items():
            module.weight.copy_(weights[name])
        self.is_open = False

    def state_dict(self) -> Mapping[str, Any]:
        """With whether the weights are hidden ones."""
        return {**super().state_dict(), "is_open": int(self.is_open)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        super().load_state_dict(state)
        self.is_open = bool(state["is_open"])


class STDS(Hidden):
    """State transition of dendritic spines (Chen et al., ICML 2022): a soft threshold that rises.

    w = sign(theta) max(|theta| - d, 0), and the gradient passes the threshold as if it were not there, so a spine without a
    synapse (w = 0, a filopodium) grows on. The paper raises d to a final D by a schedule, and so chooses the sparsity; here d is,
    on each core, what the budget in force asks for.

    Attributes
    ----------
    widths_of_zero : dict of layer to tensor (n_out, 1)
        d.
    """

    def __init__(self, budget: Budget, model: TrainableNetwork, **common: Any) -> None:
        super().__init__(budget, model, **common)
        self.widths_of_zero = {name: torch.zeros_like(module.weight[:, :1]).detach() for name, module in self.layers.items()}

    def select(self, progress: float) -> None:
        """The largest |theta|, and with them d."""
        self.masks, thresholds = self.best(self.magnitudes(), progress)
        for part in self.budget.slices:
            least = torch.tensor(thresholds[part.name], dtype=torch.float32)
            below = torch.nextafter(least, torch.tensor(0.0)).clamp(max=torch.finfo().max)
            self.widths_of_zero[part.layer][part.start : part.stop] = below.to(self.widths_of_zero[part.layer])

    def seen(self, name: str) -> torch.Tensor:
        """Of the hidden weights what is above the threshold."""
        theta = self.layers[name].weight.detach()
        return theta.sign() * (theta.abs() - self.widths_of_zero[name]).relu()

    def state_dict(self) -> Mapping[str, Any]:
        """With d."""
        return {**super().state_dict(), "widths_of_zero": self.widths_of_zero}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        super().load_state_dict(state)
        for name, width in self.widths_of_zero.items():
            width.copy_(state["widths_of_zero"][name])


class GradR(Hidden):
    """Gradient rewiring (Chen et al., IJCAI 2021, arXiv 2105.04916).

    w = s max(theta, 0) with a sign s that is fixed, and every step takes

        theta <- theta - rate (s dL/dw + alpha sign(theta - mu)),

    the first term also where theta < 0 (the rewiring: a synapse that is away comes back when its gradient wants it), the
    second a Laplace prior around mu = ln(2 (1 - p)) / alpha, under which a share p of the synapses is away. The paper's alpha
    and p decide how many are left, and nothing makes it exact; here p is that of the largest weights that the budget holds, and a
    threshold on theta, on each core, keeps what is left within the budget in force.

    The model holds s theta. The prior is a step of its own after the optimizer's, as it is beside Adam's in the paper.

    Parameters
    ----------
    alpha : float
        How steep the prior is.
    """

    def __init__(self, budget: Budget, model: TrainableNetwork, *, alpha: float = 0.01, **common: Any) -> None:
        super().__init__(budget, model, **common)
        self.alpha = alpha
        self.mu: float | None = None
        self.signs = {name: torch.ones_like(module.weight).detach() for name, module in self.layers.items()}

    def select(self, progress: float) -> None:
        """The largest theta, of those above zero."""
        if self.mu is None:
            self.mu = self._begin()
        positive = {name: (module.weight.detach() * self.signs[name]).relu() for name, module in self.layers.items()}
        self.masks, _ = self.best(positive, progress)

    def _begin(self) -> float:
        """Fix the signs; the prior's centre for the sparsity that is aimed at."""
        for name, module in self.layers.items():
            self.signs[name].copy_(torch.where(module.weight.detach() < 0, -1.0, 1.0))
        masks, _ = self.best(self.magnitudes(), 1.0)
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        return min(math.log(2 * kept), 0.0) / self.alpha

    def seen(self, name: str) -> torch.Tensor:
        """The hidden weights that have kept their sign."""
        weight = self.layers[name].weight.detach()
        return weight * (weight * self.signs[name] > 0)

    @torch.no_grad()
    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """The prior's step, while compressing."""
        if phase == "finetune":
            super().after_step(phase, learning_rate)
        elif self.mu is not None:
            for name, module in self.layers.items():
                sign = self.signs[name]
                pull = (module.weight * sign - self.mu).sign_().mul_(sign)
                module.weight.sub_(pull, alpha=learning_rate * self.alpha)

    def state_dict(self) -> Mapping[str, Any]:
        """With the signs and the prior's centre."""
        return {**super().state_dict(), "signs": self.signs, "mu": self.mu}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        super().load_state_dict(state)
        self.mu = state["mu"]
        for name, sign in self.signs.items():
            sign.copy_(state["signs"][name])
