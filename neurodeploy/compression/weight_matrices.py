"""The weights of a dense layer as one matrix, whichever parameters of a module they are.

Which modules of a model a budget's layers are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch
from norse.torch import LIFRecurrentCell
from numpy.typing import NDArray

from neurodeploy.errors import TrainingError
from neurodeploy.ir.graph import INPUT, Connection, bias_layers, layer_name
from neurodeploy.ir.network import LI, Dense, Layer, Network, Synapse
from neurodeploy.mapping.budget.budget import AxonCap, Budget, SliceBudget
from neurodeploy.resources.usage import count

# -------------------- training.matrices

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


# -------------------- training.modules

Convolution: TypeAlias = "torch.nn.Conv1d | torch.nn.Conv2d"


def find_layers(model: torch.nn.Module, budget: Budget) -> dict[str, DenseModule]:
    """The Linear modules and recurrent cells that the budget's layers are, by layer name; images are left to `find_convolutions`.

    Raises
    ------
    TrainingError
        A layer of the budget that no such module of the model is, or one of another shape.
    """
    kinds = torch.nn.Linear, LIFRecurrentCell
    found = {layer_name(path): module for path, module in model.named_modules() if isinstance(module, kinds)}
    rows = [part.layer for part in budget.layers if budget.grid(part.layer)[1:] == () and _hears(part.layer, budget)]
    for layer in rows:
        if layer not in found:
            raise TrainingError(
                f"layer {layer!r}", "is in the budget, but no Linear module or LIFRecurrentCell of the model",
                remedy=f"The model has {', '.join(found) or 'none'}; share the budget out for this model.",
            )  # fmt: skip
        sources, shape = budget.of(layer)[0].sources, tuple(Matrix(found[layer]).weight.shape)
        planned = (*budget.grid(layer), max(cap.stop for cap in sources) if sources else shape[1])
        if shape != planned:
            raise TrainingError(
                f"layer {layer!r}", f"has weights {shape}, the budget is for {planned}",
                remedy="Share the budget out for this model.",
            )  # fmt: skip
    return {layer: found[layer] for layer in rows}


def _hears(layer: str, budget: Budget) -> bool:
    """Whether a layer hears anybody: a neuron that brings biases does not, and is no module."""
    return any(part.input_axons for part in budget.of(layer))


def find_convolutions(model: torch.nn.Module, budget: Budget) -> dict[str, Convolution]:
    """The convolutions of a model that mix channels and are layers of the budget, by layer name.

    Raises
    ------
    TrainingError
        One that has fewer channels than the budget, or channels in groups of several where the budget has fewer than it.
    """
    images = {part.layer: budget.grid(part.layer) for part in budget.layers if len(budget.grid(part.layer)) == 3}
    found: dict[str, Convolution] = {}
    for path, module in model.named_modules():
        name = layer_name(path)
        if name not in images or not isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            continue
        planned = images[name][0]
        if module.groups == 1:
            found[name] = module
        if module.out_channels < planned or (module.out_channels > planned and 1 < module.groups != module.out_channels):
            groups = f" in {module.groups} groups" if module.groups > 1 else ""
            raise TrainingError(
                f"layer {name!r}", f"has {module.out_channels} channels{groups}, the budget is for {planned}",
                remedy="Share the budget out for this model.",
            )  # fmt: skip
    return found


def check_feeds_forward(layer: str, module: DenseModule) -> torch.nn.Linear:
    """The module of a dense layer that hears an image; `TrainingError` for one that hears itself as well."""
    if isinstance(module, LIFRecurrentCell):
        raise TrainingError(
            f"layer {layer!r}", "is recurrent and hears an image; under a budget it can hear rows of neurons only",
            remedy="Put a Linear module with neurons between.",
        )  # fmt: skip
    return module


def in_terms_of(layers: Mapping[str, Matrix], channels: Mapping[str, int], budget: Budget) -> tuple[Budget, dict[str, int]]:
    """The budget of dense layers, as one of the model's columns where they hear an image; and how many axons each column has.

    What pooling between image and layer adds up has an axon for every pixel, and one weight.

    Parameters
    ----------
    channels : mapping of layer to int
        Of the model's images, those that the budget has no room for included.
    """
    names, axons, slices = [part.layer for part in budget.layers], dict.fromkeys(layers, 1), []
    for part in (part for part in budget.slices if part.layer in layers):
        before = names[names.index(part.layer) - 1] if part.layer != names[0] else None
        if before is not None and len(budget.grid(before)) == 3:
            n_in, pixels = layers[part.layer].n_before, math.prod(budget.grid(before)[1:])
            axons[part.layer] = max(math.ceil(pixels * channels[before] / n_in), 1)
            heard = max((part.input_axons - part.biases) // axons[part.layer], 1)
            part = replace(part, input_axons=heard + part.biases, sources=(AxonCap(start=0, stop=n_in, axons=heard),))
        elif layers[part.layer].is_recurrent:  # its plan counts all that it may hear
            n_in = layers[part.layer].weight.shape[1]
            part = replace(part, sources=(AxonCap(start=0, stop=n_in, axons=n_in),))
        slices.append(_beside_biases(part, budget))
    return replace(budget, slices=tuple(slices)), axons


def _beside_biases(part: SliceBudget, budget: Budget) -> SliceBudget:
    """What is left of a slice for synapses that can be pruned, when biases have their axons and lists."""
    width, lists = max(budget.profile["weight_bits"].choices), np.full(part.biases, part.neurons)
    memory = part.synapse_memory_bits - count(lists, part.neurons, width, budget.profile).synapse_memory_bits
    return replace(part, input_axons=part.input_axons - part.biases, synapse_memory_bits=memory) if part.biases else part


def units_of(network: Network, model: torch.nn.Module) -> dict[str, float]:
    """How many times larger a module's weights are than its layer's, where that is one number for all of them.

    Averages divide them by their window; what a normalisation multiplies them by differs from channel to channel.
    """
    kinds = torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, LIFRecurrentCell
    modules = {layer_name(path): module for path, module in model.named_modules() if isinstance(module, kinds)}
    units, beside = {}, bias_layers(network)
    for layer in network:
        main = [c.synapse for c in layer.connections if c.source not in {*beside, layer.name}]
        if layer.name in modules and len(main) == 1:
            heard = parts_of(modules[layer.name])[0]
            own = heard.detach().abs().flatten(1).amax(dim=1).double().cpu().numpy()
            read = np.abs(main[0].weight).reshape(len(own), -1).max(axis=1)
            if (read > 0).any() and np.allclose(own * read.max(), read * own.max(), rtol=1e-4):
                units[layer.name] = float(own.max() / read.max())
    return units


def as_network(
    layers: Mapping[str, Matrix], masks: Mapping[str, torch.Tensor] | None = None,
    axons: Mapping[str, int] = MappingProxyType({}),
) -> Network:  # fmt: skip
    """The weights, or masks in their place, as a network for the budget to count; its neurons are of no account.

    Beside masks every bias is there, as 1: it may come to lift its neuron, whatever it is now.

    `axons` says how many stand behind each column of a layer, one where it says nothing.
    """
    zero: NDArray[np.float64] = np.zeros(())
    neuron = LI(current_decay=zero, voltage_decay=zero, rest=zero)
    nouns: list[Layer] = []
    for source, (name, matrix) in zip([INPUT, *layers], layers.items(), strict=False):
        weight = (matrix.weight if masks is None else masks[name]).detach().cpu().double().numpy()
        connections = [_dense(source, weight[:, : matrix.n_before], axons.get(name, 1))]
        if matrix.is_recurrent:
            connections.append(_dense(name, weight[:, matrix.n_before :], 1))
        bias = zero
        if matrix.bias is not None:
            bias = matrix.bias.detach().cpu().double().numpy() if masks is None else np.ones(len(weight))
        nouns.append(Layer(name=name, shape=(len(weight),), neuron=neuron, connections=tuple(connections), bias=bias))
    n_in = nouns[0].connections[0].synapse.n_in
    return Network(input_shape=(n_in,), layers=tuple(nouns), timestep_s=1e-3)


def _dense(source: str, weight: NDArray[np.float64], axons: int) -> Connection[Synapse]:
    return Connection(source=source, synapse=Dense(weight=np.repeat(weight, axons, axis=1)))
