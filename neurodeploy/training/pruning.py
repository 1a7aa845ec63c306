"""What the loop asks of a method that presses a model into its budget while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import torch

Phase = Literal["dense", "compress", "finetune"]


class Pruning(Protocol):
    """Decides which weights survive, and when. `minimax.Compression` is ours; the benchmarks hold others to compare it with.

    Made from a budget and a model, whose weights it owns from then on.
    """

    @property
    def connectivity(self) -> float:
        """Share of the weights that survive, 0..1."""

    @property
    def multipliers(self) -> Mapping[str, float]:
        """The price of each constraint; empty for a method without prices."""

    def overruns(self) -> Mapping[str, float]:
        """Usage over budget less one, of every constraint."""

    def choose(self, progress: float) -> None:
        """Choose the survivors anew: every `FitOptions.mask_interval` steps of the compress phase.

        `progress` runs from 0 to 1, where the full budget is in force, and beyond.
        """

    def in_force(self) -> AbstractContextManager[None]:
        """The weights as the loss is to see them (masked, in the chip's integers), during forward and backward of one step.

        Gradients are then of those, and go to the weights that the optimizer moves (straight through).
        """

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """What follows the optimizer's step, in the compress phase and in the fine-tuning."""

    def close(self) -> None:
        """End the compression: from here on the survivors stay, and keep within the budget."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that the next step depends on, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up a state where `state_dict` left it."""
