"""The saddle point of Chen et al. 2023 (arXiv 2308.04672), step by step as the paper takes it, with a chip's limits as resources.

    min over W, s   max over y >= 0, z >= 0    L(W) + y . ||W||_{s,2}^2 + z . (R(ceil s) / B - 1)

s counts the weights of a slice that should be zero, its smallest; ||W||_{s,2}^2 is the sum of their squares, as a share of the
whole network's; y prices it. R has the memory of every core and, where they bind, the axons of every slice, as the chip counts
them; z prices each. Axons vanish with whole columns, so slices short of axons have a second s, which counts columns.

After each step of the optimizer comes the proximal step on W. Every few steps s descends, straight through its ceiling,
and y and z ascend, several times at the same W. The budget in force falls in stages, the paper's nodes, each the same share of
the one before. `close` fits the weights into the budget exactly, with the selection of `MinimaxPruning`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning, shrink
from neurodeploy.compression.pruning_method import (
    Phase,
    active_neurons,
    axons_in_force,
    constraint,
    memory_in_force,
    slice_memory_bits,
)
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import RequestError, check_arguments, check_numbers
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.mapping.budget import Budget, SliceBudget

_LARGEST_STEP = 0.2
"""Share of what is left that one step of s may prune or bring back."""
_WIDTHS_UNTIL = 0.5
"""Share of the way on which widths are chosen. Digits at 1/256 of a core: 91.5 % with 1.0, which gave a readout of 8 bits, 95.5 %
with 5 bits for all (one seed, on held-out training data)."""
_HALVINGS = 6
"""Bisections of a step of s that would prune more than the budget asks for."""


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True)
class MinimaxSaddleOptions(MinimaxOptions):
    """Options of the saddle point method: those of `MinimaxOptions`, two of them as in the paper, and the paper's own.

    Rates are for the whole way to the budget, progress 0 to 1, so that they do not depend on the number of steps.

    Attributes
    ----------
    integers : bool
        The loss sees the kept weights rounded to the chip's integers; without it, L(W) of all weights as they are.
    rest : bool
        False, as in the paper: weights that should be zero learn too, against their penalty.
    curvature : bool
        False, as in the paper; the method by its name has it. With it, squared weights are weighted by the curvature of the
        loss, as `minimax` weights them.
    penalty_rate : float
        Rate of y.
    nodes : int
        Budgets on the way, at least 1.
    inner_steps : int
        Steps of s, y and z at the same weights, at least 1.
    sparsity_rate, price_rate : float
        Rates of s and z.
    initial_penalty, initial_price : float
        y and z to begin with.
    scope : "slice" or "network"
        One s and y for each slice, or one for all, as in the authors' code.
    """

    rest: bool = False
    curvature: bool = False
    # 1000, and 10 and 1 to begin with, are the authors' own.
    penalty_rate: float = 1e3
    nodes: int = 8
    inner_steps: int = 10
    sparsity_rate: float = 40.0
    price_rate: float = 400.0
    initial_penalty: float = 10.0
    initial_price: float = 1.0
    scope: Literal["slice", "network"] = "slice"

    def __post_init__(self) -> None:
        MinimaxOptions.__post_init__(self)  # not super(): a dataclass with slots is another class than the one in its methods
        rates = ("sparsity_rate", "price_rate", "initial_penalty", "initial_price")
        check_numbers(self, whole={"nodes": 1, "inner_steps": 1}, real=dict.fromkeys(rates, 0))
        if self.scope not in ("slice", "network"):
            raise RequestError("scope", f"is {self.scope!r}", remedy="Choose from slice, network.")


# Layers on a core share its memory, and their squared weights do not compare: 64-128-1000 on four cores ends at chance by them.
COMPRESS_SADDLE_OPTIONS = MinimaxSaddleOptions(widths=True, idle=True, curvature=True)
"""Options of the method by its name."""


def bottom_norm(squares: Floats, s: float) -> tuple[float, float]:
    """Sum of the ceil(s) smallest squares, and its slope in s: what one more would add, through the ceiling.

    Parameters
    ----------
    squares : array (n,)
        Ascending.
    s : float
        0..n - 1.
    """
    n = math.ceil(s)
    return float(squares[:n].sum()), float(squares[n])


@dataclass(kw_only=True, eq=False)
class Sparsity:
    """A number s of weights, or of axons, that should be zero, and the price y of those that are not.

    Attributes
    ----------
    parts : tuple of SliceBudget
        Slices whose synapses it counts together.
    columns : slice or None
        Columns of the one slice whose axons it counts.
    s, y : float
    squares : array (n,)
        Squared weight of each synapse or axon, ascending.
    ranks : mapping of slice to array (n_neurons, n_columns) or (n_columns,)
        Their places in that order; those below ceil(s) should be zero.
    """

    parts: tuple[SliceBudget, ...]
    columns: slice | None = None
    s: float = 0.0
    y: float
    squares: Floats = field(init=False, repr=False)
    ranks: Mapping[str, Integers] = field(init=False, repr=False)

    def rank(self, scores: Mapping[str, Floats]) -> None:
        """Rank by squared weights, (n_neurons, n_columns) of each slice."""
        each = [scores[part.name] if self.columns is None else scores[part.name][:, self.columns].sum(axis=0)
                for part in self.parts]  # fmt: skip
        together = np.concatenate([one.ravel() for one in each])
        # stable: ties go to the lower index on every machine
        order = np.argsort(together, kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(order.size)
        self.squares = together[order]
        shaped = np.split(ranks, np.cumsum([one.size for one in each])[:-1])
        self.ranks = {part.name: r.reshape(one.shape) for part, r, one in zip(self.parts, shaped, each, strict=True)}

    def bottom(self, part: SliceBudget, s: float) -> Mask:
        """Mask of the slice's synapses or columns that should be zero."""
        return self.ranks[part.name] < math.ceil(s)


@dataclass(kw_only=True, eq=False)
class PricedLimit:
    """A limit of the chip on some slices, and its price z.

    Attributes
    ----------
    parts : tuple of SliceBudget
    resource : str
    columns : slice or None
        Columns whose axons count; None for memory.
    allowed : float
        The budget in force.
    z : float
    """

    parts: tuple[SliceBudget, ...]
    resource: str
    columns: slice | None = None
    allowed: float = math.inf
    z: float


class SaddlePoint:
    """Sparsities and prices of slices that share limits: those of a core, or of the network.

    Attributes
    ----------
    sparsities : tuple of Sparsity
    limits : tuple of PricedLimit
    bits : callable
        Synapse memory of a slice by the number of synapses in each column (n_columns,).
    total : float
        Sum of all squared weights of the network, which bottom norms are shares of.
    """

    def __init__(
        self, sparsities: Sequence[Sparsity], limits: Sequence[PricedLimit], bits: Callable[[SliceBudget, Integers], int]
    ) -> None:  # fmt: skip
        self.sparsities, self.limits, self.bits, self.total = tuple(sparsities), tuple(limits), bits, 1.0
        self.parts = {part.name: part for one in sparsities for part in one.parts}
        self._largest: dict[str, int] = {}

    def rank(self, scores: Mapping[str, Floats], total: float) -> None:
        """Rank all sparsities by squared weights, (n_neurons, n_columns) of each slice; `total` is their sum in the network."""
        for one in self.sparsities:
            one.rank(scores)
        self._largest = {name: int(scores[name].argmax()) for name in self.parts}
        self.total = max(total, float(np.finfo(np.float64).tiny))

    def masks(self, s: Floats) -> dict[str, Mask]:
        """Kept synapses of each slice, (n_neurons, n_columns), at sparsities `s`; the largest is always kept."""
        kept: dict[str, Mask] = {}
        for one, value in zip(self.sparsities, s, strict=True):
            for part in one.parts:
                mask = kept.setdefault(part.name, np.ones((part.neurons, max(c.stop for c in part.sources)), dtype=np.bool_))
                mask[:, slice(None) if one.columns is None else one.columns] &= ~one.bottom(part, value)
        for name, mask in kept.items():
            mask.flat[self._largest[name]] = True
        return kept

    def usage(self, s: Floats) -> tuple[Floats, Floats]:
        """What is used of each limit, (n_limits,), and the part of it that shrinks with each sparsity's weights or axons.

        The second, (n_limits, n_sparsities), over what is left is the secant of R from here to nothing left: R itself is a step
        function, whose derivative is zero almost everywhere.
        """
        synapses = {name: mask.sum(axis=0) for name, mask in self.masks(s).items()}
        bits = {name: self.bits(self.parts[name], n) for name, n in synapses.items()}
        shares = np.zeros((len(self.limits), len(self.sparsities)))
        used = np.zeros(len(self.limits))
        for k, limit in enumerate(self.limits):
            for part in limit.parts:
                axons = synapses[part.name] > 0
                n_axons = int(axons.sum())
                whole = bits[part.name] if limit.columns is None else int(axons[limit.columns].sum())
                used[k] += whole
                for i, one in enumerate(self.sparsities):
                    if part not in one.parts:
                        continue
                    if one.columns is None:  # single synapses empty no columns
                        shares[k, i] += whole if limit.columns is None else 0
                    elif limit.columns is None:
                        shares[k, i] += whole * axons[one.columns].sum() / n_axons
                    else:
                        first, last = max(one.columns.start, limit.columns.start), min(one.columns.stop, limit.columns.stop)
                        shares[k, i] += axons[first:last].sum() if first < last else 0
        return used, shares

    def slopes(self, s: Floats) -> Floats:
        """Derivative of the objective by each s, (n_sparsities,), straight through the ceilings."""
        _, shares = self.usage(s)
        left = self._n - s
        held = np.array([one.y * bottom_norm(one.squares, value)[1] for one, value in zip(self.sparsities, s, strict=True)])
        prices = np.array([limit.z / max(limit.allowed, 1) for limit in self.limits])
        down: Floats = held / self.total - prices @ shares / left
        return down

    @property
    def _n(self) -> Floats:
        return np.array([one.squares.size for one in self.sparsities], dtype=np.float64)

    def advance(self, size: float, options: MinimaxSaddleOptions) -> None:
        """Take one step, `size` of the whole way: s descends, then y and z ascend.

        s is stepped relative to what is left (its derivative times the square of that): a thousand synapses of a million and ten
        of ten thousand are one step each. Within the budget a step ends where it is used up; z sees where it would have gone,
        which damps the two.
        """
        s = np.array([one.s for one in self.sparsities])
        allowed, left = np.array([max(limit.allowed, 1) for limit in self.limits]), self._n - s
        step = np.clip(-options.sparsity_rate * size * left**2 * self.slopes(s), -_LARGEST_STEP * left, _LARGEST_STEP * left)
        ahead, _ = self.usage(self._within(s + step))
        s = (
            self._least_pruning(s - _LARGEST_STEP * left, s + step, allowed)
            if (ahead <= allowed).all()
            else self._within(s + step)
        )
        for one, chosen in zip(self.sparsities, s, strict=True):
            one.s = float(chosen)
            one.y += options.penalty_rate * size * bottom_norm(one.squares, one.s)[0] / self.total
        for limit, used in zip(self.limits, ahead, strict=True):
            limit.z = max(limit.z + options.price_rate * size * (float(used) / max(limit.allowed, 1) - 1), 0.0)

    def _within(self, s: Floats) -> Floats:
        inside: Floats = np.clip(s, 0, self._n - 1)
        return inside

    def _least_pruning(self, least: Floats, most: Floats, allowed: Floats) -> Floats:
        """First sparsities within the budget on the way from `least` to `most`, which are within it."""
        low, high = -1.0, 1.0  # the first share tried is 0
        for _ in range(1 + _HALVINGS):
            share = (low + high) / 2
            used, _ = self.usage(self._within(least + share * (most - least)))
            low, high = (low, share) if (used <= allowed).all() else (share, high)
            if high == 0:
                break
        return self._within(least + high * (most - least))

    def prices(self) -> dict[str, float]:
        """Price of a unit of each constraint, in squared weight: z over the budget, over y; the highest of a name's."""
        found: dict[str, float] = {}
        for limit in self.limits:
            for part in limit.parts:
                name = constraint(part, limit.resource)
                of_part = [one for one in self.sparsities if part in one.parts]
                # synapses where memory is limited, otherwise the columns
                one = next((one for one in of_part if (one.columns is None) == (limit.columns is None)), of_part[0])
                price = limit.z * self.total / (max(limit.allowed, 1) * one.y) if one.y > 0 else 0.0
                found[name] = max(found.get(name, 0.0), price)
        return found


class MinimaxSaddlePruning(MinimaxPruning):
    """Masks, sparsities, penalties and prices of the saddle point method; formats, channels and the end are `MinimaxPruning`'s.

    Attributes
    ----------
    points : tuple of SaddlePoint
        One for each core, or one for the network.
    progress : float
        Of the last choice.
    pulls : dict of layer to tensor (n_out, n_in)
        y of each weight that should be zero, summed where a synapse and its axon should be; 0 for the others.
    """

    method_name = "minimax-saddle"
    compress_options = COMPRESS_SADDLE_OPTIONS
    options: MinimaxSaddleOptions

    def __init__(
        self, budget: Budget, model: TrainableNetwork, options: MinimaxSaddleOptions | None = None, **setup: Any
    ) -> None:  # fmt: skip
        options = options or MinimaxSaddleOptions()
        super().__init__(budget, model, options, **setup)
        cores = self.plan.by_core()
        groups = cores if options.scope == "slice" else [[part for parts in cores for part in parts]]
        self.points = tuple(self._saddle_point(parts, options) for parts in groups if parts)
        self.progress, self._is_closing = 0.0, False
        self.pulls = {name: torch.zeros_like(matrix.weight).detach() for name, matrix in self.layers.items()}

    def _saddle_point(self, parts: Sequence[SliceBudget], options: MinimaxSaddleOptions) -> SaddlePoint:
        """Variables of some slices at their start."""
        cores: dict[int, list[SliceBudget]] = {}
        for part in parts:
            cores.setdefault(part.core, []).append(part)
        z, y = options.initial_price, options.initial_penalty
        limits = [PricedLimit(parts=tuple(on_core), resource="synapse_memory_bits", z=z) for on_core in cores.values()]
        sparsities = []
        # a dense encoding stores whole columns: pruning single synapses of them saves nothing
        lists = "sparse" in self.budget.profile["encodings"].names
        if lists:
            sparsities = [Sparsity(parts=tuple(parts), y=y)]
            if options.scope == "slice":
                sparsities = [Sparsity(parts=(part,), y=y) for part in parts]
        for part in parts:
            n_in = max(cap.stop for cap in part.sources)
            caps = [slice(cap.start, cap.stop) for cap in part.sources]
            binds = part.input_axons < n_in or any(cap.axons < cap.stop - cap.start for cap in part.sources)
            if binds or not lists:
                sparsities += [Sparsity(parts=(part,), columns=columns, y=y) for columns in caps]
            if binds:
                limits.append(PricedLimit(parts=(part,), resource="input_axons", columns=slice(0, n_in), z=z))
                limits += [PricedLimit(parts=(part,), resource="output_axons", columns=columns, z=z) for columns in caps]
        return SaddlePoint(sparsities, limits, self._bits)

    def _bits(self, part: SliceBudget, n_synapses: Integers) -> int:
        form = self.formats[part.layer]
        return slice_memory_bits(part, n_synapses, form.n_neurons(part), form.width, self.budget.profile, self.layers)

    def choose(self, progress: float) -> None:
        """Step s, y and z under the budget of the node that `progress` lies in, and mask what should be zero."""
        if self._is_closing:
            super().choose(progress)
            return
        self._choose_formats_and_channels(progress)
        if self.channels.neurons:
            self._leave_out()
        nodes = self.options.nodes
        node = min(math.floor(progress * nodes) + 1, nodes) / nodes
        size, self.progress = max(progress - self.progress, 0.0) / self.options.inner_steps, progress
        scores = self._scores()
        total = sum(float(score.sum()) for score in scores.values())
        for point in self.points:
            point.rank(scores, total)
            for limit in point.limits:
                limit.allowed = self._allowed(limit, node)
            for _ in range(self.options.inner_steps if size else 0):
                point.advance(size, self.options)
            self.multipliers |= point.prices()
            self._take(point)
        self.channels.mask_removed(self.layers, self.masks)
        # before the full budget is in force, a neuron without synapses may get some again
        if self.options.idle and self.layers and progress >= 1:
            self._leave_out(idle=True)
        self._active = active_neurons(self.model, self.layers, self.masks)

    @property
    def _chooses_widths(self) -> bool:
        # Later the prices that widths are chosen at fall towards zero: what should be zero is, and one more bit gains nothing.
        return self.options.widths and self.progress < _WIDTHS_UNTIL and not self._is_closing

    def _choose_synapses(self, progress: float) -> None:
        """Select exactly, by squared weights: what has shrunk below half a step of its grid still fills memory that is left."""
        formats = self.formats
        self.formats = {name: replace(form, is_rounded=False) for name, form in formats.items()}
        super()._choose_synapses(progress)
        self.formats = formats

    def _allowed(self, limit: PricedLimit, progress: float) -> float:
        if limit.columns is None:
            return memory_in_force(limit.parts, self.budget, progress, self.layers)
        part = axons_in_force(limit.parts[0], progress)
        if limit.resource == "input_axons":
            return part.input_axons
        return next(cap.axons for cap in part.sources if cap.start == limit.columns.start)

    def _scores(self) -> dict[str, Floats]:
        """Squared weights of each slice, (n_neurons, n_columns), times the curvature where that counts."""
        found, saliency = {}, self.layer_saliency()
        for part in self.plan.slices:
            rows = slice(part.start, part.stop)
            found[part.name] = saliency[part.layer].weight[rows] ** 2
            if self.options.curvature:
                found[part.name] *= saliency[part.layer].curvature[rows]
        return found

    def _take(self, point: SaddlePoint) -> None:
        """Set masks and pulls from the sparsities."""
        s = np.array([one.s for one in point.sparsities])
        for name, kept in point.masks(s).items():
            part = point.parts[name]
            pull = np.zeros(kept.shape)
            for one in point.sparsities:
                if part in one.parts:
                    pull[:, slice(None) if one.columns is None else one.columns] += one.y * one.bottom(part, one.s)
            mask, pulls = self.masks[part.layer], self.pulls[part.layer]
            mask[part.start : part.stop] = torch.from_numpy(kept).to(mask.device)
            pulls[part.start : part.stop] = torch.from_numpy(pull * ~kept).to(pulls)

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Take the proximal step: divide every weight that should be zero by 1 + 2 * learning_rate * y."""
        if phase == "finetune":
            self.hold()
            return
        self.channels.update()
        shrink(self.layers, self.masks, self.pulls, learning_rate)

    def close(self) -> None:
        """End the compression: select exactly under the final budget, as `MinimaxPruning` does."""
        self._is_closing = True
        super().close()

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with s, y and z."""
        return {
            **super().state_dict(),
            "progress": self.progress, "pulls": self.pulls,
            "sparsities": [[one.s, one.y] for point in self.points for one in point.sparsities],
            "prices": [limit.z for point in self.points for limit in point.limits],
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        super().load_state_dict(state)
        self.progress = float(state["progress"])
        for name, pulls in self.pulls.items():
            pulls.copy_(state["pulls"][name])
        sparsities = [one for point in self.points for one in point.sparsities]
        for one, (s, y) in zip(sparsities, state["sparsities"], strict=True):
            one.s, one.y = float(s), float(y)
        for limit, z in zip([limit for point in self.points for limit in point.limits], state["prices"], strict=True):
            limit.z = float(z)


make_minimax_saddle = MinimaxSaddlePruning.for_compress
