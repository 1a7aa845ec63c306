"""Which modules of a model a budget's layers are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.budgets.budget import Budget
from neurodeploy.errors import TrainingError
from neurodeploy.graph import INPUT, Connection, layer_name
from neurodeploy.network import LI, Dense, Layer, Network, Synapse


def find_layers(model: torch.nn.Module, budget: Budget) -> dict[str, torch.nn.Linear]:
    """The modules of a model that the budget's layers are, by layer name.

    Raises
    ------
    TrainingError
        A layer of the budget that no `Linear` module of the model is, or one of another shape.
    """
    found = {layer_name(path): module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for part in budget.layers:
        if part.layer not in found:
            raise TrainingError(
                f"layer {part.layer!r}", "is in the budget, but no Linear module of the model",
                remedy=f"The model has {', '.join(found) or 'none'}; share the budget out for this model.",
            )  # fmt: skip
        slices = budget.of(part.layer)
        planned = (max(s.stop for s in slices), max(cap.stop for cap in slices[0].sources))
        shape = tuple(found[part.layer].weight.shape)
        if shape != planned:
            raise TrainingError(
                f"layer {part.layer!r}", f"has weights {shape}, the budget is for {planned}",
                remedy="Share the budget out for this model.",
            )  # fmt: skip
    return {part.layer: found[part.layer] for part in budget.layers}


def as_network(layers: Mapping[str, torch.nn.Linear], masks: Mapping[str, torch.Tensor] | None = None) -> Network:
    """The weights, or masks in their place, as a network for the budget to count; its neurons are of no account."""
    zero: NDArray[np.float64] = np.zeros(())
    neuron = LI(current_decay=zero, voltage_decay=zero, rest=zero)
    sources = [INPUT, *layers]
    nouns: list[Layer] = []
    for source, (name, module) in zip(sources, layers.items(), strict=False):
        weight = (module.weight if masks is None else masks[name]).detach().cpu().double().numpy()
        bias = zero if module.bias is None else module.bias.detach().cpu().double().numpy()
        connection: Connection[Synapse] = Connection(source=source, synapse=Dense(weight=weight))
        nouns.append(Layer(name=name, shape=(len(weight),), neuron=neuron, connections=(connection,), bias=bias))
    return Network(input_shape=(nouns[0].weight.shape[1],), layers=tuple(nouns), timestep_s=1e-3)
