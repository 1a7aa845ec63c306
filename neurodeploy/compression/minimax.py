"""The default method: projected training with an exact Lagrangian choice, after the minimax problem of Chen et al.

The problem, after Chen et al. 2023 (arXiv 2308.04672), with the resources R of a real chip::

    min over W, s   max over y >= 0, z >= 0    L(W) + y . ||W||_{s,2}^2 + z . (R(s) - B)

s counts the weights of a layer that should be zero, ||W||_{s,2}^2 is the sum of their squares, y prices those that are not
zero yet, z prices every resource that is over budget: a core's memory, a slice's axons. The paper descends in s and ascends in y
and z (`minimax_saddle`). This method is projected training with an exact Lagrangian choice: the loss is taken at the nearest
weights that fit, and `synapse_selection.choose_on_core` finds these, and the shadow prices z, exactly, with the saliency of a
synapse from `saliency` and the weight widths from `bit_width`. The budget in force shrinks geometrically from
what the dense model uses to the real one. Convolutions lose whole channels, and synapses where their
memory binds: `channel_selection`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch

from neurodeploy.compression.bit_width import LayerFormat, SliceSaliency, best_grid, best_width, layer_roundings
from neurodeploy.compression.channel_selection import Channels
from neurodeploy.compression.pruning_method import (
    ActiveNeurons,
    FisherDiagonal,
    Masks,
    MeasureStates,
    MemoryTrial,
    Phase,
    Pruning,
    PruningSetup,
    active_neurons,
    axons_in_force,
    constraint,
    memory_bits,
    memory_in_force,
    overruns_of,
    within_fan_out,
)
from neurodeploy.compression.synapse_selection import PRICED_RESOURCES, SynapseSelection, choose_on_core
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import (
    WeightMatrix,
    budget_per_column,
    drop_unread_synapses,
    find_layers,
    masked_network,
    substituted,
)
from neurodeploy.errors import RequestError, accept_renamed, check_arguments, check_numbers
from neurodeploy.ir.arrays import Floats, Mask
from neurodeploy.mapping.budget import Budget, SliceBudget
from neurodeploy.passes.dead_neurons import needed_neurons, without_neurons


@check_arguments
@accept_renamed({"dread_of_rounding": "rounding_penalty", "form_interval": "format_interval"})
@dataclass(frozen=True, slots=True, kw_only=True)
class MinimaxOptions:
    """Parts of the minimax method, each of which can be turned off by itself.

    Attributes
    ----------
    integers : bool
        The loss sees the kept weights rounded to the chip's integers, and the gradient goes to the weights behind them
        (straight-through). Without it, pruned weights shrink under their penalty, and all are rounded once, at the end.
    rest : bool
        With `integers`: pruned weights get no gradient, and come back when others have become smaller. Without it they learn
        from the gradient at zero, and an optimizer with normalised steps (Adam) brings some of them back by chance.
    curvature : bool
        The saliency of a synapse is its squared weight times the loss's curvature in it (`saliency.FisherDiagonal`);
        without it, the squared weight.
    widths : bool
        The width of each layer's weights is chosen from those that the chip has; without it, it is the budget's. The network
        then has to be quantised with `MinimaxPruning.widths`, as `neurodeploy.compress` does.
    idle : bool
        Neurons without kept inputs or outputs give their memory to the others, which then need fewer index bits. The network is
        within its budget once they are removed (`neurodeploy.passes.dead_neurons`), as `neurodeploy.compress` does.
    rounding_penalty : float
        Weight of quantisation error relative to pruning error when a width is chosen, at least 1: training makes up for
        pruned synapses, but rounding disturbs every step of it.
    format_interval : int
        Selections of synapses between two selections of widths and neurons.
    penalty_rate : float
        Rate of the penalty y: per step it rises by this times the share of a layer's squared weight that should be zero. With
        `integers` the loss never sees pruned weights, and 0 serves best: weights that do not shrink come back more easily.
        Without, 100 leaves little to cut at the end (1 leaves 0.2 % of the squared weight on digits, which at 7 % connectivity
        costs six points of accuracy; 100 leaves 0.001 %), and pruned weights still come back while y is small.
    """

    # Accuracy lost on MNIST at 1/8 of a core without each of the first three: 0.3, 3.6 and 0.5 points (benchmarks/RESULTS.md, d).
    integers: bool = True
    rest: bool = True
    curvature: bool = True
    widths: bool = False
    # Off: the network is within its budget only once a pass has removed idle neurons, which `fit` alone does not do.
    idle: bool = False
    # 2 counts quantisation error twice; 1 is the plain squared error.
    rounding_penalty: float = 2.0
    format_interval: int = 5
    penalty_rate: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, whole={"format_interval": 1}, real={"penalty_rate": 0, "rounding_penalty": 1})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSaliency:
    """Weights of a layer, the curvature of the loss in each, and those kept by the last selection, (n_out, n_in).

    `weight` is 0 where nothing may be kept.
    """

    weight: Floats
    curvature: Floats
    kept: Mask


COMPRESS_OPTIONS = MinimaxOptions(widths=True, idle=True)
"""Options of `neurodeploy.compress`, the command line and the benchmarks."""


@torch.no_grad()
def shrink(
    layers: Mapping[str, WeightMatrix], masks: Masks, penalties: Mapping[str, float] | Mapping[str, torch.Tensor],
    learning_rate: float,
) -> None:  # fmt: skip
    """Take the proximal step of the penalty: divide every pruned weight by 1 + 2 * learning_rate * y.

    `penalties` has y of each layer, or of each of its weights, (n_out, n_in).
    """
    for name, matrix in layers.items():
        # minimum over w of (w - v)^2 / (2 learning_rate) + y w^2, which is v / (1 + 2 learning_rate y)
        rest = 1 / (1 + 2 * learning_rate * penalties[name])
        matrix.scale(torch.where(masks[name], 1.0, rest))


@torch.no_grad()
def ascend(layers: Mapping[str, WeightMatrix], masks: Masks, penalties: dict[str, float], rate: float) -> None:
    """Raise y by `rate` times the share of the layer's squared weight that pruned weights still hold."""
    for name, matrix in layers.items():
        squared = matrix.weight.square()
        outside = float((squared * ~masks[name]).sum())
        # tiny: all weights of a layer may be zero
        penalties[name] += rate * outside / max(float(squared.sum()), torch.finfo().tiny)


class MinimaxPruning(Pruning):
    """Masks, weight formats and multipliers of the minimax method.

    Parameters
    ----------
    budget : Budget
    model : TrainableNetwork
        The method owns its weights from now on.
    options : MinimaxOptions
    thresholds : mapping of layer to float, optional
        Firing thresholds in the units of the model's weights; rounded with them.
    measure_states : callable, optional
        As in `PruningSetup`. The scales of the loss are limited by what it returns when the full budget comes into force, and
        when the compression closes.

    Attributes
    ----------
    plan : Budget
        Budget of the dense layers, counted in columns of the model's weights.
    channels : Channels
        Kept channels of the convolutions.
    masks : dict of layer to tensor (n_out, n_in), bool
        Kept synapses of the dense layers.
    formats : dict of layer to LayerFormat
        Width, grid and neurons of each.
    curvature : FisherDiagonal
    penalties : dict of layer to float
        y: the price of squared weight that is pruned but not zero.
    multipliers : dict of constraint to float
        z: the shadow price of each resource of each slice, in squared weight of mean curvature per unit of the resource.
    """

    method_name: ClassVar[str] = "minimax"
    compress_options: ClassVar[MinimaxOptions] = COMPRESS_OPTIONS
    multipliers: dict[str, float]
    largest_states: dict[str, float]
    masks: dict[str, torch.Tensor]

    def __init__(
        self, budget: Budget, model: TrainableNetwork, options: MinimaxOptions | None = None, *,
        thresholds: Mapping[str, float] = MappingProxyType({}), measure_states: MeasureStates | None = None,
    ) -> None:  # fmt: skip
        self.budget, self.model, self.options = budget, model, options or MinimaxOptions()
        self.layers = find_layers(model, budget)
        self.roundings = layer_roundings(model, thresholds, budget.profile)
        self.channels = Channels(model, budget, self.roundings if self.options.integers else {})
        self.plan = budget_per_column(self.layers, budget)
        self.masks = {name: torch.ones_like(matrix.weight, dtype=torch.bool) for name, matrix in self.layers.items()}
        self.formats = {name: LayerFormat(grid=self.roundings[name].grid(budget.weight_bits)) for name in self.layers}
        # for pruned weights too: they have to be comparable with kept ones to come back
        self.curvature = FisherDiagonal(self.layers)
        self.penalties = dict.fromkeys(self.layers, 0.0)
        self.multipliers = {constraint(part, resource): 0.0 for part in self.plan.slices for resource in PRICED_RESOURCES}
        self.largest_states, self._measure_states, self._is_calibrated = {}, measure_states, False
        self._n_choices = 0
        self._active: ActiveNeurons = {}

    @classmethod
    def for_compress(
        cls, budget: Budget, model: TrainableNetwork, setup: PruningSetup, options: MinimaxOptions | None = None
    ) -> MinimaxPruning:  # fmt: skip
        """Make the method for `neurodeploy.compress`; a width that the user asked for overrides ``options.widths``."""
        options, kind = options or cls.compress_options, type(cls.compress_options)
        if type(options) is not kind:
            raise RequestError("minimax", f"are not options of the method {cls.method_name!r}", remedy=f"Pass {kind.__name__}.")
        if setup.weight_bits is not None:
            options = replace(options, widths=False)
        return cls(budget, model, options, thresholds=setup.thresholds, measure_states=setup.measure_states)

    @property
    def connectivity(self) -> float:
        """Share of the weights that are kept, 0..1."""
        n_kept = sum(int(mask.sum()) for mask in self.masks.values()) + self.channels.n_kept
        return n_kept / (sum(mask.numel() for mask in self.masks.values()) + self.channels.n_weights)

    @property
    def widths(self) -> dict[str, int]:
        """Bits of each layer's weights; a convolution's are the budget's."""
        formats, own = self.formats, self.budget.weight_bits
        return {part.layer: formats[part.layer].width if part.layer in formats else own for part in self.budget.layers}

    @contextmanager
    def in_force(self) -> Iterator[ActiveNeurons | None]:
        """While open, the model holds the kept weights, rounded to the chip's integers; yields the neurons that matter then."""
        values = dict[torch.Tensor, torch.Tensor]()
        for name, form in self.formats.items() if self.options.integers else ():
            numbers = self._numbers(name)
            values |= self.roundings[name].rounded(numbers, form.grid) if form.is_rounded else numbers
        with self.channels.in_force(), substituted(values):
            yield self._active if self._freezes_pruned else None

    @property
    def _freezes_pruned(self) -> bool:
        return self.options.integers and self.options.rest

    def before_step(self) -> None:
        """Update the Fisher estimate from the current gradients, then zero the gradients of pruned weights."""
        if self.options.curvature:
            # First: the masks below zero the gradients that pruned weights are scored by.
            self.curvature.update()
        self.channels.before_step()
        for name, matrix in self.layers.items() if self._freezes_pruned else ():
            matrix.scale_gradient(self.masks[name])

    def _masked(self, name: str) -> torch.Tensor:
        return self.layers[name].weight.detach() * self.masks[name]

    def _numbers(self, name: str) -> dict[torch.Tensor, torch.Tensor]:
        """Kept weights of a layer, and the biases of the neurons that the plan keeps, by parameter."""
        matrix, kept = self.layers[name], self.channels.neurons.get(name)
        numbers = {inlet.weight: inlet.weight.detach() for inlet in matrix.layer.inlets if not inlet.is_fixed}
        numbers |= zip(matrix.parts, matrix.split(self._masked(name)), strict=True)
        for bias in (matrix.bias, matrix.layer.membrane_bias):
            if bias is not None:
                numbers[bias] = bias.detach() if kept is None else bias.detach() * kept
        return numbers

    def choose(self, progress: float) -> None:
        """Select the kept synapses, and with them the multipliers, under the budget in force at `progress` 0..1."""
        self._choose_formats_and_channels(progress)
        # all neurons of the plan again: one that was idle in the last selection may be useful in this one
        self._leave_out()
        self._choose_synapses(progress)
        # before the full budget is in force, a neuron without synapses may get some again
        if self.options.idle and self.layers and progress >= 1:
            self._leave_out(idle=True)
            self._choose_synapses(progress)
        self._active = active_neurons(self.model, self.layers, self.masks)

    def _choose_formats_and_channels(self, progress: float) -> None:
        """Choose what a selection of synapses starts from; formats only when they are due."""
        if progress >= 1 and not self._is_calibrated:  # once: where nothing overflows there are no states to find again
            self._calibrate()
        # Formats first: they score synapses by what rounding to them leaves. The first call (0) always chooses them.
        if self._n_choices % self.options.format_interval == 0:
            self._choose_formats()
        self._n_choices += 1
        # Channels before synapses: a removed channel takes its columns out of the selection.
        self.channels.choose(progress)

    def _calibrate(self) -> None:
        """Measure the states of the network in force; the scales of its layers are limited by them from now on."""
        self._is_calibrated = True
        if self._measure_states is not None and self.options.integers:
            with self.in_force():
                network = self.model.to_network()
            self._limit_scales(self._measure_states(network, self.widths))

    def _limit_scales(self, largest_states: Mapping[str, float]) -> None:
        self.largest_states = dict(largest_states)
        for name, rounding in self.roundings.items():
            rounding.largest_state = largest_states.get(name, 0.0)
        for name, form in self.formats.items():
            self.formats[name] = replace(form, grid=replace(form.grid, most_scale=self.roundings[name].most_scale))

    def _leave_out(self, *, idle: bool = False) -> None:
        """Leave out the neurons that the plan removes; with `idle`, also those without kept inputs or outputs.

        Others get their memory, and need fewer index bits.
        """
        needed = needed_neurons(masked_network(self.model, self.layers, self.masks)) if idle else {}
        planned = {name: mask.cpu().numpy() for name, mask in self.channels.neurons.items()}
        for name, matrix in self.layers.items():
            everything = np.ones(len(matrix.weight), dtype=np.bool_)
            self.formats[name] = self.formats[name].with_neurons(
                needed.get(name, everything), self.budget.of(name), planned.get(name)
            )

    def _choose_synapses(self, progress: float) -> None:
        """Select synapses core by core, under the budget in force."""
        saliency = self.layer_saliency()
        fan_out = self._within_fan_out(saliency, progress)
        saliency |= {name: replace(saliency[name], weight=saliency[name].weight * kept) for name, kept in fan_out.items()}
        for parts in self.plan.by_core():
            memory = memory_in_force(parts, self.budget, progress, self.layers)
            self.multipliers |= {constraint(part, resource): 0.0 for part in parts for resource in PRICED_RESOURCES}
            for part, mask, selection in self._selections([axons_in_force(part, progress) for part in parts], memory, saliency):
                mask.copy_(torch.from_numpy(selection.mask))
                for resource, price in selection.prices.items():
                    name = constraint(part, resource)
                    self.multipliers[name] = max(self.multipliers[name], price)
        removed = self._left_out()
        self.channels.mask_removed(self.layers, self.masks)
        for name, mask in self.masks.items():
            # a selection that holds everything also holds what comes from neurons that are left out
            mask &= torch.from_numpy(self.layers[name].columns_without(removed) & fan_out.get(name, True)).to(mask.device)

    def _within_fan_out(self, saliency: Mapping[str, LayerSaliency], progress: float) -> Mapping[str, Mask]:
        """Synapses that a chip's limit on fan-out allows at `progress`, by layer; empty on a chip without one."""
        if "fan_out_per_neuron" not in self.budget.profile:
            return {}
        scores = {name: one.weight**2 * one.curvature for name, one in saliency.items()}
        limit = int(self.budget.profile["fan_out_per_neuron"].number)
        return within_fan_out(self.model, self.layers, scores, limit, progress)

    def _selections(
        self, parts: Sequence[SliceBudget], memory_bits: int, saliency: Mapping[str, LayerSaliency]
    ) -> Iterator[tuple[SliceBudget, torch.Tensor, SynapseSelection]]:
        """Best synapses of the slices of a core; of each block of columns with its budget, and its part of the mask."""
        blocks = self._blocks(parts, saliency)
        scores = [one.scores(self.formats[one.part.layer]) for _, one in blocks]
        for (columns, one), selection in zip(blocks, choose_on_core(scores, memory_bits, self.budget.profile), strict=True):
            yield one.part, self.masks[one.part.layer][one.part.start : one.part.stop, columns], selection

    def _blocks(
        self, parts: Sequence[SliceBudget], saliency: Mapping[str, LayerSaliency]
    ) -> list[tuple[slice, SliceSaliency]]:  # fmt: skip
        """Blocks of columns of some slices."""
        found = []
        for block, part in (pair for one in parts for pair in self.layers[one.layer].parts_of(one)):
            at, layer = (slice(part.start, part.stop), block.columns), saliency[part.layer]
            found.append((block.columns, SliceSaliency(
                part=part, weight=layer.weight[at], curvature=layer.curvature[at], kept=layer.kept[at],
                price=self.multipliers[constraint(part, "synapse_memory_bits")], lists=block.lists,
            )))  # fmt: skip
        return found

    def _left_out(self) -> dict[str, Mask]:
        """Masks of the neurons that do not stay, (n_neurons,) by layer."""
        return {name: form.left_out(self.budget.of(name)) for name, form in self.formats.items()}

    def layer_saliency(self) -> dict[str, LayerSaliency]:
        """Weights and curvature of each layer; weights of removed channels and of left-out neurons are 0."""
        removed = self._left_out()
        curvature, saliency = self.curvature.normalized(self.masks), dict[str, LayerSaliency]()
        for name, matrix in self.layers.items():
            # a copy: rows and columns of left-out neurons are set to zero
            weight = matrix.weight.detach().cpu().double().numpy().copy()
            weight[removed[name]] = 0
            weight[:, ~matrix.columns_without(removed)] = 0
            weight[:, ~self.channels.columns(matrix).cpu().numpy()] = 0
            kept = self.masks[name].cpu().numpy()
            saliency[name] = LayerSaliency(weight=weight, curvature=curvature[name], kept=kept)
        return saliency

    @property
    def _chooses_widths(self) -> bool:
        return self.options.widths

    def _choose_formats(self) -> None:
        """Give every layer the width and grid that are best at the prices of the last selection."""
        saliency = self.layer_saliency() if self._chooses_widths else {}
        for name, form in self.formats.items() if self.options.integers else ():
            if self._chooses_widths:
                slices = [one for _, one in self._blocks(self.plan.of(name), saliency)]
                form = best_width(form, slices, self.budget.profile, self.options.rounding_penalty)
            # the grid has to suit what is kept alone; pruned weights are zero on any grid
            kept = self.roundings[name].synapses(self._numbers(name))
            weights = kept[kept != 0].cpu().double().numpy()
            self.formats[name] = replace(form, grid=best_grid(weights, form.grid), is_rounded=True)

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Update channel saliencies and the penalty while compressing; keep pruned weights at zero afterwards."""
        if phase == "compress":
            self.channels.update()
        if phase == "finetune":
            self.hold()
        elif self.options.penalty_rate:
            shrink(self.layers, self.masks, self.penalties, learning_rate)
            ascend(self.layers, self.masks, self.penalties, self.options.penalty_rate)

    @torch.no_grad()
    def hold(self) -> None:
        """Set every pruned weight to zero."""
        for name, matrix in self.layers.items():
            matrix.scale(self.masks[name])
        self.channels.hold()

    def state_dict(self) -> Mapping[str, Any]:
        """Masks, channels, formats, penalties, multipliers, curvature and states."""
        return {
            "largest_states": self.largest_states, "is_calibrated": self._is_calibrated,
            "channels": self.channels.state_dict(),
            "masks": self.masks, "formats": {name: form.state_dict() for name, form in self.formats.items()},
            "penalties": self.penalties, "multipliers": self.multipliers, "n_choices": self._n_choices,
            "curvature": self.curvature.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        for name, mask in self.masks.items():
            mask.copy_(state["masks"][name])
        self.channels.load_state_dict(state["channels"])
        self._limit_scales(state["largest_states"])
        self._is_calibrated = bool(state["is_calibrated"])
        self.formats = {name: form.restored(state["formats"][name]) for name, form in self.formats.items()}
        self.penalties, self.multipliers = dict(state["penalties"]), dict(state["multipliers"])
        self._active = active_neurons(self.model, self.layers, self.masks)
        self._n_choices = state["n_choices"]
        self.curvature.load_state_dict(state["curvature"])

    def close(self) -> None:
        """End the compression: select under the final budget, and keep that selection.

        Raises
        ------
        BudgetError
            The kept weights break the budget, counted on the weights themselves.
        """
        self._calibrate()
        self._n_choices = 0  # so that formats are chosen once more
        self.choose(1.0)
        drop_unread_synapses(self.model, self.layers, self.masks, self.budget)
        self._active = active_neurons(self.model, self.layers, self.masks)
        self.hold()
        # Counted on the weights themselves, and not on the masks that the selection counted with.
        network = self.model.to_network()
        kept = needed_neurons(network)
        self.budget.of_neurons(kept).check(without_neurons(network, kept), widths=self.widths)

    def overruns(self) -> Mapping[str, float]:
        """Usage over budget less one, of every constraint, counted on the masks; memory is a core's."""
        return {**self.channels.overruns(), **overruns_of(self.plan, self.masks, self.formats, self.layers)}

    def memory_trials(self, share: float) -> Iterator[MemoryTrial]:
        """Cores with a price on their memory, each to be tried with `share` less than its synapses take."""
        for parts in self.plan.by_core():
            if any(self.multipliers.get(constraint(part, "synapse_memory_bits"), 0.0) > 0 for part in parts):
                layers = tuple(dict.fromkeys(part.layer for part in parts))
                yield MemoryTrial(core=parts[0].core, layers=layers, apply=partial(self._with_less, parts, share))

    @contextmanager
    def _with_less(self, parts: Sequence[SliceBudget], share: float) -> Iterator[int]:
        """Mask the least salient synapses of a core's slices while open; yields the bits that they took."""
        bits = partial(memory_bits, parts, self.masks, self.formats, self.budget.profile, self.layers)
        used = bits()
        before = {part.layer: self.masks[part.layer].clone() for part in parts}
        try:
            for _, mask, selection in self._selections(parts, round(used * (1 - share)), self.layer_saliency()):
                # `&=`, because the selection may hold synapses that were pruned before: a trial only removes.
                mask &= torch.from_numpy(selection.mask).to(mask.device)
            yield used - bits()
        finally:
            for name, mask in before.items():
                self.masks[name].copy_(mask)


make_minimax = MinimaxPruning.for_compress
