"""Methods that compress a network into its budget: ours, its ablations, and the rivals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from benchmarks.compression.rivals import RIVALS
from neurodeploy.compression.minimax import COMPRESS_OPTIONS, make_minimax
from neurodeploy.compression.minimax_saddle import COMPRESS_SADDLE_OPTIONS, make_minimax_saddle
from neurodeploy.compression.pruning_method import Pruning, PruningMethod, PruningSetup
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import find_layers
from neurodeploy.mapping.budget import Budget


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start(PruningSetup):
    """Facts about the dense network that a method may use.

    Attributes
    ----------
    early : TrainableNetwork
        The dense network after its first epoch.
    """

    early: TrainableNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method: its factory, and the training options that it needs.

    Attributes
    ----------
    patience : int
        Selections are this many times the task's ``mask_interval`` apart where memory is counted. 2 for our method, whose
        selection takes as long as a step; on held-out data it was no worse.
    """

    make: PruningMethod
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    chooses_widths: bool = False
    patience: int = 1


def _rival(name: str, budget: Budget, model: TrainableNetwork, setup: PruningSetup, **options: Any) -> Pruning:
    if name == "lottery" and isinstance(setup, Start):  # without it, it rewinds to the weights that it begins with
        options["rewind"] = {layer: matrix.weight.detach() for layer, matrix in find_layers(setup.early, budget).items()}
    return RIVALS[name](budget, model, width=setup.weight_bits or budget.weight_bits, thresholds=setup.thresholds, **options)


def _minimax(**changed: Any) -> PruningMethod:
    return partial(make_minimax, options=replace(COMPRESS_OPTIONS, **changed))


def _saddle(**changed: Any) -> PruningMethod:
    return partial(make_minimax_saddle, options=replace(COMPRESS_SADDLE_OPTIONS, **changed))


BY_MAGNITUDE = "minimax, by magnitude"

METHODS: dict[str, Method] = {
    "minimax": Method(make=make_minimax, chooses_widths=True, patience=2),
    BY_MAGNITUDE: Method(make=_minimax(curvature=False), chooses_widths=True, patience=2),
    "minimax, one width": Method(make=_minimax(widths=False), patience=2),
    "minimax, idle neurons stay": Method(make=_minimax(idle=False), chooses_widths=True, patience=2),
    "minimax, others learn on": Method(make=_minimax(rest=False), chooses_widths=True, patience=2),
    "minimax, rounded at the end": Method(
        make=_minimax(integers=False, penalty_rate=100.0, widths=False, idle=False), patience=2
    ),
    "minimax, decays learn": Method(
        make=make_minimax,
        options=MappingProxyType({"learn_decays": True}),
        chooses_widths=True,
        patience=2,
    ),
    "minimax-saddle": Method(make=make_minimax_saddle, chooses_widths=True),
    "minimax-saddle, by magnitude": Method(make=_saddle(curvature=False), chooses_widths=True),
    "minimax-global": Method(make=_saddle(scope="network", curvature=False)),
    "knapsack, by curvature": Method(make=partial(_rival, "knapsack", curvature=True)),
    **{name: Method(make=partial(_rival, name)) for name in RIVALS},
}
RIVALRY = ("minimax", "minimax-saddle", "minimax-global", *RIVALS)
"""Our method, the paper's with one sparsity a slice and with one for all, and the rivals."""
ABLATIONS = (*(name for name in METHODS if name.startswith("minimax, ")), "knapsack, by curvature")
