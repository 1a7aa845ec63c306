"""Magnitude pruning: one-shot, gradual, or in rounds that rewind to early weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.compression.rivals.masked import Held, Masked
from neurodeploy.compression.pruning_method import Phase, memory_in_force
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget import Budget, SliceBudget


class OneShot(Held):
    """One-shot pruning: the largest weights of all layers are selected before the first step; the rest is fine-tuning.

    That is ``torch.nn.utils.prune.global_unstructured`` with ``L1Unstructured``: one ranking of |w| over all layers of a core, as
    many as the whole budget holds.
    """

    def select(self, progress: float) -> None:  # noqa: ARG002  # the whole budget is in force from the start
        """Select once, on the first call; the masks are final."""
        self.masks, _ = self.best(self.magnitudes(), 1.0)
        self.is_final = True


class Gradual(Masked):
    """Gradual magnitude pruning (Zhu and Gupta 2017, arXiv 1710.01878), the usual baseline.

    Their sparsity s(t) = s_f + (s_i - s_f) (1 - t)^3 from t = 0 to 1, here of the memory of each core: from the need of the
    unpruned model to the budget. The masks are recomputed from the magnitudes of all weights. Masked weights take no
    part in the forward pass and get no gradient, but keep their value, so that they return where others have fallen below it.
    From t = 1 on the masks are fixed.

    Parameters
    ----------
    feedback : bool
        Masked weights get the gradients of the masked model too, and can grow back (Lin et al. 2020, "Dynamic Model
        Pruning with Feedback", arXiv 2006.07253). Masks then change until the compression closes.
    """

    def __init__(self, budget: Budget, model: TrainableNetwork, *, feedback: bool = False, **common: Any) -> None:
        super().__init__(budget, model, **common)
        self.feedback = feedback
        self.asleep = {name: module.weight.detach().clone() for name, module in self.layers.items()}

    def memory(self, parts: Sequence[SliceBudget], progress: float) -> int:
        """Return the memory limit at `progress`: a cubic from what the unpruned model needs to the budget."""
        need, limit = memory_in_force(parts, self.budget, 0.0), memory_in_force(parts, self.budget, 1.0)
        return limit + int((need - limit) * max(1 - progress, 0.0) ** 3)

    def select(self, progress: float) -> None:
        """Select the largest weights, masked ones included."""
        self.masks, _ = self.best(self.magnitudes(), progress)
        self.is_final = progress >= 1 and not self.feedback
        for name, module in self.layers.items():
            self.asleep[name].copy_(module.weight.detach())

    @torch.no_grad()
    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Restore masked weights to their values before the optimizer's step."""
        if phase == "finetune":
            super().after_step(phase, learning_rate)
        elif not self.feedback:
            for name, module in self.layers.items():
                module.weight.copy_(torch.where(self.masks[name], module.weight, self.asleep[name]))

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with the values of masked weights."""
        return {**super().state_dict(), "asleep": self.asleep}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        for name, values in self.asleep.items():
            values.copy_(state["asleep"][name])


class Lottery(Held):
    """Iterative magnitude pruning with rewinding (Frankle and Carbin 2019, 1803.03635; Frankle et al. 2020, 1912.05671).

    A round prunes the smallest of the kept weights and rewinds the others to their values early in training; then they are
    trained again. Each round keeps the same share of what is left, as the budget in force does; the first begins with
    the dense model, the last one ends with fine-tuning.

    Parameters
    ----------
    rewind : mapping of layer to tensor (n_out, n_in), optional
        The early weights; by default those of the model when the method is constructed.
    rounds : int
    """

    def __init__(
        self, budget: Budget, model: TrainableNetwork, *, rewind: Mapping[str, torch.Tensor] | None = None, rounds: int = 5,
        **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(budget, model, **common)
        early = {name: module.weight.detach() for name, module in self.layers.items()} if rewind is None else rewind
        self.rewind = {name: early[name].clone().to(module.weight) for name, module in self.layers.items()}
        self.rounds, self.done = rounds, 0

    @torch.no_grad()
    def select(self, progress: float) -> None:
        """Start the next round when its progress is reached."""
        due = min(int(progress * self.rounds), self.rounds - 1) + 1
        if due > self.done:
            self.masks, _ = self.best(self.magnitudes(), due / self.rounds)
            self.done = due
            for name, module in self.layers.items():
                module.weight.copy_(self.rewind[name])

    def close(self) -> None:
        """Combine rounds that were not reached into one, without rewinding."""
        if self.done < self.rounds:
            self.masks, _ = self.best(self.magnitudes(), 1.0)
            self.done = self.rounds
        super().close()

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with the early weights and the number of finished rounds."""
        return {**super().state_dict(), "rewind": self.rewind, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self.done = state["done"]
        for name, weight in self.rewind.items():
            weight.copy_(state["rewind"][name])
