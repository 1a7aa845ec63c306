"""Weight widths and grids of layers: the values that weights can take on the chip, and the selection of a width.

`neurodeploy.passes.quantize.quantize` gives a layer's largest weight the largest integer of its width, and rounds the threshold
on the same scale. `WeightGrid` does the same with the same functions, on tensors for the weights that the loss sees, and on
arrays to score what rounding leaves of each synapse. The chip's output depends on weights and threshold only by their ratio, so
the threshold's rounding error goes into the weights, and the model's neurons stay as they are.

At a given price of memory the layers are independent: a layer takes the width at which its kept and rounded synapses are most
salient after their bits are paid. Where neurons are left out, fewer index bits address the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from neurodeploy.compression.synapse_selection import SliceScores, neurons_by_score, synapse_lists
from neurodeploy.compression.trainable_network import TrainableLayer, TrainableNetwork
from neurodeploy.compression.weight_matrices import StoredLists
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.ir.graph import INPUT, bias_sources
from neurodeploy.ir.network import Network, threshold_of
from neurodeploy.ir.quantized import DEFAULT_TARGET
from neurodeploy.mapping.budget import SliceBudget
from neurodeploy.passes.quantize import (
    limited_scale,
    mantissa_scale,
    state_scale,
    threshold_mantissa,
    weight_steps,
)
from neurodeploy.targets import Arithmetic, arithmetic_named, arithmetic_of, weight_widths

_CLIPS = (1.0, 0.85, 0.72, 0.61, 0.52, 0.44, 0.38, 0.32)
"""Shares of the largest weight to clip at: few synapses are that large, and a finer step serves all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightGrid:
    """Values that a layer's weights can take.

    Attributes
    ----------
    width : int
        Bits of a weight.
    largest : float
        Magnitude of the weight that takes the largest integer; larger ones are clipped. Infinite: that of the largest weight.
    is_mixed : bool
        Whether there are weights of both signs; they have even integers.
    threshold : float or None
        In the units of the weights; becomes an integer as well.
    most_scale : float
        Largest scale that the layer's states and biases allow.
    """

    width: int
    largest: float = math.inf
    is_mixed: bool = True
    threshold: float | None = None
    target: str = DEFAULT_TARGET
    most_scale: float = math.inf

    @property
    def arithmetic(self) -> Arithmetic:
        """Rounding of the target that the weights are for."""
        return arithmetic_named(self.target)

    @property
    def step(self) -> int:
        """Mantissa units between two values."""
        return self.arithmetic.weight_step(is_mixed=self.is_mixed)

    @property
    def most(self) -> int:
        """Steps from 0 to the largest value."""
        return self.arithmetic.most_steps(self.width, is_mixed=self.is_mixed)

    @property
    def scale(self) -> float:
        """Mantissa units per unit of weight."""
        # where all weights are zero, any scale rounds them to zero
        scale = float(self.step)
        if self.largest > 0:
            scale = mantissa_scale(
                self.largest, self.width, is_mixed=self.is_mixed, threshold=self.threshold, arithmetic=self.arithmetic
            )
        return limited_scale(scale, self.most_scale, self.threshold)

    @property
    def value(self) -> float:
        """Real value of one step, after the threshold has been rounded to an integer mantissa."""
        if self.threshold is None:
            return self.step / self.scale
        # the chip's threshold is an integer: its rounding error goes into the weights, so that the model's threshold can stay
        mantissa = max(int(threshold_mantissa(self.threshold, self.scale, self.arithmetic)), 1)
        return self.step * self.threshold / mantissa

    def fitted(self, least: float, most: float) -> WeightGrid:
        """The grid for weights between `least` and `most`: they have trained since it was chosen, and `quantize` sees them."""
        return replace(self, largest=min(self.largest, max(-least, most)), is_mixed=least < 0 < most)

    def round(self, weight: torch.Tensor) -> torch.Tensor:
        """Round weights to the grid; larger ones are clipped."""
        steps = weight_steps(weight, self.scale, is_mixed=self.is_mixed, arithmetic=self.arithmetic)
        # in place: `weight_steps` has made a new tensor
        return steps.clamp_(-self.most, self.most).mul_(self.value)

    def round_register(self, bias: torch.Tensor) -> torch.Tensor:
        """Round biases that are added from a register: whole numbers on the scale of the threshold."""
        return (bias * self.scale).round_().mul_(self.value / self.step)

    def saliency(self, weight: Floats) -> Floats:
        """Squared error that keeping and rounding each weight saves over pruning it: w^2 - (w - rounded)^2, at least 0."""
        nearest = self._nearest(weight)
        # w^2 - (w - q)^2 = q (2 w - q), without subtracting two nearly equal squares
        saved: Floats = np.maximum(nearest * (2 * weight - nearest), 0.0)
        return saved

    def squared_error(self, weight: Floats) -> Floats:
        """Squared rounding error of each weight."""
        distance: Floats = (weight - self._nearest(weight)) ** 2
        return distance

    def _nearest(self, weight: Floats) -> Floats:
        steps = weight_steps(weight, self.scale, is_mixed=self.is_mixed, arithmetic=self.arithmetic)
        nearest: Floats = np.clip(steps, -self.most, self.most) * self.value
        return nearest


def best_grid(weight: Floats, grid: WeightGrid) -> WeightGrid:
    """Return the grid with the clipping at which these weights, array (n,), keep most saliency when they are rounded."""
    # initial: a layer may keep no weights at all
    largest = float(np.abs(weight).max(initial=0.0))
    is_mixed = bool((weight < 0).any() and (weight > 0).any())
    # max takes the first of equals: the least clipping
    grids = [replace(grid, largest=clip * largest, is_mixed=is_mixed) for clip in _CLIPS]
    return max(grids, key=lambda one: float(one.saliency(weight).sum()))


def shared_thresholds(network: Network, levels: int = 1) -> dict[str, float]:
    """Threshold of each firing layer that has one for all its neurons, in the units of its weights as they are trained.

    Parameters
    ----------
    levels : int
        Levels of the input: weights from it, trained on intensities 0..1, are divided by this number on the chip. A layer that
        reads other layers as well is left out then: its weights are in two units.
    """
    each: dict[str, float] = {}
    biases = bias_sources(network)
    for layer in network:
        threshold = threshold_of(layer.neuron)
        from_input = {c.source == INPUT for c in layer.connections if c.source not in biases}
        if threshold is not None and threshold.min() == threshold.max() and (levels == 1 or len(from_input) == 1):
            each[layer.name] = float(threshold.max()) * (levels if True in from_input else 1)
    return each


def thresholds_of(network: TrainableNetwork, levels: int = 1) -> dict[str, float]:
    """Threshold of each layer that has one for all its neurons, in the units of its parameters."""
    return {name: value / network[name].scale for name, value in shared_thresholds(network.network, levels).items()
            if name not in network.bias_names}  # fmt: skip


@dataclass(slots=True, kw_only=True, eq=False)
class LayerRounding:
    """Rounding of all numbers of a layer as `quantize` rounds them, in the units of its weights' parameters.

    Attributes
    ----------
    layer : TrainableLayer
    profile : HardwareProfile
    threshold : float or None
        Shared threshold of its neurons in these units; None for neurons that never fire, and for those with several thresholds.
    largest_state : float
        Largest size of u or v on calibration data, in the network's units; 0 before the first calibration.
    """

    layer: TrainableLayer
    profile: HardwareProfile
    threshold: float | None = None
    largest_state: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether the layer has at most one threshold, so that one scale rounds it."""
        return self.threshold is not None or self._own_threshold is None

    @property
    def _own_threshold(self) -> float | None:
        threshold = threshold_of(self.layer.layer.neuron)
        return None if threshold is None else float(threshold.max())

    @property
    def _bias_unit(self) -> float:
        """Weight units in a unit of a bias: the levels of the input, by which weights are divided on the chip, else 1."""
        own = self._own_threshold
        return 1.0 if own is None or self.threshold is None else self.threshold * self.layer.scale / own

    @property
    def most_scale(self) -> float:
        """Largest scale that the states allow."""
        return state_scale(self.largest_state, self.profile) * self.layer.scale / self._bias_unit

    def grid(self, width: int) -> WeightGrid:
        """Grid of the layer at a width, on which its largest weight takes the largest integer."""
        target = arithmetic_of(self.profile).name
        return WeightGrid(width=width, threshold=self.threshold, target=target, most_scale=self.most_scale)

    def _parts(self, numbers: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[tuple[torch.Tensor, float, bool]]:
        """Each parameter with its unit, and whether it is added from a register."""
        for parameter in numbers:
            is_bias = parameter is self.layer.bias or parameter is self.layer.membrane_bias
            in_register = parameter is self.layer.membrane_bias or (is_bias and not self.layer.brings_biases)
            yield parameter, self._bias_unit if is_bias else 1.0, in_register

    def synapses(self, numbers: Mapping[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """All numbers, by parameter, that become synapses, (n,): the trained and the fixed weights, and biases on synapses."""
        trained = [numbers[p].flatten() * unit for p, unit, in_register in self._parts(numbers) if not in_register]
        return torch.cat([*trained, *(inlet.weight.flatten() for inlet in self.layer.inlets if inlet.is_fixed)])

    def rounded(self, numbers: Mapping[torch.Tensor, torch.Tensor], grid: WeightGrid) -> dict[torch.Tensor, torch.Tensor]:
        """Round the kept weights and the biases of the layer, by parameter, to one of its grids, at the scale of now."""
        parts = list(self._parts(numbers))
        fixed = [inlet.weight.abs().max() for inlet in self.layer.inlets if inlet.is_fixed]
        biases = [end for p, unit, in_register in parts if in_register for end in torch.aminmax(numbers[p] * unit)]
        # one transfer from a GPU for all
        least, most, *rest = torch.stack([*torch.aminmax(self.synapses(numbers)), *fixed, *biases]).tolist()
        registers = grid.arithmetic.registers
        bounds = [(registers.bias_max if bias > 0 else registers.bias_min) / bias for bias in rest[len(fixed) :] if bias]
        grid = replace(grid.fitted(least, most), most_scale=min([grid.most_scale, *bounds]))
        # fixed weights are not clipped
        grid, signs = replace(grid, largest=max([grid.largest, *rest[: len(fixed)]])), None
        if grid.is_mixed and not fixed and round(min(-least, most) * grid.scale / grid.step) == 0:
            # nothing of the weaker sign is left: `quantize` will see one sign, for which there are finer values
            grid, signs = replace(grid, is_mixed=False), (0.0, math.inf) if most > -least else (-math.inf, 0.0)

        def rounded(values: torch.Tensor, *, in_register: bool) -> torch.Tensor:
            if in_register:
                return grid.round_register(values)
            return grid.round(values if signs is None else values.clamp(*signs))

        return {p: rounded(numbers[p] * unit, in_register=in_register) / unit for p, unit, in_register in parts}


def layer_roundings(
    model: TrainableNetwork, thresholds: Mapping[str, float], profile: HardwareProfile
) -> dict[str, LayerRounding]:
    """Rounding of each layer of a model, with the thresholds that its layers have (`shared_thresholds`)."""
    return {
        layer.layer.name: LayerRounding(layer=layer, profile=profile, threshold=thresholds.get(layer.layer.name))
        for layer in model
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFormat:
    """Storage format of a layer.

    Attributes
    ----------
    grid : WeightGrid
        Width of its weights, and their values once they are rounded.
    is_rounded : bool
    rows : mapping of slice to array of int
        The neurons that stay, counted within the slice, where not all of them do.
    """

    grid: WeightGrid
    is_rounded: bool = False
    rows: Mapping[str, Integers] = MappingProxyType({})

    @property
    def width(self) -> int:
        """Bits of a weight."""
        return self.grid.width

    def n_neurons(self, part: SliceBudget) -> int:
        """Neurons of a slice that stay: index bits address no others."""
        return len(self.rows.get(part.name, range(part.neurons)))

    def state_dict(self) -> dict[str, Any]:
        """Width, clipping and rows, for a checkpoint; the rest of the grid follows from model, chip and states."""
        rows = {name: torch.from_numpy(rows) for name, rows in self.rows.items()}
        kept = ("width", "largest", "is_mixed")
        return {"grid": {name: getattr(self.grid, name) for name in kept}, "is_rounded": self.is_rounded, "rows": rows}

    def restored(self, state: Mapping[str, Any]) -> LayerFormat:
        """Return the format that `state_dict` described."""
        rows = {name: tensor.numpy() for name, tensor in state["rows"].items()}
        return LayerFormat(grid=replace(self.grid, **state["grid"]), is_rounded=state["is_rounded"], rows=rows)

    def with_neurons(self, kept: Mask, parts: Sequence[SliceBudget], among: Mask | None = None) -> LayerFormat:
        """Return the format with only the `kept` neurons, (n_neurons,), of a layer with these slices; no slice loses all.

        `among` has the neurons that may stay, all by default.
        """
        may_stay, rows = np.ones_like(kept) if among is None else among, {}
        for part in parts:
            run = slice(part.start, part.stop)
            found = np.flatnonzero(kept[run] & may_stay[run])
            if not found.size:  # a slice that would keep none stays whole
                found = np.flatnonzero(may_stay[run])
            if 0 < found.size < part.neurons:
                rows[part.name] = found
        return replace(self, rows=rows)

    def left_out(self, parts: Sequence[SliceBudget]) -> Mask:
        """Mask of the neurons that do not stay, (n_neurons,), of a layer with these slices."""
        out = np.zeros(max(part.stop for part in parts), dtype=np.bool_)
        for part in parts:
            if part.name in self.rows:
                out[part.start : part.stop] = True
                # rows count within the slice, the mask within the layer
                out[part.start + self.rows[part.name]] = False
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceSaliency:
    """Weights of a slice, or of a block of its columns, and the curvature of the loss in each, before a selection.

    Attributes
    ----------
    part : SliceBudget
    weight, curvature : array (n_neurons, n_in)
        `weight` is 0 where nothing may be kept.
    kept : array (n_neurons, n_in), bool
        Synapses kept by the last selection.
    price : float
        Shadow price of a bit on its core at the last selection.
    lists : tuple of StoredLists
        How the columns are stored.
    """

    part: SliceBudget
    weight: Floats
    curvature: Floats
    kept: Mask
    price: float = 0.0
    lists: tuple[StoredLists, ...] = (StoredLists(),)

    def scores(self, form: LayerFormat, order: Integers | None = None) -> SliceScores:
        """Score the synapses, stored in a format: the squared error that keeping each saves, times the curvature.

        `order` is that of `SliceScores`.
        """
        saved = form.grid.saliency(self.weight) if form.is_rounded else self.weight**2
        return SliceScores(
            score=saved * self.curvature, part=self.part, bits=form.width, rows=form.rows.get(self.part.name), order=order,
            lists=self.lists,
        )  # fmt: skip

    def rounding_error(self, grid: WeightGrid) -> float:
        """Squared rounding errors of the kept weights, times the curvature, summed."""
        return float((self.curvature[self.kept] * grid.squared_error(self.weight[self.kept])).sum())


def best_width(
    form: LayerFormat, slices: Sequence[SliceSaliency], profile: HardwareProfile, rounding_penalty: float = 1.0
) -> LayerFormat:
    """Return the format with the width at which the layer keeps most saliency at its slices' prices, and the grid for it.

    Parameters
    ----------
    rounding_penalty : float
        Weight of quantisation error relative to pruning error.
    """
    # sorting takes longest, and larger weights score higher at any width: one order serves all candidates
    rows = [form.rows.get(one.part.name, slice(None)) for one in slices]
    orders = [
        neurons_by_score(np.ascontiguousarray((np.abs(one.weight[own]) * np.sqrt(one.curvature[own])).T))
        for own, one in zip(rows, slices, strict=True)
    ]
    kept_weights = np.concatenate([one.weight[one.kept] for one in slices])

    def value(candidate: LayerFormat) -> float:
        pairs = zip(slices, orders, strict=True)
        saved = sum(value_at_price(one.scores(candidate, order), one.price, profile) for one, order in pairs)
        # scores count the rounding error once already
        return saved - (rounding_penalty - 1) * sum(one.rounding_error(candidate.grid) for one in slices)

    grids = [best_grid(kept_weights, replace(form.grid, width=width)) for width in weight_widths(profile)]
    return max((replace(form, grid=grid, is_rounded=True) for grid in grids), key=value)


def value_at_price(scores: SliceScores, price: float, profile: HardwareProfile) -> float:
    """Score that a slice keeps at a price per bit, less the price of its bits, in the better encoding."""
    # without the caps on axons, which do not depend on the width
    return max(float(lists.best(price)[1].clip(min=0).sum()) for lists in synapse_lists(scores, profile))
