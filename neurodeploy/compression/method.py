"""The protocol of a pruning method, and the methods that have a name.

A pruning method owns the weights of a model while it is trained into a budget. `neurodeploy.fit` calls it at fixed points of the
training loop; `neurodeploy.compress` deploys what it leaves. CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch

from neurodeploy.compression.saliency import ActiveNeurons
from neurodeploy.errors import RequestError
from neurodeploy.mapping.budget.budget import Budget

if TYPE_CHECKING:
    from neurodeploy.compression.minimax import MinimaxOptions

Phase = Literal["dense", "compress", "finetune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTrial:
    """A core whose memory binds, and a way to try it with less.

    Attributes
    ----------
    core : int
    layers : tuple of str
        Layers with synapses on the core.
    apply : callable
        Returns a context manager that yields the bits given up; while it is open, the core's synapses fit into that much less.
    """

    core: int
    layers: tuple[str, ...]
    apply: Callable[[], AbstractContextManager[int]]


class Pruning(Protocol):
    """Decide which weights survive, and when. `neurodeploy.compression.minimax.MinimaxPruning` is the built-in method.

    A subclass has to define the abstract members; the others do nothing unless it overrides them.
    """

    @property
    @abstractmethod
    def connectivity(self) -> float:
        """Share of the weights that are kept, 0..1."""

    @property
    @abstractmethod
    def widths(self) -> Mapping[str, int]:
        """Bits of a weight of each layer, as the network is quantised in the end."""

    multipliers: Mapping[str, float] = MappingProxyType({})
    """Shadow price of each constraint; empty for a method without prices. Names end with the resource, as in `overruns`."""

    @abstractmethod
    def overruns(self) -> Mapping[str, float]:
        """Usage over budget less one, of every constraint, at least one; names end with the resource, ``hidden input_axons``."""

    def in_force(self) -> AbstractContextManager[ActiveNeurons | None]:
        """While open, the model's weights are those that the loss sees and that are deployed in the end.

        A method that trains other weights than it deploys (rounded or masked ones) swaps these in and its own back
        afterwards; gradients found meanwhile are taken for its own weights. It may yield the neurons that have to be calculated:
        the others change no output of these weights, and get no gradient.
        """
        return nullcontext()

    @abstractmethod
    def choose(self, progress: float) -> None:
        """Choose which weights to keep: every `FitOptions.mask_interval` steps of the compress phase.

        `progress` runs from 0 to 1, where the full budget is in force, and beyond.
        """

    def before_step(self) -> None:
        """Read or change the gradients of a step, summed over all processes, before the optimizer takes it."""

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Follow the optimizer's step, in the compress and finetune phases."""

    def memory_trials(self, share: float) -> Iterator[MemoryTrial]:  # noqa: ARG002  # for methods that override it
        """Cores whose memory binds, each to be tried with `share` (0..1) less of it; none for a method that cannot tell."""
        return iter(())

    @abstractmethod
    def state_dict(self) -> Mapping[str, Any]:
        """State for a checkpoint: tensors, numbers, texts, and mappings and lists of them. Weights are kept by the loop."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Resume from what `state_dict` returned."""

    @abstractmethod
    def close(self) -> None:
        """End the compression: from here on the kept weights stay, and are within the budget.

        Raises
        ------
        BudgetError
            They are not.
        """


PruningFactory: TypeAlias = "Callable[[Budget, torch.nn.Module], Pruning]"
"""Makes a method for `fit`, from a budget and the model whose weights it owns from then on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningSetup:
    """What `compress` knows beside the budget and the model when it makes a method.

    Attributes
    ----------
    thresholds : mapping of layer to float
        Firing threshold of each layer that has one for all its neurons, in the units of the model's weights; a method that
        rounds while it trains rounds it with the weights.
    weight_bits : int or None
        Width of all weights that the user asked for; None where the method may choose one for each layer.
    """

    thresholds: Mapping[str, float] = MappingProxyType({})
    weight_bits: int | None = None


PruningMethod: TypeAlias = "Callable[[Budget, torch.nn.Module, PruningSetup], Pruning]"
"""Makes a method for `compress`."""


def minimax(
    budget: Budget, model: torch.nn.Module, setup: PruningSetup, options: MinimaxOptions | None = None
) -> Pruning:  # fmt: skip
    """Make the built-in method; a width that the user asked for overrides ``options.widths``."""
    from neurodeploy.compression.minimax import make_minimax  # it subclasses `Pruning`: at the top this would be a cycle

    return make_minimax(budget, model, setup, options)


METHODS: dict[str, PruningMethod] = {"minimax": minimax}
"""Methods by the name that ``compress(method=...)`` and ``--method`` take."""


def pruning_method(method: str | PruningMethod) -> PruningMethod:
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
