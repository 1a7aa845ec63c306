"""Rewiring: weights are functions of hidden weights, which train on while their synapse is pruned (STDS, Grad R)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.compression.rivals.masked import Masked
from neurodeploy.compression.pruning_method import Phase
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget import Budget


class Hidden(Masked):
    """Method whose model holds hidden weights until the compression closes, and then the weights computed from them.

    Gradients of the weights pass unchanged to the hidden weights, also to those of pruned synapses, which can therefore come
    back.
    """

    is_open = True

    @abstractmethod
    def seen(self, name: str) -> torch.Tensor:
        """Weights (n_out, n_in) computed from the hidden weights of a layer."""

    def effective(self, name: str) -> torch.Tensor:
        """Return these weights, masked."""
        return self.seen(name) * self.masks[name] if self.is_open else super().effective(name)

    @torch.no_grad()
    def close(self) -> None:
        """Replace the hidden weights in the model by the weights themselves."""
        super().close()
        weights = {name: self.effective(name) for name in self.layers}
        for name, module in self.layers.items():
            module.weight.copy_(weights[name])
        self.is_open = False

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with whether the model holds hidden weights."""
        return {**super().state_dict(), "is_open": int(self.is_open)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self.is_open = bool(state["is_open"])


class STDS(Hidden):
    """State transition of dendritic spines (Chen et al., ICML 2022): a soft threshold that rises.

    w = sign(theta) max(|theta| - d, 0), and the gradient ignores the threshold, so a spine without a
    synapse (w = 0, a filopodium) keeps growing. The paper raises d to a final D by a schedule, which sets the sparsity; here d
    follows, on each core, from the budget in force.

    Attributes
    ----------
    widths_of_zero : dict of layer to tensor (n_out, 1)
        d.
    """

    def __init__(self, budget: Budget, model: TrainableNetwork, **common: Any) -> None:
        super().__init__(budget, model, **common)
        self.widths_of_zero = {name: torch.zeros_like(module.weight[:, :1]).detach() for name, module in self.layers.items()}

    def select(self, progress: float) -> None:
        """Select the largest |theta|, which determines d."""
        self.masks, thresholds = self.best(self.magnitudes(), progress)
        for part in self.budget.slices:
            least = torch.tensor(thresholds[part.name], dtype=torch.float32)
            below = torch.nextafter(least, torch.tensor(0.0)).clamp(max=torch.finfo().max)
            self.widths_of_zero[part.layer][part.start : part.stop] = below.to(self.widths_of_zero[part.layer])

    def seen(self, name: str) -> torch.Tensor:
        """Soft threshold of the hidden weights."""
        theta = self.layers[name].weight.detach()
        return theta.sign() * (theta.abs() - self.widths_of_zero[name]).relu()

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with d."""
        return {**super().state_dict(), "widths_of_zero": self.widths_of_zero}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        for name, width in self.widths_of_zero.items():
            width.copy_(state["widths_of_zero"][name])


class GradR(Hidden):
    """Gradient rewiring (Chen et al., IJCAI 2021, arXiv 2105.04916).

    w = s max(theta, 0) with a sign s that is fixed, and every step takes

        theta <- theta - rate (s dL/dw + alpha sign(theta - mu)),

    the first term also where theta < 0 (the rewiring: a pruned synapse comes back if its gradient is large enough), the
    second a Laplace prior around mu = ln(2 (1 - p)) / alpha, under which a share p of the synapses is pruned. In the paper alpha
    and p determine the connectivity approximately; here p is that of the largest weights that the budget holds, and a
    threshold on theta, on each core, keeps the others within the budget in force.

    The model holds s theta. The prior is a separate step after the optimizer's, as with Adam in the paper.

    Parameters
    ----------
    alpha : float
        Steepness of the prior.
    """

    def __init__(self, budget: Budget, model: TrainableNetwork, *, alpha: float = 0.01, **common: Any) -> None:
        super().__init__(budget, model, **common)
        self.alpha = alpha
        self.mu: float | None = None
        self.signs = {name: torch.ones_like(module.weight).detach() for name, module in self.layers.items()}

    def select(self, progress: float) -> None:
        """Select the largest positive theta."""
        if self.mu is None:
            self.mu = self._begin()
        positive = {name: (module.weight.detach() * self.signs[name]).relu() for name, module in self.layers.items()}
        self.masks, _ = self.best(positive, progress)

    def _begin(self) -> float:
        """Fix the signs, and set the centre of the prior for the target sparsity."""
        for name, module in self.layers.items():
            self.signs[name].copy_(torch.where(module.weight.detach() < 0, -1.0, 1.0))
        masks, _ = self.best(self.magnitudes(), 1.0)
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        return min(math.log(2 * kept), 0.0) / self.alpha

    def seen(self, name: str) -> torch.Tensor:
        """Hidden weights that have kept their sign; zero for the others."""
        weight = self.layers[name].weight.detach()
        return weight * (weight * self.signs[name] > 0)

    @torch.no_grad()
    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Take the prior's step in the compress phase."""
        if phase == "finetune":
            super().after_step(phase, learning_rate)
        elif self.mu is not None:
            for name, module in self.layers.items():
                sign = self.signs[name]
                pull = (module.weight * sign - self.mu).sign_().mul_(sign)
                module.weight.sub_(pull, alpha=learning_rate * self.alpha)

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with the signs and the centre of the prior."""
        return {**super().state_dict(), "signs": self.signs, "mu": self.mu}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self.mu = state["mu"]
        for name, sign in self.signs.items():
            sign.copy_(state["signs"][name])
