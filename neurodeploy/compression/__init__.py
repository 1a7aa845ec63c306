"""Pruning methods: training under a chip's budget. The methods that have a name are here, and are imported when they are made.

Importing this package imports no torch, so that the command line can check a name before anything slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurodeploy.errors import RequestError

if TYPE_CHECKING:
    from neurodeploy.compression.minimax import MinimaxOptions
    from neurodeploy.compression.pruning_method import Pruning, PruningMethod, PruningSetup
    from neurodeploy.compression.trainable_network import TrainableNetwork
    from neurodeploy.mapping.budget.budget import Budget

__all__ = ["METHODS", "method_named"]


def _minimax(
    budget: Budget, model: TrainableNetwork, setup: PruningSetup, options: MinimaxOptions | None = None
) -> Pruning:  # fmt: skip
    """Make the default method. A width that the user asked for overrides ``options.widths``."""
    from neurodeploy.compression.minimax import make_minimax

    return make_minimax(budget, model, setup, options)


def _minimax_saddle(
    budget: Budget, model: TrainableNetwork, setup: PruningSetup, options: MinimaxOptions | None = None
) -> Pruning:  # fmt: skip
    """Make the saddle point method of the paper, as `_minimax` makes the default."""
    from neurodeploy.compression.minimax_saddle import make_minimax_saddle

    return make_minimax_saddle(budget, model, setup, options)


METHODS: dict[str, PruningMethod] = {"minimax": _minimax, "minimax-saddle": _minimax_saddle}
"""Methods by the name that ``compress(method=...)`` and ``--method`` take."""


def method_named(method: str | PruningMethod) -> PruningMethod:
    """Look a method up by name; a function is its own.

    Raises
    ------
    RequestError
        An unknown name.
    """
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise RequestError("method", f"no pruning method {method!r}", remedy=f"Choose from {', '.join(METHODS)}.")
    return METHODS[method]
