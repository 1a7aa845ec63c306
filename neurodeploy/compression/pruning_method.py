"""The protocol of a pruning method, and the constraints that masks have to meet.

A pruning method owns the weights of a model while it is trained into a budget. `neurodeploy.fit` calls it at fixed points of the
training loop; `neurodeploy.compress` deploys what it leaves. CONTRIBUTING.md says how to add one.

While a model is compressed, every limit in force shrinks geometrically from what the unpruned model needs to what it may use.
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
from neurodeploy.compression.saliency import ActiveNeurons
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import WeightMatrix
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.network import Network
from neurodeploy.mapping.budget.budget import Budget, SliceBudget
from neurodeploy.resources.encodings import most_targets
from neurodeploy.resources.usage import count

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
