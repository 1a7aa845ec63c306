"""What a model learns from one batch."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from neurodeploy.errors import TrainingError
from neurodeploy.training.distillation import Teacher
from neurodeploy.training.inference import check_labels, spikes_of
from neurodeploy.training.live import Live
from neurodeploy.training.options import FitOptions
from neurodeploy.training.pruning import Phase, Pruning
from neurodeploy.training.readouts import read_out
from neurodeploy.training.replicas import Replicas
from neurodeploy.training.running import run_model

_LAST_RATE = 0.05


@dataclass(kw_only=True)
class Learner:
    """A model that learns batch by batch, in the weights that its method puts in force, from labels and from a teacher."""

    model: torch.nn.Module
    options: FitOptions
    pruning: Pruning | None
    replicas: Replicas = field(default_factory=Replicas)
    teacher: Teacher | None = None

    def learn(
        self, inputs: torch.Tensor, target: torch.Tensor, optimizer: torch.optim.Optimizer, where: str
    ) -> tuple[float, float]:
        """One optimizer step; the loss, and how many samples were right (NaN where targets are no classes).

        Of replicas each learns from its share of the batch; the step, and what is returned, is that of the whole batch.
        """
        optimizer.zero_grad()
        own = self.replicas.share(len(inputs))
        part = (own.stop - own.start) / len(inputs)
        spikes = self._spikes(inputs, own)
        loss, hits = self._gradients(spikes, target[own], where) if part else (0.0, 0.0)
        trainable = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        loss, hits = self.replicas.sum_gradients(trainable, part, loss * part, hits)
        if not math.isfinite(loss):
            raise TrainingError(
                where, f"the loss is {loss}",
                remedy=f"Lower learning_rate (now {self.options.learning_rate:g}), or look for NaN in the model's weights.",
            )  # fmt: skip
        if self.pruning is not None:
            self.pruning.before_step()
        optimizer.step()
        return loss, hits

    def _gradients(self, spikes: torch.Tensor, target: torch.Tensor, where: str) -> tuple[float, float]:
        """From some samples of a batch: their loss, and how many of them are right; the gradients are the weights' own."""
        with self.in_force() as live, self.replicas.own_draws(f"{self.options.seed}, {where}"):
            with torch.autocast(spikes.device.type, torch.bfloat16, enabled=self.options.amp is not None):
                output = read_out(run_model(self.model, spikes, live or {}), self.options.readout)
                if self.options.loss is torch.nn.functional.cross_entropy:
                    check_labels(target, len(output), output.shape[1])
                    target = target.long()
                target = target.to(output.device)
                loss = self._loss(output, target, spikes)
            loss.backward()  # type: ignore[no-untyped-call]  # of torch, in some versions
        if target.is_floating_point() or target.shape != output.shape[:1]:
            return loss.item(), math.nan
        hits = (output.argmax(dim=1) == target).sum()
        told, right = torch.stack([loss.detach().double(), hits.double()]).tolist()  # a GPU is waited for once
        return told, right

    def _spikes(self, inputs: torch.Tensor, own: slice) -> torch.Tensor:
        """Of some samples; an encoder of the user's gets the batch: what it draws for each is the same for any replicas."""
        if callable(self.options.encoder):
            return spikes_of(inputs, self.model, self.options)[own]
        return spikes_of(inputs[own], self.model, self.options)

    def _loss(self, output: torch.Tensor, target: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        loss = self.options.loss(output, target)
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise TrainingError("loss", "returned no scalar tensor that depends on the model")
        return loss if self.teacher is None else self.teacher.shared(loss, output, spikes)

    def in_force(self) -> AbstractContextManager[Live | None]:
        """The weights that the method has the loss see, for as long as this lasts, and which neurons matter with them."""
        return nullcontext() if self.pruning is None else self.pruning.in_force()


def learning_rate(phase: Phase, done: float, options: FitOptions) -> float:
    """Constant while compressing, a half cosine otherwise; `done` is the share of the phase, 0..1."""
    if phase == "compress":
        return options.learning_rate
    return options.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)
