"""The chip's weights, while they are still learning.

`neurodeploy.passes.quantize.quantize` gives a layer's largest weight the largest integer of its width, and rounds the threshold
on the same scale. The same rule stands here, twice: on tensors, for the weights that the loss sees, and on arrays, for what
rounding leaves of each synapse's worth. What the chip computes depends on weights and threshold only by their ratio, so
the threshold's rounding is put into the weights, and the model's neurons stay as they are.

In which form a layer's synapses are stored: how wide its weights are, and which of its neurons stay.

At a given price of memory the layers fall apart, and so do the forms: a layer takes the width at which its synapses, kept
and rounded, are worth most after their bits are paid. Where neurons have fallen idle, fewer bits of index tell the others apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.compression.synapse_selection import Wish, by_axon_falling, lists_of
from neurodeploy.errors import unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.network import LI, LIF, Network
from neurodeploy.mapping.budget.budget import SliceBudget
from neurodeploy.passes.quantize import mantissa_scale, mantissa_step, most_steps, threshold_mantissa, weight_steps

# -------------------- training.integers


_CLIPS = (1.0, 0.85, 0.72, 0.61, 0.52, 0.44, 0.38, 0.32)
"""Shares of the largest weight to clip at that are tried: few synapses are that large, and each bit counts for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The values that a layer's weights can take.

    Attributes
    ----------
    width : int
        Bits of a weight.
    largest : float
        The weight that takes the largest integer; larger ones are clipped.
    is_mixed : bool
        Weights of both signs have even integers.
    threshold : float or None
        In the units of the weights; becomes an integer as well.
    """

    width: int
    largest: float
    is_mixed: bool = True
    threshold: float | None = None

    @property
    def most(self) -> int:
        """Steps from 0 to the largest value."""
        return most_steps(self.width, is_mixed=self.is_mixed)

    @property
    def scale(self) -> float:
        """Mantissa units per unit of weight."""
        if self.largest > 0:
            return mantissa_scale(self.largest, self.width, is_mixed=self.is_mixed, threshold=self.threshold)
        return float(mantissa_step(is_mixed=self.is_mixed))  # all weights are zero: any scale rounds them to zero

    @property
    def value(self) -> float:
        """Real value of one step, after the threshold has been rounded to an integer mantissa."""
        if self.threshold is None:
            return mantissa_step(is_mixed=self.is_mixed) / self.scale
        # the chip's threshold is an integer: its rounding error goes into the weights, so that the model's threshold can stay
        mantissa = max(int(threshold_mantissa(self.threshold, self.scale)), 1)
        return mantissa_step(is_mixed=self.is_mixed) * self.threshold / mantissa

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest values to surviving weights; the largest of these takes the largest integer, if nothing is clipped."""
        return self.beside(weight, weight)

    def beside(self, bias: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The nearest values to biases that come by a synapse of their own, on the scale of surviving weights."""
        least, most = torch.stack(torch.aminmax(weight)).tolist()  # a GPU is waited for once
        grid = replace(self, largest=min(self.largest, max(-least, most)), is_mixed=least < 0 < most)
        steps = weight_steps(bias, grid.scale, is_mixed=grid.is_mixed)
        return steps.clamp_(-grid.most, grid.most).mul_(grid.value)

    def worth(self, weight: Floats) -> Floats:
        """How much nearer a layer comes to its weights, in squared distance, by each synapse that is kept and rounded."""
        kept = self._nearest(weight)
        nearer: Floats = np.maximum(kept * (2 * weight - kept), 0.0)
        return nearer

    def error(self, weight: Floats) -> Floats:
        """The squared distance of each weight from the grid."""
        distance: Floats = (weight - self._nearest(weight)) ** 2
        return distance

    def _nearest(self, weight: Floats) -> Floats:
        nearest: Floats = np.clip(weight_steps(weight, self.scale, is_mixed=self.is_mixed), -self.most, self.most) * self.value
        return nearest


def best_grid(weight: Floats, width: int, threshold: float | None = None, clips: Sequence[float] = _CLIPS) -> Grid:
    """The grid of a width that weights, array (n,), are nearest to."""
    largest = float(np.abs(weight).max(initial=0.0))
    is_mixed = bool((weight < 0).any() and (weight > 0).any())
    grids = [Grid(width=width, largest=clip * largest, is_mixed=is_mixed, threshold=threshold) for clip in clips]
    return max(grids, key=lambda grid: float(grid.worth(weight).sum()))


def one_threshold_each(network: Network, levels: int = 1) -> dict[str, float]:
    """The threshold of each layer that fires at one for all its neurons, in the units of its weights as they are trained.

    Parameters
    ----------
    levels : int
        Of the input: the first layer's weights, trained on intensities 0..1, are divided by it on the chip.
    """
    each: dict[str, float] = {}
    for layer in network:
        match layer.neuron:
            case LIF(threshold=threshold):
                if threshold.min() == threshold.max():
                    each[layer.name] = float(threshold.max())
            case LI():
                pass  # it never fires
            case _:
                raise unsupported_kind(layer.neuron)
    return {name: threshold * levels if name == network.layers[0].name else threshold for name, threshold in each.items()}


# -------------------- training.forms


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a layer is stored.

    Attributes
    ----------
    width : int
        Bits of a weight.
    grid : Grid or None
        Its weights' values; None where they are not rounded yet.
    rows : mapping of slice to array of int
        The neurons that stay, counted within the slice, where not all of them do.
    threshold : float, optional
        Of its neurons, where they fire at one; rounded with the weights.
    axons : int
        Behind each column of its weights.
    """

    width: int
    grid: Grid | None
    rows: Mapping[str, Integers]
    threshold: float | None = None
    axons: int = 1

    def state_dict(self) -> dict[str, Any]:
        """What changes, as a checkpoint holds it."""
        state: dict[str, Any] = {"width": self.width, "rows": {name: torch.from_numpy(rows) for name, rows in self.rows.items()}}
        return state if self.grid is None else state | {"largest": self.grid.largest, "is_mixed": int(self.grid.is_mixed)}

    def as_of(self, state: Mapping[str, Any]) -> Form:
        """The form of the layer that a checkpoint holds."""
        width, rows = state["width"], {name: tensor.numpy() for name, tensor in state["rows"].items()}
        grid = None
        if "largest" in state:
            grid = Grid(width=width, largest=state["largest"], is_mixed=bool(state["is_mixed"]), threshold=self.threshold)
        return replace(self, width=width, grid=grid, rows=rows)

    def with_neurons(self, live: NDArray[np.bool_], parts: Sequence[SliceBudget]) -> Form:
        """The form with only these neurons, (n_neurons,), of a layer with these slices; no slice loses all."""
        rows = {part.name: np.flatnonzero(live[part.start : part.stop]) for part in parts}
        return replace(self, rows={part.name: rows[part.name] for part in parts if 0 < rows[part.name].size < part.neurons})

    def left_out(self, parts: Sequence[SliceBudget]) -> NDArray[np.bool_]:
        """(n_neurons,): the neurons that do not stay, of a layer with these slices."""
        out = np.zeros(max(part.stop for part in parts), dtype=np.bool_)
        for part in parts:
            if part.name in self.rows:
                out[part.start : part.stop] = True
                out[part.start + self.rows[part.name]] = False
        return out

    def wish(self, part: SliceBudget, weight: Floats, curvature: Floats) -> Wish:
        """A slice of the layer, given its weights, and how much the loss minds each, both (n_neurons, n_in).

        A synapse is worth the squared distance that it takes from the nearest network that the chip holds, times the curvature.
        """
        nearer = weight**2 if self.grid is None else self.grid.worth(weight)
        rows = self.rows.get(part.name)
        return Wish(score=nearer * curvature, part=part, bits=self.width, rows=rows, axons=self.axons)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stake:
    """What a slice has at stake in the form of its layer.

    Attributes
    ----------
    part : SliceBudget
    weight, curvature : array (n_neurons, n_in)
        Its weights, and how much the loss minds each.
    survives : array (n_neurons, n_in), bool
        Which of them do as it stands.
    price : float
        Of a bit on its core.
    """

    part: SliceBudget
    weight: Floats
    curvature: Floats
    survives: NDArray[np.bool_]
    price: float

    @property
    def surviving(self) -> Floats:
        """(n,): the weights that survive."""
        return self.weight[self.survives]

    def error(self, grid: Grid) -> float:
        """What rounding those costs: their squared distances from the grid, times the curvature."""
        return float((self.curvature[self.survives] * grid.error(self.surviving)).sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """How the weights of a layer stand before a choice.

    Attributes
    ----------
    weight, curvature : array (n_out, n_in)
        Those that there is a choice of, 0 elsewhere; and how much the loss minds each.
    """

    weight: Floats
    curvature: Floats

    def wish(self, form: Form, part: SliceBudget) -> Wish:
        """What a slice of it asks of its core, in a form."""
        rows = slice(part.start, part.stop)
        return form.wish(part, self.weight[rows], self.curvature[rows])

    def stake(self, part: SliceBudget, survives: NDArray[np.bool_], price: float) -> Stake:
        """What a slice has at stake, given which of the layer's weights survive, and the price of a bit on the core."""
        rows = slice(part.start, part.stop)
        return Stake(
            part=part, weight=self.weight[rows], curvature=self.curvature[rows], survives=survives[rows], price=price,
        )  # fmt: skip


def widths_of(profile: HardwareProfile) -> list[int]:
    """The widths that the chip has and integers are made for, 2..8 bits."""
    return [bits for bits in profile["weight_bits"].choices if 2 <= bits <= 8]


def best_width(form: Form, stakes: Sequence[Stake], profile: HardwareProfile, dread: float = 1.0) -> Form:
    """The form with the width at which the layer is worth most, at the prices of its slices; its grid is laid for the survivors.

    Parameters
    ----------
    dread : float
        How much worse an error of rounding is than one of a synapse left out.
    """
    # a larger weight is worth no less, at any width, so far as the loss minds them alike
    sizes = [np.abs(stake.weight) * np.sqrt(stake.curvature) for stake in stakes]
    orders = [
        by_axon_falling(size[form.rows.get(stake.part.name, slice(None))]) for size, stake in zip(sizes, stakes, strict=True)
    ]
    survivors = np.concatenate([stake.surviving for stake in stakes])

    def worth(candidate: Form) -> float:
        kept = lost = 0.0
        for stake, order in zip(stakes, orders, strict=True):
            wish = replace(candidate.wish(stake.part, stake.weight, stake.curvature), order=order)
            kept += worth_at(wish, stake.price, profile)
            lost += 0.0 if candidate.grid is None else stake.error(candidate.grid)
        return kept - (dread - 1) * lost

    candidates = [replace(form, width=w, grid=best_grid(survivors, w, form.threshold)) for w in widths_of(profile)]
    return max(candidates, key=worth)


def worth_at(wish: Wish, price: float, profile: HardwareProfile) -> float:
    """What a slice keeps at a price, after its bits are paid, in the better encoding."""
    return max(float(lists.best(price)[1].clip(min=0).sum()) for lists in lists_of(wish, profile))
