"""The paper's penalty: y, the price of squared weight outside the survivors, presses towards zero what should be zero.

How a model is pressed into its budget while it learns.

The problem, after Chen et al. 2023 (arXiv 2308.04672), with the resources R of a real chip::

    min over W, s   max over y >= 0, z >= 0    L(W) + y . ||W||_{s,2}^2 + z . (R(s) - B)

s counts the weights of a layer that should be zero, ||W||_{s,2}^2 is the sum of their squares, y prices those that are not
zero yet, z prices every resource that is over budget: a core's memory, a slice's axons. Where the paper descends in s and
ascends in z, the two are solved together here, exactly: `masks.choose_on_core` finds the surviving synapses and the shadow
prices at once, each synapse worth what the loss would mind, `curvature`; `forms` has the widths. The budget in force shrinks
geometrically from what the dense model uses to what it may use. Convolutions keep their synapses and lose channels, as many as
the budget has no room for: `channels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from neurodeploy.compression.bit_width import Form, Standing, best_grid, best_width
from neurodeploy.compression.channels import Channels
from neurodeploy.compression.constraints import axons_in_force, constraint, memory_bits, memory_in_force, overruns_of
from neurodeploy.compression.method import Phase
from neurodeploy.compression.saliency import Curvature, Live, live_of
from neurodeploy.compression.synapse_selection import RESOURCES, choose_on_core
from neurodeploy.compression.weight_matrices import (
    Matrix,
    as_network,
    find_layers,
    forget_unheard,
    in_terms_of,
    standing_in,
    within,
)
from neurodeploy.mapping.budget.budget import Budget, SliceBudget
from neurodeploy.passes.dead_neurons import live_neurons, without_neurons
from neurodeploy.training.options import MinimaxOptions

# -------------------- training.penalties

Survivors = Mapping[str, torch.Tensor]


@torch.no_grad()
def shrink(layers: Mapping[str, Matrix], survivors: Survivors, penalties: Mapping[str, float], learning_rate: float) -> None:
    """The proximal map of the penalty: every weight outside the survivors is divided by 1 + 2 * learning_rate * y."""
    for name, matrix in layers.items():
        rest = 1 / (1 + 2 * learning_rate * penalties[name])
        matrix.scale(torch.where(survivors[name], 1.0, rest))


@torch.no_grad()
def ascend(layers: Mapping[str, Matrix], survivors: Survivors, penalties: dict[str, float], rate: float) -> None:
    """Raise y where weights that should be zero are not, by the share of the layer's squared weight that they hold."""
    for name, matrix in layers.items():
        squared = matrix.weight.square()
        outside = float((squared * ~survivors[name]).sum())
        penalties[name] += rate * outside / max(float(squared.sum()), torch.finfo().tiny)


# -------------------- training.minimax


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
    plan : Budget
        That of the dense layers, in the model's columns.
    channels : Channels
        Which of the convolutions' survive.
    survivors : dict of layer to tensor (n_out, n_in), bool
        The synapses of dense layers.
    forms : dict of layer to Form
        Width, values and neurons of each.
    curvature : Curvature
        How much the loss minds each weight.
    penalties : dict of layer to float
        y: the price of squared weight outside the survivors.
    multipliers : dict of constraint to float
        z: the shadow price of each resource of each slice, in squared weight of mean curvature per unit of the resource.
    """

    def __init__(
        self, budget: Budget, model: torch.nn.Module, options: MinimaxOptions | None = None, *,
        thresholds: Mapping[str, float] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.budget, self.options = budget, options or MinimaxOptions()
        self.layers = {name: Matrix(module) for name, module in find_layers(model, budget).items()}
        self.channels = Channels(model, budget, thresholds if self.options.integers else {})
        self.plan, self._axons = in_terms_of(self.layers, self.channels.n_channels, budget)
        self._biased = {part.layer for part in self.plan.slices if part.biases and self._axons[part.layer] == 1}
        self.survivors = {name: torch.ones_like(matrix.weight, dtype=torch.bool) for name, matrix in self.layers.items()}
        self.forms = {
            name: Form(width=budget.weight_bits, grid=None, rows={}, threshold=thresholds.get(name), axons=self._axons[name])
            for name in self.layers
        }
        self.curvature = Curvature(self.layers)
        self.penalties = dict.fromkeys(self.layers, 0.0)
        self.multipliers = {constraint(part, resource): 0.0 for part in self.plan.slices for resource in RESOURCES}
        self._chosen = 0
        self._live: Live = {}

    @property
    def connectivity(self) -> float:
        """Share of the weights that survive, 0..1."""
        n_alive = sum(int(mask.sum()) for mask in self.survivors.values()) + self.channels.n_alive
        return n_alive / (sum(mask.numel() for mask in self.survivors.values()) + self.channels.n_weights)

    @property
    def widths(self) -> dict[str, int]:
        """Bits of each layer's weights; a convolution's are the budget's."""
        forms, own = self.forms, self.budget.weight_bits
        return {part.layer: forms[part.layer].width if part.layer in forms else own for part in self.budget.layers}

    @contextmanager
    def in_force(self) -> Iterator[Live | None]:
        """The nearest network that the chip holds: the survivors, rounded to its integers; and the neurons that matter in it."""
        with self.channels.in_force(), self._rounded() if self.options.integers else nullcontext():
            yield self._live if self._others_rest else None

    @property
    def _others_rest(self) -> bool:
        return self.options.integers and self.options.rest

    def _rounded(self) -> AbstractContextManager[None]:
        biases = {
            bias: grid.beside(bias.detach(), self._surviving(name))
            for name in self._biased
            if (bias := self.layers[name].bias) is not None and (grid := self.forms[name].grid) is not None
        }
        return standing_in(self.layers, {name: self._on_chip(name) for name in self.layers}, biases)

    def before_step(self) -> None:
        """Hear how much the loss minds each weight, then take the gradients from those that are to rest."""
        if self.options.curvature:
            self.curvature.listen()
        for name, matrix in self.layers.items() if self._others_rest else ():
            matrix.scale_gradient(self.survivors[name])

    def _surviving(self, name: str) -> torch.Tensor:
        return self.layers[name].weight.detach() * self.survivors[name]

    def _on_chip(self, name: str) -> torch.Tensor:
        grid, weight = self.forms[name].grid, self._surviving(name)
        return weight if grid is None else grid.rounded(weight)

    def choose(self, progress: float) -> None:
        """Choose the survivors anew, and with them the multipliers, under the budget in force at `progress` 0..1."""
        if self._chosen % self.options.form_interval == 0:
            self._choose_forms()
        self._chosen += 1
        self.channels.choose(progress)
        if self.options.idle:
            self.forms = {name: replace(form, rows={}) for name, form in self.forms.items()}
        self._choose_survivors(progress)
        if self.options.idle and self.layers and progress >= 1:  # before that they may yet be heard
            self._leave_out_idle()
            self._choose_survivors(progress)

    def _leave_out_idle(self) -> None:
        """Leave neurons out that nobody hears, or that hear nobody: the memory goes to others, told apart by fewer bits."""
        for name, kept in live_neurons(as_network(self.layers, self.survivors)).items():
            self.forms[name] = self.forms[name].with_neurons(kept, self.budget.of(name))

    def _choose_survivors(self, progress: float) -> None:
        """Choose on each core, under the budget in force."""
        standing = self.standing()
        for parts in self.plan.by_core():
            memory = memory_in_force(parts, self.budget, progress, self._axons)
            wishes = [standing[p.layer].wish(self.forms[p.layer], axons_in_force(p, progress)) for p in parts]
            for part, choice in zip(parts, choose_on_core(wishes, memory, self.budget.profile), strict=True):
                mask = self.survivors[part.layer]
                mask[part.start : part.stop] = torch.from_numpy(choice.mask).to(mask.device)
                self.multipliers |= {constraint(part, resource): price for resource, price in choice.prices.items()}
        for name, mask in self.survivors.items():
            if (columns := self.channels.columns(name)) is not None:
                mask &= columns
        self._live = live_of(self.layers, self.survivors)

    def standing(self) -> dict[str, Standing]:
        """The weights that there is a choice of: not those of channels that are gone, nor of neurons left out for being idle."""
        inside = within(self.layers, {name: form.left_out(self.budget.of(name)) for name, form in self.forms.items()})
        curvature, standing = self.curvature.beside(self.survivors), dict[str, Standing]()
        for name, matrix in self.layers.items():
            weight = np.where(inside[name], matrix.weight.detach().cpu().double().numpy(), 0.0)
            if (columns := self.channels.columns(name)) is not None:
                weight[:, ~columns.cpu().numpy()] = 0
            standing[name] = Standing(weight=weight, curvature=curvature[name])
        return standing

    def _choose_forms(self) -> None:
        """Give every layer the form that is best at the prices of the last choice."""
        standing = self.standing() if self.options.widths else {}
        for name, form in self.forms.items() if self.options.integers else ():
            if self.options.widths:
                survives = self.survivors[name].cpu().numpy()
                prices = [(p, self.multipliers[constraint(p, RESOURCES[0])]) for p in self.plan.of(name)]
                stakes = [standing[name].stake(p, survives, price) for p, price in prices]
                form = best_width(form, stakes, self.budget.profile, self.options.dread_of_rounding)
            surviving = self._surviving(name)[self.survivors[name]].cpu().double().numpy()
            self.forms[name] = replace(form, grid=best_grid(surviving, form.width, form.threshold))

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Hear what channels would be missed, and press towards the survivors if a penalty is asked for; hold them afterwards."""
        if phase == "compress":
            self.channels.listen()
        if phase == "finetune":
            self.hold()
        elif self.options.penalty_rate:
            shrink(self.layers, self.survivors, self.penalties, learning_rate)
            ascend(self.layers, self.survivors, self.penalties, self.options.penalty_rate)

    @torch.no_grad()
    def hold(self) -> None:
        """Set every weight outside the survivors to zero."""
        for name, matrix in self.layers.items():
            matrix.scale(self.survivors[name])
        self.channels.hold()

    def state_dict(self) -> Mapping[str, Any]:
        """Survivors, channels, forms, penalties and multipliers."""
        return {
            "channels": self.channels.state_dict(),
            "survivors": self.survivors, "forms": {name: form.state_dict() for name, form in self.forms.items()},
            "penalties": self.penalties, "multipliers": self.multipliers, "chosen": self._chosen,
            "curvature": self.curvature.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        for name, mask in self.survivors.items():
            mask.copy_(state["survivors"][name])
        self.channels.load_state_dict(state["channels"])
        self.forms = {name: form.as_of(state["forms"][name]) for name, form in self.forms.items()}
        self.penalties, self.multipliers = dict(state["penalties"]), dict(state["multipliers"])
        self._live = live_of(self.layers, self.survivors)
        self._chosen = state["chosen"]
        self.curvature.load_state_dict(state["curvature"])

    def close(self) -> None:
        """End the compression: choose under the slices' own budgets, and hold the choice.

        Raises
        ------
        BudgetError
            The surviving weights break the budget after all; the count on the weights themselves has the last word.
        """
        self._chosen = 0
        self.choose(1.0)
        forget_unheard(self.layers, self.survivors, self.budget)
        self._live = live_of(self.layers, self.survivors)
        self.hold()
        if not self.layers:
            return
        network = as_network(self.layers, axons=self._axons)
        kept = live_neurons(network)
        self.budget.of_neurons(kept).check(without_neurons(network, kept), widths=self.widths)

    def overruns(self) -> Mapping[str, float]:
        """Usage over budget less one, of every constraint, counted on the survivors; memory is a core's."""
        return {**self.channels.overruns(), **overruns_of(self.plan, self.survivors, self.forms)}

    def memory_bits(self, parts: Sequence[SliceBudget]) -> int:
        """Synapse memory that the survivors of some slices of the plan take."""
        return memory_bits(parts, self.survivors, self.forms, self.budget.profile)
