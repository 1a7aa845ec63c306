"""In which form a layer's synapses are stored: how wide its weights are, and which of its neurons stay.

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

from neurodeploy.budgets.budget import SliceBudget
from neurodeploy.hardware import HardwareProfile
from neurodeploy.training.integers import Grid, best_grid
from neurodeploy.training.lists import Wish, by_axon_falling, lists_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
