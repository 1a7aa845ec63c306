"""What the loop asks of a method that presses a model into its budget while it learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeAlias

import torch

from neurodeploy.compression.saliency import Live
from neurodeploy.mapping.budget.budget import Budget

Phase = Literal["dense", "compress", "finetune"]


class Pruning(Protocol):
    """Decides which weights survive, and when. `minimax.Compression` is ours.

    Made from a budget and a model, whose weights it owns from then on.
    """

    @property
    def connectivity(self) -> float:
        """Share of the weights that survive, 0..1."""

    @property
    def multipliers(self) -> Mapping[str, float]:
        """The price of each constraint; empty for a method without prices."""

    def overruns(self) -> Mapping[str, float]:
        """Usage over budget less one, of every constraint; one at least."""

    def in_force(self) -> AbstractContextManager[Live | None]:
        """While it is open, the model's weights are those that the loss sees, and that it keeps in the end.

        A method that trains other weights than it deploys (rounded ones, masked ones) puts these in and its own back
        afterwards; the gradients found meanwhile are taken for its own. It may say which neurons have to be calculated: the
        others answer nothing that is heard in these weights, and what leads to or from them is not to learn for now.
        """

    def choose(self, progress: float) -> None:
        """Choose the survivors anew: every `FitOptions.mask_interval` steps of the compress phase.

        `progress` runs from 0 to 1, where the full budget is in force, and beyond.
        """

    def before_step(self) -> None:
        """What is heard in the gradients of a step, those of all replicas together, or done to them, before it is taken."""

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """What follows the optimizer's step, in the compress phase and in the fine-tuning."""

    def state_dict(self) -> Mapping[str, Any]:
        """What changes while it presses, as tensors, numbers, texts, and mappings and lists of them; for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from where `state_dict` was taken; of the weights the loop takes care."""

    def close(self) -> None:
        """End the compression: from here on the survivors stay, and keep within the budget.

        Raises
        ------
        BudgetError
            They do not.
        """


Method: TypeAlias = "Callable[[Budget, torch.nn.Module], Pruning]"
"""What makes one."""
