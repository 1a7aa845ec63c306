"""Modules of a model behind the layers of a budget, and the weights of dense layers as one matrix each.

A recurrent cell keeps its weights in two parameters; a pruning method sees them side by side, as the columns of one matrix.
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

from neurodeploy.errors import TrainingError
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.ir.graph import INPUT, Connection, bias_layers, layer_name
from neurodeploy.ir.network import LI, Dense, Layer, Network, Synapse
from neurodeploy.mapping.budget.budget import AxonCap, Budget
from neurodeploy.resources.usage import count

DenseModule: TypeAlias = "torch.nn.Linear | LIFRecurrentCell"


def weight_parameters(module: DenseModule) -> tuple[torch.nn.Parameter, ...]:
    """Weight parameters, each (n_out, any): a Linear's one, or a recurrent cell's input and recurrent weights."""
    names = ("input_weights", "recurrent_weights") if isinstance(module, LIFRecurrentCell) else ("weight",)
    return tuple(getattr(module, name) for name in names)


class WeightMatrix:
    """Weights (n_out, n_in) of a dense layer: its input weights and, for a recurrent layer, its recurrent weights side by side.

    Attributes
    ----------
    module : Linear or LIFRecurrentCell
    parts : tuple of parameter (n_out, any)
    bias : parameter or None
    n_before : int
        Number of columns that are input weights.
    """

    def __init__(self, module: DenseModule) -> None:
        self.module, self.parts = module, weight_parameters(module)
        self.bias = module.bias if isinstance(module, torch.nn.Linear) else None
        self.n_before = self.parts[0].shape[1]

    @property
    def is_recurrent(self) -> bool:
        """Whether the last n_out columns are recurrent weights."""
        return len(self.parts) > 1

    @property
    def weight(self) -> torch.Tensor:
        """All weights: the parameter itself where there is one, otherwise a copy."""
        # What is written to the copy is lost: `assign` and `scale` write to the parameters.
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)

    def recurrent_columns(self, neurons: Mask) -> Integers:
        """Columns of a recurrent layer that read some of its own neurons; none for a layer that is not recurrent."""
        return self.n_before + np.flatnonzero(neurons) if self.is_recurrent else np.zeros(0, dtype=np.int64)

    def recurrent_sources(self, mask: torch.Tensor) -> torch.Tensor:
        """Neurons that the layer itself reads, (n_out,) bool, by a mask (n_out, n_in) of its synapses."""
        own = mask[:, self.n_before :]
        return own.any(dim=0) if self.is_recurrent else torch.zeros(len(mask), dtype=torch.bool, device=mask.device)

    def assign(self, weight: torch.Tensor) -> None:
        """Set the parameters' ``data`` to these weights, (n_out, n_in)."""
        # Through `data`, so that autograd keeps its leaf: the gradient at these weights arrives in the parameter
        # (straight-through).
        for part, columns in zip(self.parts, self._split(weight), strict=True):
            part.data = columns.contiguous()

    @property
    def gradient(self) -> torch.Tensor | None:
        """Gradient of all weights, (n_out, n_in); None before the first backward pass."""
        gradients = [part.grad for part in self.parts if part.grad is not None]
        return torch.cat(gradients, dim=1) if len(gradients) == len(self.parts) > 1 else gradients[0] if gradients else None

    @torch.no_grad()
    def scale(self, factors: torch.Tensor) -> None:
        """Multiply each weight by its factor, in place."""
        for part, columns in zip(self.parts, self._split(factors), strict=True):
            part.mul_(columns)

    @torch.no_grad()
    def scale_gradient(self, factors: torch.Tensor) -> None:
        """Multiply the gradients by factors (n_out, n_in), in place."""
        for part, columns in zip(self.parts, self._split(factors), strict=True):
            if part.grad is not None:
                part.grad.mul_(columns)

    def _split(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(values, [part.shape[1] for part in self.parts], dim=1)


@contextmanager
def substituted_weights(
    layers: Mapping[str, WeightMatrix], weights: Mapping[str, torch.Tensor], biases: Mapping[torch.nn.Parameter, torch.Tensor]
) -> Iterator[None]:
    """While open, layers hold these weights (n_out, n_in) and biases instead of their own, which come back afterwards."""
    # references, not copies: `assign` replaces these tensors and does not write to them
    own = [(p, p.data) for p in (*(p for matrix in layers.values() for p in matrix.parts), *biases)]
    try:
        for bias, values in biases.items():
            bias.data = values
        for name, matrix in layers.items():
            matrix.assign(weights[name])
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def synapses_without(layers: Mapping[str, WeightMatrix], removed: Mapping[str, Mask]) -> dict[str, Mask]:
    """Masks (n_out, n_in) of the synapses with no `removed` neuron, (n_out,) by layer, at either end."""
    remaining: dict[str, Mask] = {}
    # empty: no input of the network is ever removed
    before: Mask = np.zeros(0, dtype=np.bool_)
    for name, matrix in layers.items():
        mask = remaining[name] = np.ones(tuple(matrix.weight.shape), dtype=np.bool_)
        # layers come in the network's order, so the first columns read the layer before
        mask[:, np.flatnonzero(before)] = False
        before = removed[name]
        mask[before] = False
        mask[:, matrix.recurrent_columns(before)] = False
    return remaining


def drop_unread_synapses(layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor], budget: Budget) -> None:
    """Drop the synapses onto neurons without kept outputs: answers do not change, and memory is freed.

    From the last layer to the first, since a dropped neuron may have been the only reader of another. A slice is never emptied.

    Parameters
    ----------
    masks : mapping of layer to tensor (n_out, n_in), bool
        Changed in place.
    """
    for before, after in reversed(list(pairwise(layers))):
        is_read = layers[before].recurrent_sources(masks[before])
        is_read |= masks[after][:, : layers[after].n_before].any(dim=0)
        for part in budget.of(before):
            mask = masks[before][part.start : part.stop]
            left = mask & is_read[part.start : part.stop, None]
            if left.any():
                mask.copy_(left)


Convolution: TypeAlias = "torch.nn.Conv1d | torch.nn.Conv2d"


def find_layers(model: torch.nn.Module, budget: Budget) -> dict[str, DenseModule]:
    """Find the Linear modules and recurrent cells behind the budget's layers, by layer name; see also `find_convolutions`.

    Raises
    ------
    TrainingError
        A layer of the budget has no such module, or one of another shape.
    """
    kinds = torch.nn.Linear, LIFRecurrentCell
    found = {layer_name(path): module for path, module in model.named_modules() if isinstance(module, kinds)}
    rows = [
        part.layer
        for part in budget.layers
        # the neuron that brings biases has no inputs, and no module
        if budget.grid(part.layer)[1:] == () and any(one.input_axons for one in budget.of(part.layer))
    ]
    for layer in rows:
        if layer not in found:
            raise TrainingError(
                f"layer {layer!r}", "is in the budget, but no Linear module or LIFRecurrentCell of the model",
                remedy=f"The model has {', '.join(found) or 'none'}; make the budget for this model.",
            )  # fmt: skip
        sources, shape = budget.of(layer)[0].sources, tuple(WeightMatrix(found[layer]).weight.shape)
        planned = (*budget.grid(layer), max(cap.stop for cap in sources) if sources else shape[1])
        if shape != planned:
            raise TrainingError(
                f"layer {layer!r}", f"has weights {shape}, the budget is for {planned}",
                remedy="Make the budget for this model.",
            )  # fmt: skip
    return {layer: found[layer] for layer in rows}


def find_convolutions(model: torch.nn.Module, budget: Budget) -> dict[str, Convolution]:
    """Find the convolutions that mix channels and are layers of the budget, by layer name.

    Raises
    ------
    TrainingError
        A convolution has fewer channels than the budget, or channels in groups and more of them than the budget.
    """
    images = {part.layer: budget.grid(part.layer) for part in budget.layers if len(budget.grid(part.layer)) == 3}
    found: dict[str, Convolution] = {}
    for path, module in model.named_modules():
        name = layer_name(path)
        if name not in images or not isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            continue
        planned = images[name][0]
        # with groups, a channel reads some of the channels only: it does not mix them
        if module.groups == 1:
            found[name] = module
        # A chained comparison: in groups, but not depthwise, where a channel goes with the one that it reads.
        if module.out_channels < planned or (module.out_channels > planned and 1 < module.groups != module.out_channels):
            groups = f" in {module.groups} groups" if module.groups > 1 else ""
            raise TrainingError(
                f"layer {name!r}", f"has {module.out_channels} channels{groups}, the budget is for {planned}",
                remedy="Make the budget for this model.",
            )  # fmt: skip
    return found


def require_feed_forward(layer: str, module: DenseModule) -> torch.nn.Linear:
    """Return the module of a dense layer that reads an image; `TrainingError` for a recurrent one."""
    if isinstance(module, LIFRecurrentCell):
        raise TrainingError(
            f"layer {layer!r}", "is recurrent and reads an image; under a budget it can read rows of neurons only",
            remedy="Put a Linear module with neurons between.",
        )  # fmt: skip
    return module


def budget_per_column(
    layers: Mapping[str, WeightMatrix], channels: Mapping[str, int], budget: Budget
) -> tuple[Budget, dict[str, int]]:
    """Express the budget of dense layers in columns of the model's weights; and return the axons behind each column.

    A layer that reads a pooled image has one weight, hence one column, for several pixels, but an axon for each of them.

    Parameters
    ----------
    channels : mapping of layer to int
        Channels of the model's images, including those that the budget removes.
    """
    names, axons, slices = [part.layer for part in budget.layers], dict.fromkeys(layers, 1), []
    for part in (part for part in budget.slices if part.layer in layers):
        before = names[names.index(part.layer) - 1] if part.layer != names[0] else None
        if before is not None and len(budget.grid(before)) == 3:
            n_in, pixels = layers[part.layer].n_before, math.prod(budget.grid(before)[1:])
            axons[part.layer] = max(math.ceil(pixels * channels[before] / n_in), 1)
            # whole columns only, and at least one: no slice may be disconnected
            columns = max((part.input_axons - part.biases) // axons[part.layer], 1)
            part = replace(part, input_axons=columns + part.biases, sources=(AxonCap(start=0, stop=n_in, axons=columns),))
        elif layers[part.layer].is_recurrent:  # one cap for inputs and recurrent columns together
            n_in = layers[part.layer].weight.shape[1]
            part = replace(part, sources=(AxonCap(start=0, stop=n_in, axons=n_in),))
        if part.biases:  # biases are never pruned: their axons and synapses are deducted from the slice's budget
            # at the widest, since widths are chosen later
            width, synapses = max(budget.profile["weight_bits"].choices), np.full(part.biases, part.neurons)
            memory = count(synapses, part.neurons, width, budget.profile).synapse_memory_bits
            part = replace(
                part, input_axons=part.input_axons - part.biases, synapse_memory_bits=part.synapse_memory_bits - memory
            )  # fmt: skip
        slices.append(part)
    return replace(budget, slices=tuple(slices)), axons


def module_scales(network: Network, model: torch.nn.Module) -> dict[str, float]:
    """Ratio of a module's weights to its extracted layer's, for layers where it is one number.

    It is not 1 behind average pooling, whose window size divides the layer's weights. Behind a normalisation it differs from
    channel to channel, and the layer is left out.
    """
    kinds = torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, LIFRecurrentCell
    modules = {layer_name(path): module for path, module in model.named_modules() if isinstance(module, kinds)}
    scales, bias_neurons = {}, bias_layers(network)
    for layer in network:
        main = [c.synapse for c in layer.connections if c.source not in {*bias_neurons, layer.name}]
        if layer.name in modules and len(main) == 1:
            inputs = weight_parameters(modules[layer.name])[0]
            # Row maxima are enough: a normalisation scales whole rows, and pooling all of them.
            own = inputs.detach().abs().flatten(1).amax(dim=1).double().cpu().numpy()
            read = np.abs(main[0].weight).reshape(len(own), -1).max(axis=1)
            # equal ratios, cross-multiplied because rows may be zero; the tolerance is for float32
            if (read > 0).any() and np.allclose(own * read.max(), read * own.max(), rtol=1e-4):
                scales[layer.name] = float(own.max() / read.max())
    return scales


def as_network(
    layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor] | None = None,
    axons: Mapping[str, int] = MappingProxyType({}),
) -> Network:  # fmt: skip
    """Build a network from the weights, or from masks in their place, for the budget to count; its neurons are placeholders.

    With masks every bias counts as 1, whatever it is now: it may grow while the model trains.

    `axons` is the number of axons behind each column of a layer; 1 for layers that it leaves out.
    """

    def dense(source: str, weight: Floats, axons: int) -> Connection[Synapse]:
        return Connection(source=source, synapse=Dense(weight=np.repeat(weight, axons, axis=1)))

    zero: Floats = np.zeros(())
    neuron = LI(current_decay=zero, voltage_decay=zero, rest=zero)
    made: list[Layer] = []
    # not strict: the sources are the layers shifted by one, so the last has no partner
    for source, (name, matrix) in zip([INPUT, *layers], layers.items(), strict=False):
        weight = (matrix.weight if masks is None else masks[name]).detach().cpu().double().numpy()
        connections = [dense(source, weight[:, : matrix.n_before], axons.get(name, 1))]
        if matrix.is_recurrent:
            connections.append(dense(name, weight[:, matrix.n_before :], 1))
        bias = zero
        if matrix.bias is not None:
            bias = matrix.bias.detach().cpu().double().numpy() if masks is None else np.ones(len(weight))
        made.append(Layer(name=name, shape=(len(weight),), neuron=neuron, connections=tuple(connections), bias=bias))
    n_in = made[0].connections[0].synapse.n_in
    # any time step: this network is counted, never run
    return Network(input_shape=(n_in,), layers=tuple(made), timestep_s=1e-3)
