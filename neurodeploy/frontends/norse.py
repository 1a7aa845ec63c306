"""Networks from Norse: a `torch.nn.Module` becomes a `Network` of the chip's recurrence, exactly, or is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from norse.torch.module.lif import LIFRecurrentCell
from norse.torch.module.sequential import SequentialState

from neurodeploy.errors import ExtractError, NetworkError
from neurodeploy.frontends import folding
from neurodeploy.frontends.norse_cells import READERS, Cell, read_cell
from neurodeploy.graph import INPUT, Connection, layer_name
from neurodeploy.network import LI, LIF, Conv, Dense, Layer, Network, Synapse

SUPPORTED = (
    "Linear, Conv2d, LIFCell, LIFBoxCell, IAFCell, LIFRecurrentCell, LICell, LIBoxCell, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d, "
    "BatchNorm1d, BatchNorm2d, Flatten, Dropout, Dropout2d, Identity"
)
_PASSES = (torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.Identity)


def extract(model: torch.nn.Module, sample: torch.Tensor) -> Network:
    """Read a Norse network.

    Parameters
    ----------
    model : torch.nn.Module
        A ``norse.torch.SequentialState`` (or ``torch.nn.Sequential``) of Linear and Conv2d layers, each followed by a cell;
        nested ones are read in order. Average pooling and batch normalisation (in eval mode) fold into the weights beside them,
        max pooling of spikes becomes a layer of neurons that fire where any of their inputs does; Flatten, Dropout and
        Identity pass. It is read as in eval mode and not changed.
    sample : tensor (batch, \\*input_shape)
        The input of one step; only its shape counts.

    Returns
    -------
    Network
        One layer a cell or max pooling, named as `layer_name` names the path of its weights in the model.

    Raises
    ------
    ExtractError
        Anything that is not supported, by path and type: nothing is dropped or approximated.
    """
    if not isinstance(sample, torch.Tensor) or sample.ndim < 2:
        raise ExtractError("sample", "is not a tensor (batch, *input_shape)", remedy="Give one step of input.")
    if not _is_sequence(model):
        raise ExtractError(
            "model", f"is a {type(model).__name__}, not a SequentialState",
            remedy="Give a norse.torch.SequentialState of Linear layers and cells.",
        )  # fmt: skip
    reading = _Reading(tuple(sample.shape[1:]))
    for path, module in _leaves(model):
        reading.take(path, module)
    return reading.network()


def _is_sequence(module: torch.nn.Module) -> bool:
    """Whether the module runs its children one after another, and does nothing else."""
    sequences: list[type[torch.nn.Module]] = [SequentialState, torch.nn.Sequential]
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in sequences)


def _leaves(model: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    for name, child in model._modules.items():  # not named_children, which leaves out a module that stands twice
        path = f"{prefix}{name}"
        if child is not None and _is_sequence(child):
            yield from _leaves(child, f"{path}.")
        elif child is not None:
            yield path, child


class _Reading:
    """The layers that have been read, and the linear modules behind the last of them."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        self.input_shape = input_shape
        self.layers: list[Layer] = []
        self.steps: set[float] = set()
        self.waiting = folding.nothing(input_shape)

    def take(self, path: str, module: torch.nn.Module) -> None:
        """Read on by one module; what it raises names the module."""
        where = f"{path} ({type(module).__name__})"
        try:
            self._take(path, where, module)
        except NetworkError as error:
            raise ExtractError(where, f"{error.where} {error.what}", remedy=error.remedy) from error

    def _take(self, path: str, where: str, module: Any) -> None:
        kind, before = type(module), self.waiting
        if kind in READERS:
            self._take_cell(path, where, module)
        elif kind is torch.nn.Flatten:
            self._flatten(where, module)
        elif kind is torch.nn.MaxPool2d:
            self._take_max(path, where, module)
        elif kind is torch.nn.Linear:
            self._check_source(where)
            self.waiting = folding.linear(before, path, where, module.weight, module.bias)
        elif kind is torch.nn.Conv2d:
            self._check_source(where)
            self.waiting = folding.convolution(before, path, where, module)
        elif kind is torch.nn.AvgPool2d:
            self._check_source(where)
            self.waiting = folding.average(before, path, where, module)
        elif kind is torch.nn.AdaptiveAvgPool2d:
            self._check_source(where)
            self.waiting = folding.adaptive(before, path, where, module)
        elif kind in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
            self.waiting = folding.normalisation(before, where, module)
        elif kind not in _PASSES:
            raise ExtractError(where, "is not supported yet", remedy=f"Supported are {SUPPORTED}.")

    def _check_source(self, where: str) -> None:
        if self.layers and isinstance(self.layers[-1].neuron, LI):
            raise ExtractError(
                where, f"takes the membrane of {self.layers[-1].name!r}, which never fires", source="the chip sends spikes",
                remedy="A readout (LICell, LIBoxCell) has to be last; use a neuron that fires before another layer.",
            )  # fmt: skip

    def _flatten(self, where: str, module: Any) -> None:
        if module.start_dim != 1 or module.end_dim != -1:
            raise ExtractError(where, f"flattens dimensions {module.start_dim}..{module.end_dim}, not 1..-1")
        self.waiting = folding.flattened(self.waiting)

    def _take_max(self, path: str, where: str, module: Any) -> None:
        """Spikes are 0 or 1: the largest of a window is whether any of its neurons fired."""
        self._check_source(where)
        if self.waiting.synapse is not None:
            raise ExtractError(
                where, f"takes the largest of what {self.waiting.where} gives, which are no spikes",
                remedy="Put it behind a cell, or use AvgPool2d.",
            )  # fmt: skip
        window = folding.any_of(self.waiting, where, module)
        at_once = {"current_decay": np.ones(()), "voltage_decay": np.ones(()), "rest": np.zeros(())}
        connection: Connection[Synapse] = Connection(source=self._source, synapse=window)
        self._add(path, LIF(threshold=np.array(0.5), **at_once), (connection,), np.zeros(()), window.output_shape)

    def _take_cell(self, path: str, where: str, module: Any) -> None:
        if isinstance(module, LIFRecurrentCell):
            self._check_source(where)
            self.waiting = folding.linear(self.waiting, path, where, module.input_weights, None)
        folded = self.waiting
        if folded.synapse is None:
            raise ExtractError(where, "has no Linear in front of it", remedy="Put its weights before it.")
        cell = read_cell(where, module, folded.shape)
        try:
            connections, bias = self._heard(path, where, module, cell)
            shape = folded.synapse.output_shape if isinstance(folded.synapse, Conv) else folded.shape
            self._add(folded.name, cell.neuron, connections, bias, shape)
        except NetworkError as error:
            raise ExtractError(folded.where, f"{error.where} {error.what}", remedy=error.remedy) from error
        self.waiting = folding.nothing(folded.shape)
        self.steps |= set() if cell.timestep_s is None else {cell.timestep_s}

    def _heard(self, path: str, where: str, module: Any, cell: Cell) -> tuple[tuple[Connection[Synapse], ...], Any]:
        """The connections into a cell's layer, and its bias, scaled as the cell scales them."""
        folded = self.waiting
        if folded.bias.any() and cell.has_current:
            raise ExtractError(
                folded.where, "has a bias in front of neurons with a synaptic current, which would decay on its way to v",
                source="the chip adds a bias to v, not to the current",
                remedy="Build it with bias=False, or use a neuron without current (LIFBoxCell, LIBoxCell, IAFCell).",
            )  # fmt: skip
        synapse: Synapse = folding.scaled(folded, cell.gain)
        connections: list[Connection[Synapse]] = [Connection(source=self._source, synapse=synapse)]
        if isinstance(module, LIFRecurrentCell):
            weight = folding.numbers(where, "recurrent_weights", module.recurrent_weights).reshape(folded.n_out, -1)
            back = Dense(weight=weight * np.reshape(cell.gain, (-1, 1)))
            connections.append(Connection(source=layer_name(path), synapse=back))
        return tuple(connections), folded.bias_per_neuron * cell.gain

    @property
    def _source(self) -> str:
        return self.layers[-1].name if self.layers else INPUT

    def _add(
        self, path: str, neuron: LIF | LI, connections: tuple[Connection[Synapse], ...], bias: Any, shape: tuple[int, ...]
    ) -> None:
        self.layers.append(
            Layer(name=layer_name(path), shape=shape, neuron=neuron, connections=connections, bias=bias)
        )  # fmt: skip
        self.waiting = folding.nothing(shape)

    def network(self) -> Network:
        """All that was read."""
        if self.waiting.synapse is not None:
            raise ExtractError(
                self.waiting.where, "ends the model without neurons", remedy="Put a readout such as LICell behind it."
            )
        if not self.layers:
            raise ExtractError("model", "holds no layer", remedy=f"Supported are {SUPPORTED}.")
        if len(self.steps) > 1:
            raise ExtractError(
                "model", f"its cells have different time steps: {sorted(self.steps)} s", remedy="Give all cells one dt."
            )
        shape, n_in = self.input_shape, self.layers[0].connections[0].synapse.n_in
        if math.prod(shape) != n_in:
            raise ExtractError("sample", f"has {math.prod(shape)} inputs a step (shape {shape}), the model expects {n_in}")
        try:
            return Network(input_shape=shape, layers=tuple(self.layers), timestep_s=next(iter(self.steps), 1e-3))
        except NetworkError as error:
            raise ExtractError(error.where, error.what, remedy=error.remedy) from error
