"""What a model learns from one batch."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from neurodeploy.errors import TrainingError
from neurodeploy.training.distillation import Teacher
from neurodeploy.training.inference import check_labels, run_model, spikes_of
from neurodeploy.training.options import FitOptions
from neurodeploy.training.pruning import Phase, Pruning
from neurodeploy.training.readouts import read_out

_LAST_RATE = 0.05


@dataclass(kw_only=True)
class Learner:
    """A model that learns batch by batch, in the weights that its method puts in force, from labels and from a teacher."""

    model: torch.nn.Module
    options: FitOptions
    pruning: Pruning | None
    teacher: Teacher | None = None

    def learn(
        self, inputs: torch.Tensor, target: torch.Tensor, optimizer: torch.optim.Optimizer, where: str
    ) -> tuple[float, float]:
        """One optimizer step; the loss, and how many samples were right (NaN where targets are no classes)."""
        optimizer.zero_grad()
        with self.in_force():
            spikes = spikes_of(inputs, self.model, self.options)
            with torch.autocast(spikes.device.type, torch.bfloat16, enabled=self.options.amp is not None):
                output = read_out(run_model(self.model, spikes), self.options.readout)
                target = target.to(output.device)
                loss = self._loss(output, target, spikes)
            if not loss.isfinite():
                raise TrainingError(
                    where, f"the loss is {loss.item()}",
                    remedy=f"Lower learning_rate (now {self.options.learning_rate:g}), or look for NaN in the model's weights.",
                )  # fmt: skip
            loss.backward()  # type: ignore[no-untyped-call]  # of torch, in some versions
        optimizer.step()
        classes = not target.is_floating_point() and target.shape == output.shape[:1]
        return loss.item(), float((output.argmax(dim=1) == target).sum()) if classes else math.nan

    def _loss(self, output: torch.Tensor, target: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        if self.options.loss is torch.nn.functional.cross_entropy:
            check_labels(target, len(output), output.shape[1])
            target = target.long()
        loss = self.options.loss(output, target)
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise TrainingError("loss", "returned no scalar tensor that depends on the model")
        return loss if self.teacher is None else self.teacher.shared(loss, output, spikes)

    def in_force(self) -> AbstractContextManager[None]:
        """The weights that the method has the loss see, for as long as this lasts."""
        return nullcontext() if self.pruning is None else self.pruning.in_force()


def learning_rate(phase: Phase, done: float, options: FitOptions) -> float:
    """Constant while compressing, a half cosine otherwise; `done` is the share of the phase, 0..1."""
    if phase == "compress":
        return options.learning_rate
    return options.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)
