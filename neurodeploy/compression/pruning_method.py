"""The protocol of a pruning method, and the constraints that masks have to meet.

A pruning method owns the weights of a model while it is trained into a budget. `neurodeploy.fit` calls it at fixed points of the
training loop; `neurodeploy.compress` deploys what it leaves. CONTRIBUTING.md says how to add one.

While a model is compressed, every limit in force shrinks geometrically from what the unpruned model needs to what it may use.

Saliency of synapses is by the Fisher diagonal of the loss.
Removing a weight w costs the loss h w^2 / 2 to second order, h being the curvature of the loss in it (LeCun et al. 1990,
"Optimal brain damage"). Near a minimum h is in expectation the squared gradient: the diagonal of the Fisher information (Theis
et al. 2018, arXiv 1801.05787). Every backward pass provides it, for pruned weights as well.

A hidden neuron without kept outputs changes no answer, and one without kept inputs never fires: neither has to be calculated
while pruned weights get no gradient. A strongly pruned network keeps 200 to 400 of 800 neurons.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch

from neurodeploy.compression.bit_width import LayerFormat
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import WeightMatrix, masked_network
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, Mask
from neurodeploy.ir.network import Network
from neurodeploy.mapping.budget import Budget, SliceBudget
from neurodeploy.passes.dead_neurons import needed_neurons
from neurodeploy.resources.usage import count, most_targets

_FISHER_RATE = 0.02
"""Weight of the latest step in the moving average: it covers about fifty steps."""
_FISHER_FLOOR = 1e-6
"""Share of a layer's mean added to every weight: where no gradient arrives, larger weights still rank above smaller ones."""
_DENSE_ENOUGH = 0.9
"""Share of active neurons above which all are calculated: taking rows out of a matrix costs time too."""


class Weighted(Protocol):
    """Weights, and the gradient of the loss in them; None before the first backward pass."""

    @property
    def weight(self) -> torch.Tensor: ...
    @property
    def gradient(self) -> torch.Tensor | None: ...


class FisherDiagonal:
    """Moving average of squared gradients, layer by layer.

    Parameters
    ----------
    layers : mapping of name to weights, such as a WeightMatrix

    Attributes
    ----------
    means : dict of name to tensor of the weights' shape
    steps : int
        Number of updates.
    """

    def __init__(self, layers: Mapping[str, Weighted]) -> None:
        self.layers, self.steps = layers, 0
        self.means = {name: torch.zeros_like(matrix.weight).detach() for name, matrix in layers.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the current gradients into the averages."""
        # before the division below: 1 / steps is 1 at the first update
        self.steps += 1
        for name, matrix in self.layers.items():
            if (gradient := matrix.gradient) is not None:
                # a plain mean at first, so that the zeros of the start do not bias it
                self.means[name].lerp_(gradient.square(), max(_FISHER_RATE, 1 / self.steps))

    def normalized(self, masks: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
        """Curvature of each layer, (n_out, n_in), over the geometric mean of its own mean and that of all layers; ones at first.

        Means are weighted by the squared kept weights. With no normalisation by layer, a readout takes all memory where much is
        pruned at once; with the full one, readouts get too little: the geometric mean lies between.

        Parameters
        ----------
        masks : mapping of layer to tensor (n_out, n_in), bool
        """
        means = {name: mean.double() + _FISHER_FLOOR * mean.mean() for name, mean in self.means.items()}
        squares = {name: self.layers[name].weight.detach().double().square() * mask for name, mask in masks.items()}
        costs = {name: float((means[name] * square).sum()) for name, square in squares.items()}
        sums = {name: float(square.sum()) for name, square in squares.items()}
        # before the first gradient, or where a layer keeps no weight: nothing to normalise by
        if not (costs and all(costs.values())):
            return {name: np.ones(tuple(mean.shape)) for name, mean in means.items()}
        # The root between layers had 98.38 % on held-out MNIST at 1/16 of a core; full normalisation 98.12 and 97.99, none 98.03
        # (benchmarks/RESULTS.md, d).
        of_all = sum(costs.values()) / sum(sums.values())
        # geometric mean of the layer's own mean curvature and that of all
        units = {name: (of_all * costs[name] / sums[name]) ** 0.5 for name in means}
        return {name: (mean / units[name]).cpu().numpy() for name, mean in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Averages and the number of updates."""
        return {"means": self.means, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self.steps = state["steps"]
        for name, mean in self.means.items():
            # copy_ keeps the device; a checkpoint is read onto the CPU
            mean.copy_(state["means"][name])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeuronSubset:
    """Some neurons of a layer.

    Attributes
    ----------
    numbers : tensor (n,), int64
        Ascending, within 0..of-1.
    of : int
        Number of neurons of the layer.
    """

    numbers: torch.Tensor
    of: int

    def spread(self, signal: torch.Tensor) -> torch.Tensor:
        """Scatter (..., n) into (..., of), zero for the other neurons."""
        return signal.new_zeros(*signal.shape[:-1], self.of).index_copy(-1, self.numbers, signal)


ActiveNeurons: TypeAlias = Mapping[str, NeuronSubset]
"""Neurons that have to be calculated, by layer; all neurons of layers that are not in it."""


def active_neurons(
    model: TrainableNetwork, layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor]
) -> ActiveNeurons:  # fmt: skip
    """Find the neurons with kept inputs and outputs, of layers where skipping the others saves time."""
    found = {}
    for name, kept in (needed_neurons(masked_network(model, layers, masks)) if layers else {}).items():
        # with no needed neuron at all the layer is run whole: its product would have no rows
        if name in layers and 0 < kept.sum() <= _DENSE_ENOUGH * kept.size:
            numbers = torch.from_numpy(np.flatnonzero(kept)).to(masks[name].device)
            found[name] = NeuronSubset(numbers=numbers, of=kept.size)
    return found


# in the order in which they run: `fit` compares positions
Phase = Literal["dense", "compress", "finetune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTrial:
    """A core at its memory limit, and a trial of less memory.

    Attributes
    ----------
    core : int
    layers : tuple of str
        Layers with synapses on the core.
    apply : callable
        Returns a context manager that yields the bits saved; while it is open, the core's synapses take that much less memory.
    """

    core: int
    layers: tuple[str, ...]
    apply: Callable[[], AbstractContextManager[int]]


class Pruning(Protocol):
    """Decide which weights to keep, and when. `neurodeploy.compression.minimax.MinimaxPruning` is the built-in method.

    A subclass has to define the abstract members; the others do nothing unless it overrides them.
    """

    @property
    @abstractmethod
    def connectivity(self) -> float:
        """Share of the weights that are kept, 0..1."""

    @property
    @abstractmethod
    def widths(self) -> Mapping[str, int]:
        """Bits of a weight of each layer, as the network is quantised in the end."""

    multipliers: Mapping[str, float] = MappingProxyType({})
    """Shadow price of each constraint; empty for a method without prices. Names end with the resource, as in `overruns`."""

    largest_states: Mapping[str, float] = MappingProxyType({})
    """Largest size of u or v of each layer, by which the loss limits the scale of its weights; empty where it does not."""

    @abstractmethod
    def overruns(self) -> Mapping[str, float]:
        """Usage over budget less one, of every constraint, at least one; names end with the resource, ``hidden input_axons``."""

    def in_force(self) -> AbstractContextManager[ActiveNeurons | None]:
        """While open, the model's weights are those that the loss sees and that are deployed in the end.

        A method that trains other weights than it deploys (rounded or masked ones) swaps these in and its own back
        afterwards; gradients found meanwhile are taken for its own weights. It may yield the neurons that have to be calculated:
        the others change no output of these weights, and get no gradient.
        """
        return nullcontext()

    @abstractmethod
    def choose(self, progress: float) -> None:
        """Choose which weights to keep: every `FitOptions.mask_interval` steps of the compress phase.

        `progress` runs from 0 to 1, where the full budget is in force, and beyond.
        """

    def before_step(self) -> None:
        """Read or change the gradients of a step, summed over all processes, before the optimizer takes it."""

    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Follow the optimizer's step, in the compress and finetune phases."""

    def memory_trials(self, share: float) -> Iterator[MemoryTrial]:  # noqa: ARG002  # for methods that override it
        """Trials of `share` (0..1) less memory, one for each core at its memory limit; none by default."""
        return iter(())

    @abstractmethod
    def state_dict(self) -> Mapping[str, Any]:
        """State for a checkpoint: tensors, numbers, texts, and mappings and lists of them. Weights are kept by the loop."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Resume from what `state_dict` returned."""

    @abstractmethod
    def close(self) -> None:
        """End the compression: from here on the kept weights stay, and are within the budget.

        Raises
        ------
        BudgetError
            They are not.
        """


PruningFactory: TypeAlias = "Callable[[Budget, TrainableNetwork], Pruning]"
"""Makes a method for `fit`, from a budget and the model whose weights it owns from then on."""


MeasureStates: TypeAlias = "Callable[[Network, Mapping[str, int]], Mapping[str, float]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningSetup:
    """Inputs of a pruning method in addition to the budget and the model, as `compress` passes them.

    Attributes
    ----------
    thresholds : mapping of layer to float
        Firing threshold of each layer that has one for all its neurons, in the units of the model's weights; a method that
        rounds while it trains rounds it with the weights.
    weight_bits : int or None
        Width of all weights that the user asked for; None where the method may choose one for each layer.
    measure_states : callable, optional
        Takes a network and its widths by layer, and returns the largest size of u or v of each layer on calibration data; empty
        where no state can leave its register.
    """

    thresholds: Mapping[str, float] = MappingProxyType({})
    weight_bits: int | None = None
    measure_states: MeasureStates | None = None


PruningMethod: TypeAlias = "Callable[[Budget, TrainableNetwork, PruningSetup], Pruning]"
"""Makes a method for `compress`."""


Masks = Mapping[str, torch.Tensor]
Formats = Mapping[str, LayerFormat]


def constraint(part: SliceBudget, resource: str) -> str:
    """Name of a constraint in an `EpochRecord`, e.g. ``hidden[0:64] input_axons``."""
    return f"{part.name} {resource}"


def axons_in_force(part: SliceBudget, progress: float) -> SliceBudget:
    """Return a slice with the caps on axons in force at `progress` 0..1."""
    # caps cover the inputs without gaps, so the last one ends at their number
    n_in = max(cap.stop for cap in part.sources)
    return replace(
        part,
        input_axons=between(n_in, part.input_axons, progress),
        sources=tuple(replace(cap, axons=between(cap.stop - cap.start, cap.axons, progress)) for cap in part.sources),
    )


def memory_in_force(
    parts: Sequence[SliceBudget], budget: Budget, progress: float, layers: Mapping[str, WeightMatrix] = MappingProxyType({})
) -> int:
    """Synapse memory in bits of a core with these slices at `progress` 0..1.

    `layers` tells how columns are stored; of layers that it leaves out each has one list.
    """
    full = 0
    for part in parts:
        # every column has a synapse onto each neuron of the slice
        neurons = min(part.neurons, max(most_targets(budget.profile), part.kept_neurons))
        synapses = np.full(max(cap.stop for cap in part.sources), neurons)
        full += slice_memory_bits(part, synapses, neurons, budget.weight_bits, budget.profile, layers)
    return between(full, sum(part.synapse_memory_bits for part in parts), progress)


def between(need: int, limit: int, progress: float) -> int:
    """Interpolate geometrically: `need` at progress 0, `limit` from 1 on; `limit` throughout where the need is within it."""
    if need <= limit or progress >= 1:
        return limit
    # 1 in place of a limit of 0, which no geometric path reaches; int() may fall below the limit
    return max(limit, int(need * (max(limit, 1) / need) ** progress))


def within_fan_out(
    model: TrainableNetwork, layers: Mapping[str, WeightMatrix], scores: Mapping[str, Floats], limit: int, progress: float = 1.0
) -> dict[str, Mask]:
    """Masks (n_out, n_in) of the synapses that each neuron may keep by a limit on its fan-out: those of highest score.

    What is never pruned counts first: fixed connections, and those of convolutions. The best synapse of each layer stays.

    Parameters
    ----------
    scores : mapping of layer to array (n_out, n_in)
        One for each of `layers`.
    progress : float
        0..1; the limit is in force from 1 on.
    """
    allowed = {name: np.ones(score.shape, dtype=np.bool_) for name, score in scores.items()}
    best = {name: np.arange(score.size).reshape(score.shape) == np.argmax(score) for name, score in scores.items()}
    trained = {inlet: block for matrix in layers.values() for block in matrix.blocks for inlet in block.inlets}
    for source in model.network:
        fixed, found = np.zeros(source.n_neurons, dtype=np.int64), list[tuple[str, Integers]]()
        for layer in model:
            for connection, inlet in layer.pairs():
                if connection.source == source.name and inlet is not None and inlet in trained:
                    places = np.arange(source.n_neurons) if inlet.places is None else inlet.places.cpu().numpy()
                    found.append((layer.layer.name, trained[inlet].start + places))
                elif connection.source == source.name:
                    fixed += connection.synapse.fan_out()
        if not found:
            continue
        ranked = np.concatenate([np.where(best[name], np.inf, scores[name])[:, columns] for name, columns in found])
        most = between(len(ranked) + int(fixed.max()), limit, progress)
        # stable: ties go to the first layer and neuron on every machine
        order, kept = np.argsort(-ranked, axis=0, kind="stable"), np.zeros(ranked.shape, dtype=np.bool_)
        np.put_along_axis(kept, order, np.arange(len(ranked))[:, None] < most - fixed, axis=0)
        ends = np.cumsum([len(scores[name]) for name, _ in found])[:-1]
        for (name, columns), part in zip(found, np.split(kept, ends), strict=True):
            # where several neurons share a column, each of them has its synapses
            np.logical_and.at(allowed[name].T, columns, part.T)
    return allowed


def slice_memory_bits(
    part: SliceBudget, n_synapses: Integers, n_neurons: int, width: int, profile: HardwareProfile,
    layers: Mapping[str, WeightMatrix] = MappingProxyType({}),
) -> int:  # fmt: skip
    """Synapse memory of a slice of `n_neurons` with `n_synapses` (n_columns,) a column; `layers` as in `memory_in_force`."""
    if part.layer not in layers:
        return count(n_synapses, n_neurons, width, profile).synapse_memory_bits
    return sum(block.bits(n_synapses[block.columns], n_neurons, width, profile) for block in layers[part.layer].blocks)


def memory_bits(
    parts: Sequence[SliceBudget], masks: Masks, formats: Formats, profile: HardwareProfile,
    layers: Mapping[str, WeightMatrix] = MappingProxyType({}),
) -> int:  # fmt: skip
    """Synapse memory of the kept synapses of some slices, in the formats of their layers; `layers` as in `memory_in_force`."""
    total = 0
    for part in parts:
        synapses, form = masks[part.layer][part.start : part.stop].sum(dim=0).cpu().numpy(), formats[part.layer]
        total += slice_memory_bits(part, synapses, form.n_neurons(part), form.width, profile, layers)
    return total


def overruns_of(
    plan: Budget, masks: Masks, formats: Formats, layers: Mapping[str, WeightMatrix] = MappingProxyType({})
) -> dict[str, float]:  # fmt: skip
    """Usage over budget less one, of every constraint; memory is a core's. `layers` as in `memory_in_force`."""
    overruns = {}
    for parts in plan.by_core():
        for part in parts:
            used = masks[part.layer][part.start : part.stop].any(dim=0).cpu().numpy()
            from_sources = [used[cap.start : cap.stop].sum() / max(cap.axons, 1) for cap in part.sources]
            overruns[constraint(part, "input_axons")] = float(used.sum()) / max(part.input_axons, 1) - 1
            overruns[constraint(part, "output_axons")] = float(max(from_sources)) - 1
        limit = sum(part.synapse_memory_bits for part in parts)
        memory = memory_bits(parts, masks, formats, plan.profile, layers)
        # slices share the memory of their core: each of them reports the core's overrun
        overruns |= {constraint(part, "synapse_memory_bits"): memory / max(limit, 1) - 1 for part in parts}
    return overruns
