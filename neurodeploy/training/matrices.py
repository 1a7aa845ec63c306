"""The weights of a dense layer as one matrix, whichever parameters of a module they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from norse.torch import LIFRecurrentCell
from numpy.typing import NDArray

from neurodeploy.budgets.budget import Budget

DenseModule: TypeAlias = "torch.nn.Linear | LIFRecurrentCell"


def parts_of(module: DenseModule) -> tuple[torch.nn.Parameter, ...]:
    """The parameters, each (n_out, any): a Linear's weights, or what a recurrent cell hears from before it, and from itself."""
    names = ("input_weights", "recurrent_weights") if isinstance(module, LIFRecurrentCell) else ("weight",)
    return tuple(getattr(module, name) for name in names)


class Matrix:
    """Weights (n_out, n_in), what a layer hears from before it and, where it is recurrent, from itself side by side.

    Attributes
    ----------
    module : Linear or LIFRecurrentCell
    parts : tuple of parameter (n_out, any)
    bias : parameter or None
    n_before : int
        Columns of the layer before.
    """

    def __init__(self, module: DenseModule) -> None:
        self.module, self.parts = module, parts_of(module)
        self.bias = module.bias if isinstance(module, torch.nn.Linear) else None
        self.n_before = self.parts[0].shape[1]

    @property
    def is_recurrent(self) -> bool:
        """Whether the last n_out columns are the layer itself."""
        return len(self.parts) > 1

    @property
    def weight(self) -> torch.Tensor:
        """All of them: the parameter itself where there is one, else a copy."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)

    def own_columns(self, neurons: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The columns in which a recurrent layer hears some of its own neurons; none where it is not recurrent."""
        return self.n_before + np.flatnonzero(neurons) if self.is_recurrent else np.zeros(0, dtype=np.int64)

    def hears_itself(self, mask: torch.Tensor) -> torch.Tensor:
        """(n_out,): the neurons that the layer itself hears, by a mask (n_out, n_in) of its synapses."""
        own = mask[:, self.n_before :]
        return own.any(dim=0) if self.is_recurrent else torch.zeros(len(mask), dtype=torch.bool, device=mask.device)

    def put(self, weight: torch.Tensor) -> None:
        """Let the parameters be these numbers, (n_out, n_in), as ``parameter.data`` is."""
        for part, columns in zip(self.parts, self._split(weight), strict=True):
            part.data = columns.contiguous()

    @property
    def gradient(self) -> torch.Tensor | None:
        """Of all weights, (n_out, n_in); None before there is one."""
        gradients = [part.grad for part in self.parts if part.grad is not None]
        return torch.cat(gradients, dim=1) if len(gradients) == len(self.parts) > 1 else gradients[0] if gradients else None

    @torch.no_grad()
    def scale(self, factors: torch.Tensor) -> None:
        """Multiply each weight by its factor, in place."""
        for part, columns in zip(self.parts, self._split(factors), strict=True):
            part.mul_(columns)

    @torch.no_grad()
    def scale_gradient(self, factors: torch.Tensor) -> None:
        """Multiply the gradients, where there are any."""
        for part, columns in zip(self.parts, self._split(factors), strict=True):
            if part.grad is not None:
                part.grad.mul_(columns)

    def _split(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(values, [part.shape[1] for part in self.parts], dim=1)


@contextmanager
def standing_in(
    layers: Mapping[str, Matrix], weights: Mapping[str, torch.Tensor], biases: Mapping[torch.nn.Parameter, torch.Tensor]
) -> Iterator[None]:
    """While it is open the layers hold these weights (n_out, n_in), and these biases, in place of their own."""
    own = [(p, p.data) for p in (*(p for matrix in layers.values() for p in matrix.parts), *biases)]
    try:
        for bias, values in biases.items():
            bias.data = values
        for name, matrix in layers.items():
            matrix.put(weights[name])
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def within(layers: Mapping[str, Matrix], out: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """The synapses (n_out, n_in) of each layer that have none of the neurons `out`, (n_out,) by layer, at either end."""
    inside: dict[str, NDArray[np.bool_]] = {}
    before: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
    for name, matrix in layers.items():
        mask = inside[name] = np.ones(tuple(matrix.weight.shape), dtype=np.bool_)
        mask[:, np.flatnonzero(before)] = False
        before = out[name]
        mask[before] = False
        mask[:, matrix.own_columns(before)] = False
    return inside


def forget_unheard(layers: Mapping[str, Matrix], survivors: Mapping[str, torch.Tensor], budget: Budget) -> None:
    """Drop the synapses onto neurons that no surviving synapse leaves: the outputs do not change, and memory comes free.

    From the last layer to the first, since a neuron forgotten may have been another's only listener. A slice is never emptied.

    Parameters
    ----------
    survivors : mapping of layer to tensor (n_out, n_in), bool
        Changed in place.
    """
    for before, after in reversed(list(pairwise(layers))):
        heard = layers[before].hears_itself(survivors[before])
        heard |= survivors[after][:, : layers[after].n_before].any(dim=0)
        for part in budget.of(before):
            mask = survivors[before][part.start : part.stop]
            left = mask & heard[part.start : part.stop, None]
            if left.any():
                mask.copy_(left)
