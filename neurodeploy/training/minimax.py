"""How a model is pressed into its budget while it learns.

The problem, after Chen et al. 2023 (arXiv 2308.04672), with the resources R of a real chip::

    min over W, s   max over y >= 0, z >= 0    L(W) + y . ||W||_{s,2}^2 + z . (R(s) - B)

s counts the weights of a layer that should be zero, ||W||_{s,2}^2 is the sum of their squares, y prices those that are not
zero yet, z prices every resource that is over budget: a core's memory, a slice's axons. Where the paper descends in s and
ascends in z, the two are solved together here, exactly: `masks.choose_on_core` finds the surviving synapses and the shadow
prices at once; `forms` has the widths. The budget in force shrinks geometrically from what the dense model
uses to what it may use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.budgets.budget import Budget, SliceBudget
from neurodeploy.resources.usage import count
from neurodeploy.training.forms import Form, best_width
from neurodeploy.training.integers import best_grid
from neurodeploy.training.lists import Wish
from neurodeploy.training.masks import RESOURCES, choose_on_core
from neurodeploy.training.modules import as_network, find_layers
from neurodeploy.training.options import MinimaxOptions
from neurodeploy.training.pruning import Phase
from neurodeploy.training.schedule import axons_in_force, constraint, memory_in_force
from neurodeploy.trimming import live_neurons, without_neurons


class Compression:
    """The constrained side of the problem: which synapses survive, in which form, and every multiplier.

    Parameters
    ----------
    budget : Budget
    model : torch.nn.Module
        Its weights are the method's from now on.
    options : MinimaxOptions
    thresholds : mapping of layer to float, optional
        Of neurons that fire, in the units of the model; rounded with the weights.

    Attributes
    ----------
    survivors : dict of layer to tensor (n_out, n_in), bool
    forms : dict of layer to Form
        Width, values and neurons of each.
    penalties : dict of layer to float
        y: the price of squared weight outside the survivors.
    multipliers : dict of constraint to float
        z: the shadow price of each resource of each slice, in squared weight per unit of the resource.
    """

    def __init__(
        self, budget: Budget, model: torch.nn.Module, options: MinimaxOptions | None = None, *,
        thresholds: Mapping[str, float] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.budget, self.options = budget, options or MinimaxOptions()
        self.layers = find_layers(model, budget)
        self.survivors = {name: torch.ones_like(module.weight, dtype=torch.bool) for name, module in self.layers.items()}
        self.forms = {
            name: Form(width=budget.weight_bits, grid=None, rows={}, threshold=thresholds.get(name)) for name in self.layers
        }
        self.penalties = dict.fromkeys(self.layers, 0.0)
        self.multipliers = {constraint(part, resource): 0.0 for part in budget.slices for resource in RESOURCES}
        self._chosen = 0

    @property
    def sparsities(self) -> dict[str, int]:
        """s: how many weights of each layer should be zero."""
        return {name: int((~mask).sum()) for name, mask in self.survivors.items()}

    @property
    def connectivity(self) -> float:
        """Share of the weights that survive, 0..1."""
        return 1 - sum(self.sparsities.values()) / sum(mask.numel() for mask in self.survivors.values())

    @property
    def widths(self) -> dict[str, int]:
        """Bits of each layer's weights."""
        return {name: form.width for name, form in self.forms.items()}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The nearest network that the chip holds: the survivors, rounded to its integers, who alone learn if the others rest."""
        if not self.options.integers:
            yield
            return
        own = {name: module.weight.data for name, module in self.layers.items()}
        try:
            for name, module in self.layers.items():
                module.weight.data = self._on_chip(name)
            yield
            self._let_rest()
        finally:
            for name, module in self.layers.items():
                module.weight.data = own[name]

    def _let_rest(self) -> None:
        """Take the gradients, if there are any, from weights that do not survive."""
        for name, module in self.layers.items() if self.options.rest else ():
            if module.weight.grad is not None:
                module.weight.grad.mul_(self.survivors[name])

    def _on_chip(self, name: str) -> torch.Tensor:
        grid, weight = self.forms[name].grid, self.layers[name].weight.detach() * self.survivors[name]
        return weight if grid is None else grid.rounded(weight)

    def choose(self, progress: float) -> None:
        """Choose the survivors anew, and with them the multipliers, under the budget in force at `progress` 0..1."""
        if self._chosen % self.options.form_interval == 0:
            self._choose_forms()
        self._chosen += 1
        if self.options.idle:
            self.forms = {name: replace(form, rows={}) for name, form in self.forms.items()}
        self._choose_survivors(progress)
        if self.options.idle and progress >= 1:  # before that, they may yet be heard
            self._leave_out_idle()
            self._choose_survivors(progress)

    def _choose_survivors(self, progress: float) -> None:
        profile, weights = self.budget.profile, self._weights()
        for parts in self._by_core():
            wishes = [self._wish(part, weights, progress) for part in parts]
            memory = memory_in_force(parts, self.budget, progress)
            for part, choice in zip(parts, choose_on_core(wishes, memory, profile), strict=True):
                mask = self.survivors[part.layer]
                mask[part.start : part.stop] = torch.from_numpy(choice.mask).to(mask.device)
                self.multipliers |= {constraint(part, resource): price for resource, price in choice.prices.items()}

    def _by_core(self) -> list[list[SliceBudget]]:
        cores = defaultdict[int, list[SliceBudget]](list)
        for part in self.budget.slices:
            cores[part.core].append(part)
        return list(cores.values())

    def _weights(self) -> dict[str, NDArray[np.float64]]:
        """The weights that there is a choice of: not those of neurons that are left out for being idle."""
        weights: dict[str, NDArray[np.float64]] = {}
        silent: NDArray[np.bool_] | slice = slice(0)
        for name, module in self.layers.items():
            weight = module.weight.detach().cpu().double().numpy().copy()
            weight[:, silent] = 0
            silent = self._left_out(name)
            weight[silent] = 0
            weights[name] = weight
        return weights

    def _left_out(self, name: str) -> NDArray[np.bool_]:
        out = np.zeros(len(self.survivors[name]), dtype=np.bool_)
        for part in self.budget.of(name):
            if part.name in self.forms[name].rows:
                out[part.start : part.stop] = True
                out[part.start + self.forms[name].rows[part.name]] = False
        return out

    def _leave_out_idle(self) -> None:
        """Leave neurons out that nobody hears, or that hear nobody: the memory goes to others, told apart by fewer bits."""
        for name, live in live_neurons(as_network(self.layers, self.survivors)).items():
            rows = {part.name: np.flatnonzero(live[part.start : part.stop]) for part in self.budget.of(name)}
            fewer = {part.name: rows[part.name] for part in self.budget.of(name) if 0 < rows[part.name].size < part.neurons}
            self.forms[name] = replace(self.forms[name], rows={**self.forms[name].rows, **fewer})

    def _wish(self, part: SliceBudget, weights: Mapping[str, NDArray[np.float64]], progress: float) -> Wish:
        return self.forms[part.layer].wish(axons_in_force(part, progress), weights[part.layer][part.start : part.stop])

    def _choose_forms(self) -> None:
        """Give every layer the form that is best at the prices of the last choice."""
        weights, profile = self._weights(), self.budget.profile
        for name, form in self.forms.items() if self.options.integers else ():
            surviving = weights[name][self.survivors[name].cpu().numpy()]
            self.forms[name] = replace(form, grid=best_grid(surviving, form.width, form.threshold))
            if self.options.widths:
                parts = [(p, weights[name][p.start : p.stop], self._price(p)) for p in self.budget.of(name)]
                self.forms[name] = best_width(self.forms[name], parts, surviving, profile, self.options.dread_of_rounding)

    def _price(self, part: SliceBudget) -> float:
        return self.multipliers[constraint(part, "synapse_memory_bits")]

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Press towards the survivors while compressing, if a penalty is asked for; hold them afterwards."""
        if phase == "finetune":
            self.hold()
        elif self.options.penalty_rate:
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
            self.penalties[name] += self.options.penalty_rate * outside / max(float(squared.sum()), torch.finfo().tiny)

    @torch.no_grad()
    def hold(self) -> None:
        """Set every weight outside the survivors to zero."""
        for name, module in self.layers.items():
            module.weight.mul_(self.survivors[name])

    def state_dict(self) -> Mapping[str, Any]:
        """Survivors, forms, penalties and multipliers."""
        return {
            "survivors": self.survivors, "forms": {name: form.state_dict() for name, form in self.forms.items()},
            "penalties": self.penalties, "multipliers": self.multipliers, "chosen": self._chosen,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        for name, mask in self.survivors.items():
            mask.copy_(state["survivors"][name])
        self.forms = {name: Form.of_state(state["forms"][name], form.threshold) for name, form in self.forms.items()}
        self.penalties, self.multipliers = dict(state["penalties"]), dict(state["multipliers"])
        self._chosen = state["chosen"]

    def close(self) -> None:
        """End the compression: choose under the slices' own budgets, and hold the choice.

        Raises
        ------
        BudgetError
            The surviving weights break the budget after all; the count on the weights themselves has the last word.
        """
        self._chosen = 0
        self.choose(1.0)
        self._forget_unheard()
        self.hold()
        network = as_network(self.layers)
        kept = live_neurons(network)
        self.budget.of_neurons(kept).check(without_neurons(network, kept), widths=self.widths)

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
        """Usage over budget less one, of every constraint, counted on the survivors; memory is a core's."""
        overruns, profile = {}, self.budget.profile
        for parts in self._by_core():
            memory = 0
            for part in parts:
                n_synapses = self.survivors[part.layer][part.start : part.stop].sum(dim=0).cpu().numpy()
                form = self.forms[part.layer]
                n_neurons = len(form.rows.get(part.name, range(part.neurons)))
                memory += count(n_synapses, n_neurons, form.width, profile).synapse_memory_bits
                heard = n_synapses > 0
                from_sources = [heard[cap.start : cap.stop].sum() / max(cap.axons, 1) for cap in part.sources]
                overruns[constraint(part, "input_axons")] = float(heard.sum()) / max(part.input_axons, 1) - 1
                overruns[constraint(part, "output_axons")] = float(max(from_sources)) - 1
            limit = sum(part.synapse_memory_bits for part in parts)
            overruns |= {constraint(part, "synapse_memory_bits"): memory / max(limit, 1) - 1 for part in parts}
        return overruns
