"""What presses a network into its budget: ours, with each of its ideas left out in turn, and the rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import torch

from benchmarks.compression.rivals import RIVALS
from neurodeploy.compression.method import Pruning
from neurodeploy.compression.minimax import Compression
from neurodeploy.compression.weight_matrices import find_layers
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.pipeline.compress import MINIMAX
from neurodeploy.training.options import MinimaxOptions


class Deployable(Pruning, Protocol):
    """A method that says how wide the weights of each layer are in the end."""

    @property
    def widths(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What a method may know of the network it begins with.

    Attributes
    ----------
    width : int or None
        Bits of a weight.
    thresholds : mapping of layer to float
        Of neurons that fire.
    early : torch.nn.Module
        The dense network as it was after an epoch.
    """

    width: int | None
    thresholds: Mapping[str, float]
    early: torch.nn.Module


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a method is made, and what it asks of the training.

    Attributes
    ----------
    patience : int
        Of the task's ``mask_interval``, between two choices where memory is counted. Ours waits twice as long: a choice takes it
        as long as a step does, and on held-out data it was no worse.
    """

    make: Callable[[Budget, torch.nn.Module, Start], Deployable]
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    chooses_widths: bool = False
    patience: int = 1


def _ours(given: MinimaxOptions, budget: Budget, model: torch.nn.Module, start: Start) -> Deployable:
    return Compression(budget, model, given, thresholds=start.thresholds)


def _rival(name: str, budget: Budget, model: torch.nn.Module, start: Start, **told: Any) -> Deployable:
    assert start.width is not None
    early = {layer: module.weight.detach() for layer, module in find_layers(start.early, budget).items()}
    extras = {"rewind": early} if name == "lottery" else {}
    return RIVALS[name](budget, model, width=start.width, thresholds=start.thresholds, **extras, **told)


BY_MAGNITUDE = "minimax, by magnitude"

METHODS: dict[str, Method] = {
    "minimax": Method(make=partial(_ours, MINIMAX), chooses_widths=True, patience=2),
    BY_MAGNITUDE: Method(make=partial(_ours, replace(MINIMAX, curvature=False)), chooses_widths=True, patience=2),
    "minimax, one width": Method(make=partial(_ours, replace(MINIMAX, widths=False)), patience=2),
    "minimax, idle neurons stay": Method(make=partial(_ours, replace(MINIMAX, idle=False)), chooses_widths=True, patience=2),
    "minimax, others learn on": Method(make=partial(_ours, replace(MINIMAX, rest=False)), chooses_widths=True, patience=2),
    "minimax, rounded at the end": Method(make=partial(_ours, MinimaxOptions(integers=False, penalty_rate=100.0)), patience=2),
    "minimax, decays learn": Method(
        make=partial(_ours, MINIMAX),
        options=MappingProxyType({"learn_decays": True}),
        chooses_widths=True,
        patience=2,
    ),
    "knapsack, by curvature": Method(make=partial(_rival, "knapsack", curvature=True)),
    **{name: Method(make=partial(_rival, name)) for name in RIVALS},
}
RIVALRY = ("minimax", *RIVALS)
"""Ours beside the others."""
ABLATIONS = (*(name for name in METHODS if name.startswith("minimax, ")), "knapsack, by curvature")
