"""Pruning by Fisher saliency: to the channels and neurons that the budget holds, and of kernels to the weights that fit.

A unit, which is a channel or a neuron of a row, is removed by masking its weights and those that read it. Layers joined by a
pooling, by a skip without weights or by a sum of their spikes lose the same units. The loss of removing one is, to second order,
the squared slope of the loss along it: the sum over its outgoing weights of w dL/dw (Fisher pruning; Theis et al., arXiv
1801.05787).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any

import torch

from neurodeploy.compression.bit_width import LayerRounding
from neurodeploy.compression.pruning_method import FisherDiagonal, between
from neurodeploy.compression.trainable_network import TrainableConnection, TrainableNetwork
from neurodeploy.compression.weight_matrices import WeightMatrix, find_layers, substituted
from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.graph import wait_steps
from neurodeploy.ir.network import Conv
from neurodeploy.mapping.budget import Budget, SliceBudget
from neurodeploy.mapping.channel_counts import first_units
from neurodeploy.passes.dead_neurons import is_depthwise, tied_layers
from neurodeploy.resources.convolution_lists import kept_weights
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import most_targets

_CHANNEL_RATE = 0.01
"""Weight of the latest step in a channel's moving average, after its first hundred."""
_SHARE_BISECTIONS = 14
"""Halvings of the share of a kernel's weights, to one of 2**14."""


@dataclass(frozen=True, kw_only=True)
class UnitSelection:
    """Layers with more channels, or neurons, than they may keep, and the weights that read them.

    Attributes
    ----------
    layers : tuple of str
        They lose the same units.
    runs : tuple of (start, stop, most, keep)
        Units start..stop-1: all channels, or the neurons of a slice; of them at most so many to begin with, and in the budget.
    readers : tuple of TrainableConnection
        Convolutions of all channels, and matrices.
    mask : tensor (units,), bool
        Kept units.
    saliency : tensor (units,)
        Mean squared slope of the loss along each unit, over the steps in which it was kept.
    steps : tensor (units,)
        Number of those steps.
    """

    layers: tuple[str, ...]
    runs: tuple[tuple[int, int, int, int], ...]
    readers: tuple[TrainableConnection, ...]
    mask: torch.Tensor
    saliency: torch.Tensor
    steps: torch.Tensor

    @property
    def keep(self) -> int:
        """Units that the budget holds."""
        return sum(run[-1] for run in self.runs)

    def by_unit(self, values: torch.Tensor, reader: TrainableConnection) -> torch.Tensor:
        """Sum values, one per weight of a reader, by unit: (units,)."""
        n = len(self.mask)
        if values.shape[1] % n:  # neurons share columns
            values = reader.expanded(values) / reader.axons
        # a matrix reads an image channel by channel, so one channel's columns are consecutive
        return values.reshape(len(values), n, -1).sum(dim=(0, 2))

    def columns(self, reader: TrainableConnection) -> torch.Tensor:
        """Mask of the kept units, in a shape that multiplies a reader's weights."""
        # a matrix has columns for the pixels of a channel, a convolution one input for each channel
        shape, n = reader.weight.shape, len(self.mask)
        if shape[1] % n and reader.places is not None:
            kept = torch.zeros(shape[1], device=self.mask.device).index_add(0, reader.places, self.mask.float()) > 0
        else:
            kept = self.mask.repeat_interleave(shape[1] // n)
        return kept.reshape(1, -1, *[1] * (len(shape) - 2))

    def choose(self, progress: float) -> None:
        """Keep the most salient units of each run, as many as are in force at `progress` 0..1."""
        scores = self.saliency
        if not self.steps.any():
            # before the first gradient, the squared weights that read a unit stand for its saliency
            scores = torch.stack([self.by_unit(reader.weight.square(), reader) for reader in self.readers]).sum(dim=0)
        self.mask.zero_()
        for start, stop, most, keep in self.runs:
            n = between(most, keep, progress)
            # stable: ties go to the lower unit on every machine
            self.mask[start + scores[start:stop].argsort(descending=True, stable=True)[:n]] = True


@dataclass(frozen=True, kw_only=True)
class KernelSelection:
    """A convolution that keeps some of its weights: of each input channel the most salient ones onto each slice.

    A list of the chip is padded to its longest input channel, so all input channels keep equally many.

    Attributes
    ----------
    layer : str
    inlet : TrainableConnection
    caps : tuple of (start, stop, n_weights)
        For each range of the output channels that the budget has: the weights that an input channel keeps onto it.
    mask : tensor of the weights' shape, bool
        Kept weights.
    """

    layer: str
    inlet: TrainableConnection
    caps: tuple[tuple[int, int, int], ...]
    mask: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        return self.inlet.weight

    @property
    def gradient(self) -> torch.Tensor | None:
        """Gradient of the weights; None before the first backward pass."""
        return self.inlet.weight.grad

    def choose(self, progress: float, channels: torch.Tensor, curvature: torch.Tensor | float) -> None:
        """Keep the most salient weights onto the kept output `channels`, (channels,) bool, as many as are in force.

        `curvature` is that of the loss in each weight.
        """
        rows, weight = channels.nonzero()[:, 0], self.inlet.weight.detach()
        planned = self.caps[-1][1]
        saliency = weight.square() * curvature
        # weights onto removed channels are masked with their channel
        self.mask.fill_(True)
        for start, stop, n in self.caps:
            # while more channels are in force than the budget has, ranges are longer
            first, last = start * len(rows) // planned, stop * len(rows) // planned
            # ranges of different rows and columns overlap: each takes away from what the ones before it left
            left = torch.where(self.mask, saliency, -1)[rows[first:last]]
            scores = left.movedim(1, 0).flatten(1)
            full, of_range = scores.shape[1], (stop - start) * weight[0, 0].numel()
            n_kept = between(full, n * full // of_range, progress)
            kept = torch.zeros_like(scores, dtype=torch.bool)
            # stable: ties go to the first weight on every machine
            kept.scatter_(1, scores.argsort(dim=1, descending=True, stable=True)[:, : max(n_kept, 1)], value=True)
            self.mask[rows[first:last]] &= kept.reshape(weight.shape[1], last - first, *weight.shape[2:]).movedim(0, 1)


class Channels:
    """Channels and neurons of a network under a budget, and the rounding of all layers that lose no synapses.

    Parameters
    ----------
    model : TrainableNetwork
    budget : Budget
        Its convolutions have as many channels as may be kept, and its rows as many neurons.
    roundings : mapping of layer to LayerRounding, optional
        For the layers in it the loss sees weights rounded to the chip's integers.

    Attributes
    ----------
    convolutions : dict of layer to tuple of TrainableConnection
        Trained weights of the layers that have no `WeightMatrix`.
    choices : list of UnitSelection
        One for each group of layers that loses channels or neurons.
    n_weights : int
        Of the convolutions.
    """

    def __init__(
        self, model: TrainableNetwork, budget: Budget, roundings: Mapping[str, LayerRounding] = MappingProxyType({})
    ) -> None:  # fmt: skip
        rows = find_layers(model, budget)
        self._rows = frozenset(rows)
        self.model, self.width = model, budget.weight_bits
        self.convolutions = {
            layer.layer.name: inlets
            for layer in model
            if layer.layer.name not in rows and (inlets := tuple(c for c in layer.inlets if not c.is_fixed))
        }
        self.n_weights = sum(c.weight.numel() for inlets in self.convolutions.values() for c in inlets)
        choices = [_selection(model, names, _runs(model, names, budget)) for names in tied_layers(model.network)]
        self.choices = [choice for choice in choices if choice.keep < len(choice.mask)]
        self.kernels = _kernel_selections(model, budget, self.convolutions)
        self.curvature = FisherDiagonal({str(n): kernel for n, kernel in enumerate(self.kernels)})
        self.roundings = {name: one for name, one in roundings.items() if name in self.convolutions and one.is_exact}

    def _masks(self) -> dict[str, torch.Tensor]:
        """Kept units by layer, of layers that lose some."""
        return {name: choice.mask for choice in self.choices for name in choice.layers}

    @property
    def n_kept(self) -> int:
        """Kept weights of the convolutions."""
        kept = self._kept()
        weights = [inlet.weight for inlets in self.convolutions.values() for inlet in inlets]
        return sum(int(kept[weight].expand_as(weight).sum()) if weight in kept else weight.numel() for weight in weights)

    def columns(self, matrix: WeightMatrix) -> torch.Tensor:
        """Inputs of a dense layer that come from kept units, (n_in,) bool."""
        kept = {reader.weight: choice.columns(reader)[0] for choice in self.choices for reader in choice.readers}
        every = torch.ones(matrix.n_in, dtype=torch.bool, device=matrix.parts[0].device)
        return torch.cat([kept.get(block.inlets[0].weight, every[block.columns]) for block in matrix.blocks])

    @property
    def neurons(self) -> dict[str, torch.Tensor]:
        """Kept neurons, (n_neurons,) bool, of rows that lose some."""
        return {name: mask for name, mask in self._masks().items() if name in self._rows}

    def mask_removed(self, layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor]) -> None:
        """Mask the synapses of removed units in the masks (n_out, n_in) of dense layers, in place."""
        neurons = self.neurons
        for name, mask in masks.items():
            mask &= self.columns(layers[name])
            if name in neurons:
                mask &= neurons[name][:, None]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """While open, convolutions read kept channels only, with rounded weights; the other weights get no gradient."""
        kept, values = self._kept(), dict[torch.Tensor, torch.Tensor]()
        for name, inlets in self.convolutions.items():
            layer = self.model[name]
            own = [*(inlet.weight for inlet in inlets), *(bias for bias in (layer.bias, layer.membrane_bias) if bias is not None)]
            # mask first, then round: the scale is that of the kept weights
            numbers = {p: p.detach() * kept[p] if p in kept else p.detach() for p in own}
            rounding = self.roundings.get(name)
            values |= numbers if rounding is None else rounding.rounded(numbers, rounding.grid(self.width))
        with substituted(values):
            yield
            for parameter in values.keys() & kept.keys():
                if parameter.grad is not None:
                    parameter.grad.mul_(kept[parameter])

    def _kept(self) -> dict[torch.Tensor, torch.Tensor]:
        """Masks of the kept weights and biases by parameter, in shapes that multiply them; of those that are not all kept."""
        kept = {reader.weight: choice.columns(reader) for choice in self.choices for reader in choice.readers}
        for name, mask in self._masks().items():
            layer = self.model[name]
            for own in (*(inlet.weight for inlet in self.convolutions.get(name, ())), layer.bias, layer.membrane_bias):
                if own is not None:
                    rows = mask.repeat_interleave(len(own) // len(mask)).reshape(-1, *[1] * (own.ndim - 1))
                    kept[own] = rows & kept.get(own, rows)
        return kept | {kernel.inlet.weight: kernel.mask & kept.get(kernel.inlet.weight, kernel.mask) for kernel in self.kernels}

    def before_step(self) -> None:
        """Update the curvature of kernels from the gradients of all processes; pruned weights of theirs get none."""
        self.curvature.update()
        for kernel in self.kernels:
            if kernel.gradient is not None:
                kernel.gradient.mul_(kernel.mask)

    @torch.no_grad()
    def update(self) -> None:
        """Update the saliencies from the gradients of a step."""
        for choice in self.choices:
            slopes = [choice.by_unit(reader.weight * reader.weight.grad, reader) for reader in choice.readers
                      if reader.weight.grad is not None]  # fmt: skip
            if not slopes:
                continue
            slope = torch.stack(slopes).sum(dim=0).square()
            choice.steps.add_(choice.mask)
            # a plain mean at first, then a moving one; a rate of 0 leaves a removed channel's last value
            rate = (1 / choice.steps.clamp(min=1)).clamp(min=_CHANNEL_RATE) * choice.mask
            choice.saliency.lerp_(slope.to(choice.saliency.dtype), rate)

    @torch.no_grad()
    def choose(self, progress: float) -> None:
        """Keep the most salient units and kernel weights, as many as are in force at `progress` 0..1."""
        for choice in self.choices:
            choice.choose(progress)
        masks = self._masks()
        for kernel, curvature in zip(self.kernels, self.curvature.means.values(), strict=True):
            everything = torch.ones(len(kernel.mask), dtype=torch.bool, device=kernel.mask.device)
            kernel.choose(progress, masks.get(kernel.layer, everything), curvature if self.curvature.steps else 1.0)

    @torch.no_grad()
    def hold(self) -> None:
        """Set the pruned weights, and those from and to removed channels with their biases, to zero."""
        for weight, mask in self._kept().items():
            weight.mul_(mask)

    def overruns(self) -> Mapping[str, float]:
        """Units over those of the budget, less one."""
        kinds = {choice.layers[0]: "neurons" if choice.layers[0] in self._rows else "channels" for choice in self.choices}
        return {f"{name} {kind}": int(choice.mask.sum()) / choice.keep - 1
                for choice, (name, kind) in zip(self.choices, kinds.items(), strict=True)}  # fmt: skip

    def state_dict(self) -> Mapping[str, Any]:
        """Kept channels and weights, their saliencies, and the steps these are of."""
        channels = {c.layers[0]: {"mask": c.mask, "saliency": c.saliency, "steps": c.steps} for c in self.choices}
        kernels = [kernel.mask for kernel in self.kernels]
        return {"channels": channels, "kernels": kernels, "curvature": self.curvature.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        for choice in self.choices:
            for name, tensor in state["channels"][choice.layers[0]].items():
                getattr(choice, name).copy_(tensor)
        for kernel, mask in zip(self.kernels, state["kernels"], strict=True):
            kernel.mask.copy_(mask)
        self.curvature.load_state_dict(state["curvature"])


def _runs(model: TrainableNetwork, names: tuple[str, ...], budget: Budget) -> tuple[tuple[int, int, int, int], ...]:
    """Runs of the units of some tied layers, as `UnitSelection` has them."""
    grid = budget.grid(names[0])
    if len(grid) == 3:
        n = model.network[names[0]].shape[0]
        return ((0, n, n, grid[0]),)
    # layers and their relays may be cut in different places: the number of kept neurons before each of them
    before, names = {0: 0}, (*names, *(relay for relay, source in budget.relays.items() if source in names))
    for name in names:
        parts = budget.of(name)
        before |= zip((part.stop for part in parts), accumulate(part.kept_neurons for part in parts), strict=True)
    longest = max(part.neurons for name in names for part in budget.of(name))
    runs = []
    for (start, kept_before), (stop, kept) in pairwise(sorted(before.items())):
        keep = kept - kept_before
        # more than the index bits of a list tell apart cannot be in force
        most = (stop - start) * min(most_targets(budget.profile), longest) // longest
        runs.append((start, stop, max(most, keep), keep))
    return tuple(runs)


def _selection(
    model: TrainableNetwork, names: tuple[str, ...], runs: tuple[tuple[int, int, int, int], ...]
) -> UnitSelection:  # fmt: skip
    """All units of some tied layers, to begin with."""
    n = model.network[names[0]].shape[0]
    readers: dict[torch.Tensor, TrainableConnection] = {}
    for inlet in (inlet for layer in model for inlet in layer.inlets):
        if inlet.source in names and not inlet.is_fixed and not (is_convolution(inlet.synapse) and is_depthwise(inlet.synapse)):
            readers.setdefault(inlet.weight, inlet)
    device = next(iter(model.parameters())).device
    return UnitSelection(
        layers=names, runs=runs, readers=tuple(readers.values()), mask=torch.ones(n, dtype=torch.bool, device=device),
        saliency=torch.zeros(n, device=device), steps=torch.zeros(n, device=device),
    )  # fmt: skip


def _kernel_selections(
    model: TrainableNetwork, budget: Budget, convolutions: Mapping[str, tuple[TrainableConnection, ...]]
) -> list[KernelSelection]:
    """Convolutions whose weights do not all fit the memory of their slices.

    Raises
    ------
    BudgetError
        A slice has no memory for one weight of each input channel.
    """
    narrow = budget.with_relays(first_units(model.network, {
        name: n for names in tied_layers(model.network) for name in names
        if (n := budget.grid(name)[0]) < model.network[name].shape[0] and len(budget.grid(name)) == 3
    }))  # fmt: skip
    waiting, found = wait_steps(narrow), list[KernelSelection]()
    for name in (name for name in convolutions if len(budget.grid(name)) == 3):
        counted = LayerCount(narrow[name], budget.weight_bits, budget.profile, 1.0, wait_steps=waiting[name])
        shares = {part: _share(counted, part, budget.profile) for part in budget.of(name)} if counted.prunes_kernels else {}
        for inlet in convolutions[name] if any(share < 1 for share in shares.values()) else ():
            wiring = inlet.synapse
            if not isinstance(wiring, Conv) or wiring.groups > 1 or inlet.places is not None:
                continue
            caps: dict[tuple[int, int], int] = {}
            for part, share in shares.items():
                channels, n = (part.region.starts[0], part.region.stops[0]), kept_weights(wiring, part.region, share)
                # slices side by side share the kernel: the one with least memory decides
                caps[channels] = min(n, caps.get(channels, n))
            found.append(KernelSelection(
                layer=name, inlet=inlet, caps=tuple((*channels, n) for channels, n in sorted(caps.items())),
                mask=torch.ones_like(inlet.weight, dtype=torch.bool),
            ))  # fmt: skip
    return found


def _share(counted: LayerCount, part: SliceBudget, profile: HardwareProfile) -> float:
    """Largest share of its weights that each input channel keeps within the memory of a slice."""
    if counted.usage(part.region).synapse_memory_bits <= part.synapse_memory_bits:
        return 1.0
    if (least := counted.kernel_bits(part.region, 0.0)) > part.synapse_memory_bits:
        raise BudgetError(
            f"layer {part.layer!r}", f"bits on core {part.core} for one weight of each input channel",
            need=least, limit=part.synapse_memory_bits, source=profile[profile.synapse_memory_key].where,
            remedy="Allow more cores.",
        )  # fmt: skip
    low, high = 0.0, 1.0
    # to a weight of the largest kernels
    for _ in range(_SHARE_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if counted.kernel_bits(part.region, middle) <= part.synapse_memory_bits else (low, middle)
    return low
