"""ADMM: weights are pulled towards their projection onto the budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.compression.rivals.masked import Masked
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget import Budget


class ADMM(Masked):
    """Alternating directions (Zhang et al. 2018, arXiv 1804.03294; for spiking networks Deng et al. 2021, arXiv 1911.00822).

    minimise L(W) + g(Z) with W = Z, where g is 0 within the budget and infinite outside. In turn:

        W   takes steps on  L(W) + rho / 2 |W - Z + U|^2
        Z = the projection of W + U on the budget: its largest entries that each core holds
        U = U + W - Z

    Nothing is masked before the compression closes; then the largest weights stay, and are fine-tuned. The penalty's gradient
    rho (W - Z + U) is added to the loss's, so that the optimizer sees their sum, as in the papers: beside Adam's steps, which
    have one size however small the gradient is, a separate step would be lost. rho is raised, tenfold a stage there, here
    steadily with the progress.

    Parameters
    ----------
    rho, last_rho : float
        At progress 0, and at progress 1 and beyond.
    iterations : int
        Updates of Z and U from progress 0 to 1; as many follow for the rest.
    """

    def __init__(
        self, budget: Budget, model: TrainableNetwork, *, rho: float = 1e-3, last_rho: float = 1e-1, iterations: int = 5,
        **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(budget, model, **common)
        self.rho, self.last_rho, self.iterations = rho, last_rho, iterations
        self.progress, self.done = 0.0, 0
        self.projection = {name: module.weight.detach().clone() for name, module in self.layers.items()}
        self.dual = {name: torch.zeros_like(weight) for name, weight in self.projection.items()}

    def select(self, progress: float) -> None:
        """Update Z and U, `iterations` times from progress 0 to 1."""
        self.progress = progress
        due = int(progress * self.iterations) + 1
        if due > self.done:
            self.done = due
            self._project()

    @torch.no_grad()
    def _project(self) -> None:
        moved = {name: module.weight.detach() + self.dual[name] for name, module in self.layers.items()}
        masks, _ = self.best({name: weight.abs() for name, weight in moved.items()}, 1.0)
        for name, weight in moved.items():
            self.projection[name].copy_(weight * masks[name])
            self.dual[name].copy_(weight - self.projection[name])

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Run a block with the compressed weights; add the penalty's gradient to gradients computed in it."""
        is_fresh = all(module.weight.grad is None for module in self.layers.values())
        with super().in_force():
            yield
        if is_fresh and self.done and not self.is_final:
            self._add_penalty()

    @torch.no_grad()
    def _add_penalty(self) -> None:
        rho = self.rho * (self.last_rho / self.rho) ** min(self.progress, 1.0)
        for name, module in self.layers.items():
            if module.weight.grad is not None:
                module.weight.grad.add_(module.weight - self.projection[name] + self.dual[name], alpha=rho)

    def close(self) -> None:
        """Keep the largest weights and set the others to zero."""
        self.masks, _ = self.best(self.magnitudes(), 1.0)
        self.is_final = True
        super().close()

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with Z and U."""
        own = {"projection": self.projection, "dual": self.dual, "progress": self.progress, "done": self.done}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore Z and U."""
        super().load_state_dict(state)
        self.progress, self.done = float(state["progress"]), state["done"]
        for own, kept in ((self.projection, state["projection"]), (self.dual, state["dual"])):
            for name, values in own.items():
                values.copy_(kept[name])
