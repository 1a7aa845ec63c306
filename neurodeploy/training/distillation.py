"""Learning from the model as it was before it was compressed."""

from __future__ import annotations

import copy

import torch
from torch.nn.functional import kl_div, log_softmax

from neurodeploy.training.inference import in_mode
from neurodeploy.training.options import FitOptions
from neurodeploy.training.readouts import read_out
from neurodeploy.training.running import run_model


class Teacher:
    """A copy of a model that stays as it is, and whose answers a compressed one is held to (Hinton et al., arXiv 1503.02531)."""

    def __init__(self, model: torch.nn.Module, options: FitOptions) -> None:
        self.model, self.options = copy.deepcopy(model), options

    def shared(self, loss: torch.Tensor, output: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        """The loss that the options share between labels and teacher.

        Parameters
        ----------
        loss : tensor ()
            What the labels say.
        output : tensor (batch, n_classes)
        spikes : tensor (batch, n_steps, \\*shape)
            What the answers are to.

        Returns
        -------
        tensor ()
            (1 - distill) * loss + distill * T^2 * KL(teacher || output), both softened by the temperature T.
        """
        heat, share = self.options.temperature, self.options.distill
        with in_mode(self.model, training=False):
            taught = log_softmax(read_out(run_model(self.model, spikes), self.options.readout) / heat, dim=1)
        apart = kl_div(log_softmax(output / heat, dim=1), taught, reduction="batchmean", log_target=True)
        return (1 - share) * loss + share * heat**2 * apart
