"""Base class of the rivals: everything but the selection of synapses is inherited from our method.

Kept weights are rounded to the chip's integers while they train, memory is counted per core, neurons without targets are removed
at the end, and the budget is checked by the same count. A rival implements `select`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.compression.rivals.threshold import Ranking
from neurodeploy.compression.bit_width import best_grid
from neurodeploy.compression.channel_selection import Channels
from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.compression.pruning_method import Phase, axons_in_force, memory_in_force
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget import Budget, SliceBudget


class LargestChannels(Channels):
    """Channel selection by the largest filter norms (Li et al. 2017, arXiv 1608.08710)."""

    def update(self) -> None:
        """Do nothing: the norms need no gradients."""

    def choose(self, progress: float) -> None:
        """Select the channels with the largest norms now."""
        for choice in self.choices:
            filters = [inlet.weight.detach() for name in choice.layers for inlet in self.convolutions.get(name, ())]
            if not filters:
                continue  # neurons of a row, by the weights that read them
            choice.saliency.copy_(torch.stack([weight.abs().flatten(1).sum(dim=1) for weight in filters]).sum(dim=0))
            choice.steps.fill_(1)
        super().choose(progress)


class Masked(MinimaxPruning, ABC):
    """Pruning method with its own selection of synapses; a rival is a subclass with a `select`.

    Parameters
    ----------
    budget : Budget
    model : TrainableNetwork
        The method owns its weights from now on.
    width : int
        Bits of every weight.
    thresholds : mapping of layer to float, optional
        Of neurons that fire, in the units of the model; rounded with the weights.
    integers : bool
        Round kept weights to the chip's integers in the loss; otherwise they are rounded after training.
    curvature : bool
        Rank weights as our method does, by size times the root of the loss's curvature.

    Attributes
    ----------
    is_final : bool
        Whether the masks are fixed from now on.
    """

    def __init__(
        self, budget: Budget, model: TrainableNetwork, *, width: int,
        thresholds: Mapping[str, float] = MappingProxyType({}), integers: bool = True, curvature: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(budget, model, MinimaxOptions(rest=False, curvature=curvature), thresholds=thresholds)
        self.channels = LargestChannels(model, budget)
        self.formats = {name: replace(form, grid=replace(form.grid, width=width)) for name, form in self.formats.items()}
        self.multipliers = {}
        self.width, self.integers, self.is_final = width, integers, False

    @abstractmethod
    def select(self, progress: float) -> None:
        """Set the masks under the budget in force at `progress`; not called once they are final."""

    def choose(self, progress: float) -> None:
        """Update the masks, and every `format_interval` calls the grids that kept weights are rounded to."""
        self.channels.choose(progress)
        if not self.is_final:
            self.select(progress)
            self.channels.mask_removed(self.layers, self.masks)
        self._leave_out_dead()
        if self._n_choices % self.options.format_interval == 0:
            self._choose_forms()
        self._n_choices += 1

    def _leave_out_dead(self) -> None:
        """Count without hidden neurons that have no sources: indices of the others take fewer bits."""
        for name in list(self.layers)[:-1]:
            active = self.masks[name].any(dim=1).cpu().numpy()
            self.formats[name] = self.formats[name].with_neurons(active, self.budget.of(name))

    def close(self) -> None:
        """End the compression; see `Pruning`."""
        super().close()
        self._leave_out_dead()

    def effective(self, name: str) -> torch.Tensor:
        """Weights of a layer in the loss, before rounding."""
        return self.layers[name].weight.detach() * self.masks[name] * self.channels.columns(self.layers[name])

    def _masked(self, name: str) -> torch.Tensor:
        return self.effective(name)

    def _choose_forms(self) -> None:
        """Fit the grid of each layer to its kept weights."""
        for name, form in self.formats.items() if self.integers else ():
            kept = self.effective(name)[self.masks[name]].cpu().double().numpy()
            self.formats[name] = replace(form, grid=best_grid(kept, form.grid), is_rounded=True)

    def memory(self, parts: Sequence[SliceBudget], progress: float) -> int:
        """Bits that the slices of a core may use at `progress`."""
        return memory_in_force(parts, self.budget, progress)

    def best(self, scores: Mapping[str, torch.Tensor], progress: float) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """Masks by a threshold per core, the lowest that the budget in force at `progress` allows.

        Parameters
        ----------
        scores : mapping of layer to tensor (n_out, n_in)
            At least 0; a synapse of score 0 is never kept.

        Returns
        -------
        masks : dict of layer to tensor (n_out, n_in), bool
        thresholds : dict of slice to float
        """
        cores = [[axons_in_force(part, progress) for part in parts] for parts in self.plan.by_core()]
        memory = [self.memory(parts, progress) for parts in self.plan.by_core()]
        on_cpu = {name: score.cpu() for name, score in scores.items()}  # a GPU would be waited for at every threshold
        masks, thresholds = Ranking(on_cpu, cores, memory, self.width, self.budget.profile).masks()
        return {name: mask.to(scores[name].device) for name, mask in masks.items()}, thresholds

    def magnitudes(self) -> dict[str, torch.Tensor]:
        """Magnitudes by which weights are ranked, by layer."""
        sizes = {name: module.weight.detach().abs() for name, module in self.layers.items()}
        if self.options.curvature:
            curvature = self.curvature.normalized(self.masks)
            sizes = {name: size * torch.from_numpy(curvature[name]).to(size).sqrt() for name, size in sizes.items()}
        return {name: size * self.channels.columns(self.layers[name]) for name, size in sizes.items()}

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state that every rival changes during compression."""
        return {**super().state_dict(), "is_final": int(self.is_final)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self.is_final = bool(state["is_final"])


class Held(Masked):
    """Method whose pruned weights are set to zero and held there, so that their magnitude never brings them back."""

    def choose(self, progress: float) -> None:
        """Update the masks and set pruned weights to zero."""
        super().choose(progress)
        self.hold()

    def after_step(self, phase: Phase, learning_rate: float) -> None:  # noqa: ARG002  # part of the Pruning interface
        """Hold pruned weights at zero, in every phase."""
        self.hold()
