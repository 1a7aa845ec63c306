"""Weights of the layers that lose synapses, each layer's as one matrix, and the budget in columns of these matrices.

A layer of neurons in a row may have several connections. A pruning method sees their weights side by side, as the columns of one
matrix; connections with equal weights, as of a sum of spikes, have their columns in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from neurodeploy.compression.trainable_network import TrainableConnection, TrainableLayer, TrainableNetwork
from neurodeploy.errors import BudgetError, TrainingError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Integers, Mask
from neurodeploy.ir.connectivity import is_dense
from neurodeploy.ir.graph import wait_steps
from neurodeploy.ir.network import Network
from neurodeploy.mapping.budget import AxonCap, Budget, SliceBudget
from neurodeploy.passes.dead_neurons import needed_neurons
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Formula, Region, grid_of, list_bits, weight_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLists:
    """How the chip stores the synapses of a column: one list for each axon behind it.

    Attributes
    ----------
    axons : int
        Lists of the column, all equal: the pixels that pooling adds up.
    sources : int
        Axons that point to each list.
    is_delayed : bool
        Whether each synapse stores a delay.
    """

    axons: int = 1
    sources: int = 1
    is_delayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Columns start..stop - 1 of a matrix: the parameter of one or more connections.

    Attributes
    ----------
    inlets : tuple of TrainableConnection
    lists : tuple of StoredLists
        One for each number of steps that spikes wait.
    """

    inlets: tuple[TrainableConnection, ...]
    lists: tuple[StoredLists, ...]
    start: int
    stop: int

    @property
    def columns(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def axons(self) -> int:
        """Axons behind each column."""
        return sum(lists.axons * lists.sources for lists in self.lists)

    def bits(self, n_synapses: Integers, n_neurons: int, width: int, profile: HardwareProfile) -> int:
        """Synapse memory of columns with `n_synapses` (n_columns,) each onto a slice of `n_neurons`."""
        total = 0
        for lists in self.lists:
            formula = Formula.of(profile, weight_bits(width, profile), is_delayed=lists.is_delayed)
            used = int(np.count_nonzero(n_synapses))
            stored = list_bits(n_synapses, n_neurons, formula, profile)[0] + (lists.sources - 1) * used * formula.entry
            total += stored * lists.axons
        return total


class WeightMatrix:
    """Weights (n_out, n_in) of a layer of neurons in a row.

    Attributes
    ----------
    layer : TrainableLayer
    wait_steps : tuple of int
        Steps that spikes wait in each of the layer's connections on the chip, those that bring biases included; by default
        its delays alone.
    blocks : tuple of Block
    parts : tuple of parameter (n_out, any)
        One for each block.
    bias : parameter (n_out,) or None
    """

    def __init__(self, layer: TrainableLayer, wait_steps: tuple[int, ...] | None = None) -> None:
        self.layer, self.bias = layer, layer.bias
        self.wait_steps = tuple(c.delay_steps for c, _ in layer.pairs()) if wait_steps is None else wait_steps
        wait_of = {inlet: steps for (_, inlet), steps in zip(layer.pairs(), self.wait_steps, strict=True)}
        by_parameter: dict[torch.Tensor, list[TrainableConnection]] = {}
        for inlet in layer.inlets:
            if not inlet.is_fixed and is_dense(inlet.synapse):
                by_parameter.setdefault(inlet.weight, []).append(inlet)
        self.parts = tuple(inlets[0].weight for inlets in by_parameter.values())
        blocks, start = [], 0
        for inlets in by_parameter.values():
            waits = [wait_of[inlet] for inlet in inlets]
            lists = tuple(
                StoredLists(axons=inlets[0].axons, sources=waits.count(steps), is_delayed=steps > 0)
                for steps in dict.fromkeys(waits)
            )
            stop = start + inlets[0].weight.shape[1]
            blocks.append(Block(inlets=tuple(inlets), lists=lists, start=start, stop=stop))
            start = stop
        self.blocks = tuple(blocks)

    def parts_of(self, part: SliceBudget) -> Iterator[tuple[Block, SliceBudget]]:
        """Each block with the slice's budget, in its own columns; the limit on input axons is that of all blocks together."""
        for block in self.blocks:
            inside = [cap for cap in part.sources if block.start <= cap.start < block.stop]
            caps = tuple(replace(cap, start=cap.start - block.start, stop=cap.stop - block.start) for cap in inside)
            yield block, replace(part, sources=caps)

    def in_columns(self, part: SliceBudget, inputs: int) -> SliceBudget:
        """A slice's limits on axons in columns of the matrix, `inputs` of which it may use."""
        numbers, caps = {inlet: n for n, (_, inlet) in enumerate(self.layer.pairs())}, list[AxonCap]()
        for block in self.blocks:
            own = [cap for cap in part.sources if cap.connection == numbers[block.inlets[0]]] if block.lists[0].axons == 1 else []
            caps += [replace(cap, start=block.start + cap.start, stop=block.start + cap.stop) for cap in own] or [
                AxonCap(start=block.start, stop=block.stop, axons=block.stop - block.start)
            ]
        # as many as fit if they are those with most axons behind them
        axons = np.repeat([block.axons for block in self.blocks], [block.stop - block.start for block in self.blocks])
        columns = int(np.count_nonzero(np.cumsum(np.sort(axons)[::-1]) <= inputs))
        return replace(part, input_axons=max(columns, 1), sources=tuple(caps))

    @property
    def n_in(self) -> int:
        return self.blocks[-1].stop

    @property
    def weight(self) -> torch.Tensor:
        """All weights: the parameter itself where there is one, otherwise a copy."""
        # What is written to the copy is lost: `scale` writes to the parameters.
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)

    @property
    def gradient(self) -> torch.Tensor | None:
        """Gradient of all weights, (n_out, n_in); None before the first backward pass."""
        gradients = [part.grad for part in self.parts if part.grad is not None]
        return torch.cat(gradients, dim=1) if len(gradients) == len(self.parts) > 1 else gradients[0] if gradients else None

    @torch.no_grad()
    def scale(self, factors: torch.Tensor) -> None:
        """Multiply each weight by its factor, in place."""
        for part, columns in zip(self.parts, self.split(factors), strict=True):
            part.mul_(columns)

    @torch.no_grad()
    def scale_gradient(self, factors: torch.Tensor) -> None:
        """Multiply the gradients by factors (n_out, n_in), in place."""
        for part, columns in zip(self.parts, self.split(factors), strict=True):
            if part.grad is not None:
                part.grad.mul_(columns)

    def split(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Values (n_out, n_in) in the shapes of the parameters."""
        return torch.split(values, [part.shape[1] for part in self.parts], dim=1)

    def columns_without(self, removed: Mapping[str, Mask]) -> Mask:
        """Columns (n_in,) with a source neuron that is not `removed`, (n_neurons,) by layer."""
        remaining = np.ones(self.n_in, dtype=np.bool_)
        for block in self.blocks:
            alive = np.zeros(block.stop - block.start, dtype=np.bool_)
            for inlet in block.inlets:
                kept = ~removed[inlet.source] if inlet.source in removed else np.ones(inlet.synapse.n_in, dtype=np.bool_)
                places = np.arange(kept.size) if inlet.places is None else inlet.places.cpu().numpy()
                np.logical_or.at(alive, places, kept)
            remaining[block.columns] = alive
        return remaining


@contextmanager
def substituted(values: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[None]:
    """While open, parameters hold these values instead of their own, which come back afterwards."""
    # references, not copies: what trains is replaced, and not written to
    own = [(parameter, parameter.data) for parameter in values]
    try:
        for parameter, value in values.items():
            # Through `data`, so that autograd keeps its leaf: the gradient at these values arrives in the parameter
            # itself (straight-through).
            parameter.data = value.contiguous()
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def find_layers(model: TrainableNetwork, budget: Budget) -> dict[str, WeightMatrix]:
    """Return the weights of the budget's layers that lose synapses: those of neurons in a row with a matrix into them.

    Raises
    ------
    TrainingError
        The budget is of another network.
    """
    names = budget.layer_names
    if names != [layer.name for layer in model.network]:
        raise TrainingError(
            "model", f"has the layers {', '.join(layer.name for layer in model.network)}; the budget is for {', '.join(names)}",
            remedy="Make the budget for this model.",
        )  # fmt: skip
    found, waiting = {}, wait_steps(budget.with_relays(model.network))
    for layer in model:
        has, planned = grid_of(layer.layer), budget.grid(layer.layer.name)
        # of an image the budget may leave some channels
        if len(has) == 3 and (planned[0] > has[0] or planned[1:] != has[1:]):
            same_plane = planned[1:] == has[1:]
            is_now, wanted = (f"{has[0]} channels", planned[0]) if same_plane else (f"the shape {has}", planned)
            raise _of_another_model(layer.layer.name, is_now, wanted)
        if len(has) == 1 and (matrix := WeightMatrix(layer, waiting[layer.layer.name])).parts:
            name, caps = layer.layer.name, budget.of(layer.layer.name)[0].sources
            ends = {cap.connection: cap.stop for cap in caps}  # the last of a connection ends at its number of sources
            n_in = {n: connection.synapse.n_in for n, (connection, inlet) in enumerate(layer.pairs()) if inlet is not None}
            shape = len(matrix.weight), sum(n_in.values())
            if shape != (planned := (*planned, sum((n_in | ends).values()))):
                raise _of_another_model(name, f"weights {shape}", planned)
            found[name] = matrix
    return found


def _of_another_model(layer: str, has: str, planned: object) -> TrainingError:
    return TrainingError(f"layer {layer!r}", f"has {has}, the budget is for {planned}", remedy="Make the budget for this model.")


def masked_network(
    model: TrainableNetwork, layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor]
) -> Network:  # fmt: skip
    """The network with 1 in place of each kept synapse of these layers, for passes that follow synapses; biases are ones."""
    stored = {
        part: mask.double()
        for name, matrix in layers.items()
        for part, mask in zip(matrix.parts, matrix.split(masks[name]), strict=True)
    }
    return model.to_network(stored)


def drop_unread_synapses(
    model: TrainableNetwork, layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor], budget: Budget
) -> None:
    """Drop the synapses onto neurons that change no output: answers stay the same, and memory is freed.

    A slice is never emptied.

    Parameters
    ----------
    masks : mapping of layer to tensor (n_out, n_in), bool
        Changed in place.
    """
    for name, kept in needed_neurons(masked_network(model, layers, masks)).items():
        if name not in layers:
            continue
        needed = torch.from_numpy(kept).to(masks[name].device)
        for part in budget.of(name):
            mask = masks[name][part.start : part.stop]
            left = mask & needed[part.start : part.stop, None]
            if left.any():
                mask.copy_(left)


def budget_per_column(layers: Mapping[str, WeightMatrix], budget: Budget) -> Budget:
    """Express the budget of layers in columns of their matrices; what is never pruned is deducted.

    A layer that reads a pooled image has one weight, hence one column, for several pixels, but an axon for each of them.
    Connections without trained weights, lists of single synapses and biases stay whole.
    """
    slices = []
    widest = max(budget.profile["weight_bits"].choices)
    for part in (part for part in budget.slices if part.layer in layers):
        memory, axons = _never_pruned(layers[part.layer], part, widest, budget.profile)
        part = layers[part.layer].in_columns(part, part.input_axons - axons)
        slices.append(replace(part, synapse_memory_bits=part.synapse_memory_bits - memory))
    plan = replace(budget, slices=tuple(slices))
    _check_least(layers, plan, budget, widest)
    return plan


def _check_least(layers: Mapping[str, WeightMatrix], plan: Budget, budget: Budget, width: int) -> None:
    """Raise `BudgetError` for a core without memory for what is never pruned and one synapse for each slice."""
    whole = {part.name: part for part in budget.slices}
    for parts in plan.by_core():
        least = [
            min(
                block.bits(np.ones(1, dtype=np.int64), part.kept_neurons, width, budget.profile)
                for block in layers[part.layer].blocks
            )
            for part in parts
        ]
        if sum(least) > sum(part.synapse_memory_bits for part in parts):
            limit = sum(whole[part.name].synapse_memory_bits for part in parts)
            fixed = limit - sum(part.synapse_memory_bits for part in parts)
            raise BudgetError(
                f"layer {parts[0].layer!r}", f"bits on core {parts[0].core} for biases and fixed weights, and a synapse a slice",
                need=fixed + sum(least), limit=limit, source=plan.profile[plan.profile.synapse_memory_key].where,
                remedy="Allow more cores.",
            )  # fmt: skip


def _never_pruned(matrix: WeightMatrix, part: SliceBudget, width: int, profile: HardwareProfile) -> tuple[int, int]:
    """Synapse memory and input axons that a slice takes without the connections of its matrix, at the widest."""
    pruned = {inlet for block in matrix.blocks for inlet in block.inlets}
    pairs = zip(matrix.layer.pairs(), matrix.wait_steps, strict=True)
    rest = [(connection, steps) for (connection, inlet), steps in pairs if inlet not in pruned]
    if not rest:
        return 0, 0
    connections, waits = zip(*rest, strict=True)
    layer = replace(matrix.layer.layer, connections=connections)
    region = part.region if part.neurons == part.kept_neurons else Region.run(part.start, part.start + part.kept_neurons)
    usage = LayerCount(layer, width, profile, connectivity=1.0, wait_steps=waits).usage(region)
    return usage.synapse_memory_bits, usage.input_axons
