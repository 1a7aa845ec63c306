"""How a model is pressed into its budget while it learns.

The problem, after Chen et al. 2023 (arXiv 2308.04672), with the resources R of a real chip, slice by slice::

    min over W, s   max over y >= 0, z >= 0    L(W) + y . ||W||_{s,2}^2 + z . (R(s) - B)

s counts the weights of a layer that should be zero, ||W||_{s,2}^2 is the sum of their squares, y prices those that are not
zero yet, z prices every resource of every slice that is over budget. Where the paper descends in s and ascends in z, the
two are solved together here, exactly: `masks.choose_synapses` finds the surviving synapses and the shadow prices at
once. The budget in force shrinks geometrically from what the dense model uses to what the slices may use.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.budgets.budget import AxonCap, Budget, SliceBudget
from neurodeploy.errors import TrainingError
from neurodeploy.graph import INPUT, Connection, layer_name
from neurodeploy.network import LI, Dense, Layer, Network, Synapse
from neurodeploy.training.masks import RESOURCES, choose_synapses, usage_of
from neurodeploy.training.pruning import Phase

PENALTY_RATE = 100.0
"""How fast y climbs: per step, by this much times the share of a layer's squared weight that should be zero.

Fast enough that little is left to cut when the compression closes (1 leaves 0.2 % of the squared weight on digits, and at
7 % connectivity costs six points of accuracy; 100 leaves 0.001 %), and pruned weights still come back while y is small.
"""


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


class Compression:
    """The constrained side of the problem: which synapses survive, and every multiplier.

    Attributes
    ----------
    survivors : dict of layer to tensor (n_out, n_in), bool
    penalties : dict of layer to float
        y: the price of squared weight outside the survivors.
    multipliers : dict of constraint to float
        z: the shadow price of each resource of each slice, in squared weight per unit of the resource.
    """

    def __init__(self, budget: Budget, model: torch.nn.Module) -> None:
        self.budget = budget
        self.layers = find_layers(model, budget)
        self.survivors = {name: torch.ones_like(module.weight, dtype=torch.bool) for name, module in self.layers.items()}
        self.penalties = dict.fromkeys(self.layers, 0.0)
        self.multipliers = {constraint(part, resource): 0.0 for part in budget.slices for resource in RESOURCES}

    @property
    def sparsities(self) -> dict[str, int]:
        """s: how many weights of each layer should be zero."""
        return {name: int((~mask).sum()) for name, mask in self.survivors.items()}

    @property
    def connectivity(self) -> float:
        """Share of the weights that survive, 0..1."""
        return 1 - sum(self.sparsities.values()) / sum(mask.numel() for mask in self.survivors.values())

    def in_force(self) -> AbstractContextManager[None]:
        """The weights themselves."""
        return nullcontext()

    def choose(self, progress: float) -> None:
        """Choose the survivors anew, and with them the multipliers, under the budget in force at `progress` 0..1."""
        for part in self.budget.slices:
            weight = self.layers[part.layer].weight.detach()[part.start : part.stop]
            score = weight.double().square().cpu().numpy()
            in_force = running(part, self.budget, progress)
            choice = choose_synapses(score, in_force, self.budget.weight_bits, self.budget.profile)
            self.survivors[part.layer][part.start : part.stop] = torch.from_numpy(choice.mask).to(weight.device)
            self.multipliers |= {constraint(part, resource): price for resource, price in choice.prices.items()}

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Press towards the survivors while compressing; hold them afterwards."""
        if phase == "finetune":
            self.hold()
        else:
            self.shrink(learning_rate)
            self.ascend()

    @torch.no_grad()
    def shrink(self, learning_rate: float) -> None:
        """The proximal map of the penalty: every weight outside the survivors is divided by 1 + 2 * learning_rate * y."""
        for name, module in self.layers.items():
            rest = 1 / (1 + 2 * learning_rate * self.penalties[name])
            module.weight.mul_(torch.where(self.survivors[name], 1.0, rest))

    @torch.no_grad()
    def ascend(self) -> None:
        """Raise y where weights that should be zero are not, by the share of the layer's squared weight that they hold."""
        for name, module in self.layers.items():
            squared = module.weight.square()
            outside = float((squared * ~self.survivors[name]).sum())
            self.penalties[name] += PENALTY_RATE * outside / max(float(squared.sum()), torch.finfo().tiny)

    @torch.no_grad()
    def hold(self) -> None:
        """Set every weight outside the survivors to zero."""
        for name, module in self.layers.items():
            module.weight.mul_(self.survivors[name])

    def state_dict(self) -> Mapping[str, Any]:
        """Survivors, penalties and multipliers."""
        return {"survivors": self.survivors, "penalties": self.penalties, "multipliers": self.multipliers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        for name, mask in self.survivors.items():
            mask.copy_(state["survivors"][name])
        self.penalties, self.multipliers = dict(state["penalties"]), dict(state["multipliers"])

    def close(self) -> None:
        """End the compression: choose under the slices' own budgets, and hold the choice.

        Raises
        ------
        BudgetError
            The surviving weights break the budget after all; the count on the weights themselves has the last word.
        """
        self.choose(1.0)
        self._forget_unheard()
        self.hold()
        self.budget.check(_as_network(self.layers))

    def _forget_unheard(self) -> None:
        """Drop the synapses onto neurons that no surviving synapse leaves: the outputs do not change, and memory comes free.

        From the last layer to the first, since a neuron forgotten may have been another's only listener. A slice is never
        emptied.
        """
        for before, after in reversed(list(pairwise(self.layers))):
            heard = self.survivors[after].any(dim=0)
            for part in self.budget.of(before):
                mask = self.survivors[before][part.start : part.stop]
                left = mask & heard[part.start : part.stop, None]
                if left.any():
                    mask.copy_(left)

    def overruns(self) -> Mapping[str, float]:
        """Usage over budget less one, of every constraint, counted on the survivors."""
        overruns = {}
        for part in self.budget.slices:
            n_synapses = self.survivors[part.layer][part.start : part.stop].sum(dim=0).cpu().numpy()
            usage, sources = usage_of(n_synapses, part, self.budget.weight_bits, self.budget.profile)
            pairs = {
                "synapse_memory_bits": [(usage.synapse_memory_bits, part.synapse_memory_bits)],
                "input_axons": [(usage.input_axons, part.input_axons)],
                "output_axons": [(used, cap.axons) for used, cap in zip(sources, part.sources, strict=True)],
            }
            for resource, counted in pairs.items():
                overruns[constraint(part, resource)] = max(used / max(limit, 1) for used, limit in counted) - 1
        return overruns


def constraint(part: SliceBudget, resource: str) -> str:
    """What a constraint is called in an `EpochRecord`, e.g. ``hidden[0:64] input_axons``."""
    return f"{part.name} {resource}"


def running(part: SliceBudget, budget: Budget, progress: float) -> SliceBudget:
    """The budget in force at `progress` 0..1: every limit shrinks geometrically from the unpruned need to the slice's own."""
    n_in = max(cap.stop for cap in part.sources)
    full, _ = usage_of(np.full(n_in, part.neurons), part, budget.weight_bits, budget.profile)
    return replace(
        part,
        synapse_memory_bits=_between(full.synapse_memory_bits, part.synapse_memory_bits, progress),
        input_axons=_between(n_in, part.input_axons, progress),
        sources=tuple(
            AxonCap(start=cap.start, stop=cap.stop, axons=_between(cap.stop - cap.start, cap.axons, progress))
            for cap in part.sources
        ),
    )


def _between(need: int, limit: int, progress: float) -> int:
    """`need` at progress 0, `limit` at 1 and beyond, geometrically between; `limit` throughout where it is not exceeded."""
    if need <= limit or progress >= 1:
        return limit
    return max(limit, int(need * (max(limit, 1) / need) ** progress))


def _as_network(layers: Mapping[str, torch.nn.Linear]) -> Network:
    """The weights as a network for the budget to count; its neurons are of no account."""
    zero: NDArray[np.float64] = np.zeros(())
    neuron = LI(current_decay=zero, voltage_decay=zero, rest=zero)
    sources = [INPUT, *layers]
    nouns: list[Layer] = []
    for source, (name, module) in zip(sources, layers.items(), strict=False):
        weight = module.weight.detach().cpu().double().numpy()
        connection: Connection[Synapse] = Connection(source=source, synapse=Dense(weight=weight))
        nouns.append(Layer(name=name, shape=(len(weight),), neuron=neuron, connections=(connection,), bias=zero))
    return Network(input_shape=(nouns[0].weight.shape[1],), layers=tuple(nouns), timestep_s=1e-3)
