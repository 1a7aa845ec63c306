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

    def score(self, weight: Floats) -> Floats:
        """What synapses are worth: the squared distance that each takes from the nearest network that the chip holds."""
        worth: Floats = weight**2 if self.grid is None else self.grid.worth(weight)
        return worth

    def wish(self, part: SliceBudget, weight: Floats) -> Wish:
        """A slice of the layer, given its weights (n_neurons, n_in)."""
        return Wish(score=self.score(weight), part=part, bits=self.width, rows=self.rows.get(part.name), axons=self.axons)


def widths_of(profile: HardwareProfile) -> list[int]:
    """The widths that the chip has and integers are made for, 2..8 bits."""
    return [bits for bits in profile["weight_bits"].choices if 2 <= bits <= 8]


def best_width(
    form: Form, parts: Sequence[tuple[SliceBudget, Floats, float]], survivors: Floats, profile: HardwareProfile,
    dread: float = 1.0,
) -> Form:  # fmt: skip
    """The form with the width at which the layer is worth most.

    Parameters
    ----------
    parts : sequence of (SliceBudget, array (n_neurons, n_in), float)
        The layer's slices, their weights, and the price of a bit on their cores.
    survivors : array (n,)
        The weights that survive as it stands; the grid is laid for them.
    dread : float
        How much worse a squared error of rounding is than one of a synapse left out.
    """
    # a larger weight is worth no less, at any width
    orders = [by_axon_falling(np.abs(weight[form.rows.get(part.name, slice(None))])) for part, weight, _ in parts]

    def worth(candidate: Form) -> float:
        wishes = [
            replace(candidate.wish(part, weight), order=order) for (part, weight, _), order in zip(parts, orders, strict=True)
        ]
        kept = sum(worth_at(wish, price, profile) for wish, (_, _, price) in zip(wishes, parts, strict=True))
        return kept - (dread - 1) * (0.0 if candidate.grid is None else candidate.grid.error(survivors))

    candidates = [replace(form, width=w, grid=best_grid(survivors, w, form.threshold)) for w in widths_of(profile)]
    return max(candidates, key=worth)


def worth_at(wish: Wish, price: float, profile: HardwareProfile) -> float:
    """What a slice keeps at a price, after its bits are paid, in the better encoding."""
    return max(float(lists.best(price)[1].clip(min=0).sum()) for lists in lists_of(wish, profile))
