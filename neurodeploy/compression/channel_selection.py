"""Channel pruning of convolutions by Fisher saliency, down to the channels that the budget holds.

A channel is removed by masking the weights that read it. Layers joined by a pooling or by a skip without weights lose the same
channels. The loss of removing one is, to second order, the squared slope of the loss along it: the sum over its outgoing weights
of w dL/dw (Fisher pruning; Theis et al., arXiv 1801.05787).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from neurodeploy.compression.bit_width import WeightGrid
from neurodeploy.compression.pruning_method import between
from neurodeploy.compression.trainable_network import TrainableConnection, TrainableNetwork
from neurodeploy.compression.weight_matrices import WeightMatrix, find_layers
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.passes.dead_neurons import is_depthwise, tied_layers
from neurodeploy.targets import arithmetic_of

_CHANNEL_RATE = 0.01
"""Weight of the latest step in a channel's moving average, after its first hundred."""


@dataclass(frozen=True, kw_only=True)
class ChannelSelection:
    """Layers with more channels than they may keep, and the weights that read them.

    Attributes
    ----------
    layers : tuple of str
        They lose the same channels.
    keep : int
        Channels that the budget holds.
    readers : tuple of TrainableConnection
        Convolutions of all channels, and matrices.
    mask : tensor (channels,), bool
        Kept channels.
    saliency : tensor (channels,)
        Mean squared slope of the loss along each channel, over the steps in which it was kept.
    steps : tensor (channels,)
        Number of those steps.
    """

    layers: tuple[str, ...]
    keep: int
    readers: tuple[TrainableConnection, ...]
    mask: torch.Tensor
    saliency: torch.Tensor
    steps: torch.Tensor

    def by_channel(self, values: torch.Tensor) -> torch.Tensor:
        """Sum values, one per weight of a reader, by channel: (channels,)."""
        # a matrix reads an image channel by channel, so one channel's columns are consecutive
        return values.reshape(len(values), len(self.mask), -1).sum(dim=(0, 2))

    def columns(self, reader: TrainableConnection) -> torch.Tensor:
        """Mask of the kept channels, in a shape that multiplies a reader's weights."""
        # a matrix has columns for the pixels of a channel, a convolution one input for each channel
        shape = reader.weight.shape
        return self.mask.repeat_interleave(shape[1] // len(self.mask)).reshape(1, -1, *[1] * (len(shape) - 2))


class Channels:
    """Channels of a network's convolutions under a budget, and the rounding of all layers that lose no synapses.

    Parameters
    ----------
    model : TrainableNetwork
    budget : Budget
        Its convolutions have as many channels as may be kept.
    thresholds : mapping of layer to float, optional
        Firing thresholds in the units of the parameters; for the layers in it the loss sees weights rounded to the chip's
        integers.

    Attributes
    ----------
    convolutions : dict of layer to tuple of TrainableConnection
        Trained weights of the layers that have no `WeightMatrix`.
    choices : list of ChannelSelection
        One for each group of layers that loses channels.
    n_weights : int
        Of the convolutions.
    """

    def __init__(
        self, model: TrainableNetwork, budget: Budget, thresholds: Mapping[str, float] = MappingProxyType({})
    ) -> None:  # fmt: skip
        rows = find_layers(model, budget)
        self.model, self.width, self.target = model, budget.weight_bits, arithmetic_of(budget.profile).name
        self.convolutions = {
            layer.layer.name: inlets
            for layer in model
            if layer.layer.name not in rows and (inlets := tuple(c for c in layer.inlets if not c.is_fixed))
        }
        self.n_weights = sum(c.weight.numel() for inlets in self.convolutions.values() for c in inlets)
        self.choices = [
            _selection(model, names, budget.grid(names[0])[0])
            for names in tied_layers(model.network)
            if len(budget.grid(names[0])) == 3 and budget.grid(names[0])[0] < model.network[names[0]].shape[0]
        ]
        self.thresholds = {name: threshold for name, threshold in thresholds.items() if name in self.convolutions}
        self._biases = {name: bias for name in self.thresholds if (bias := model[name].bias) is not None}

    def _masks(self) -> dict[str, torch.Tensor]:
        """Kept channels by layer, of layers that lose some."""
        return {name: choice.mask for choice in self.choices for name in choice.layers}

    @property
    def n_kept(self) -> int:
        """Weights of the convolutions between kept channels."""
        masks, total = self._masks(), 0
        for name, inlets in self.convolutions.items():
            for inlet in inlets:
                shape = inlet.weight.shape
                n = inlet.weight.numel()
                if name in masks:
                    n = n * int(masks[name].sum()) // len(masks[name])
                if inlet.source in masks and len(shape) == 4 and not is_depthwise(inlet.synapse):
                    n = n * int(masks[inlet.source].sum()) // len(masks[inlet.source])
                total += n
        return total

    def columns(self, matrix: WeightMatrix) -> torch.Tensor | None:
        """Inputs of a dense layer that come from kept channels, (n_in,) bool; None where all channels are kept."""
        found: torch.Tensor | None = None
        for choice in self.choices:
            for block in matrix.blocks:
                for inlet in block.inlets:
                    if inlet.source in choice.layers:
                        found = torch.ones(matrix.n_in, dtype=torch.bool, device=choice.mask.device) if found is None else found
                        found[block.columns] = choice.columns(inlet)[0]
        return found

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """While open, convolutions read kept channels only, with rounded weights; the other weights get no gradient."""
        # through `data`, as in `substituted_weights`: the gradient arrives in the parameter itself
        own = {inlet.weight: inlet.weight.data for inlets in self.convolutions.values() for inlet in inlets}
        biases = [(bias, bias.data) for bias in self._biases.values()]
        kept = {reader.weight: choice.columns(reader) for choice in self.choices for reader in choice.readers}
        try:
            for name, inlets in self.convolutions.items():
                # mask first, then round: the grid's scale is that of the kept weights
                weights = {c.weight: own[c.weight] * kept[c.weight] if c.weight in kept else own[c.weight] for c in inlets}
                together = torch.cat([weight.flatten() for weight in weights.values()])
                grid = self._grid(name, together)
                for parameter, weight in weights.items():
                    parameter.data = weight if grid is None else grid.round_biases(weight, together)
                if grid is not None and name in self._biases:
                    self._biases[name].data = grid.round_biases(self._biases[name].detach(), together)
            yield
            for parameter, columns in kept.items():
                if parameter in own and parameter.grad is not None:
                    parameter.grad.mul_(columns)
        finally:
            for parameter, data in own.items():
                parameter.data = data
            for bias, data in biases:
                bias.data = data

    def _grid(self, name: str, weight: torch.Tensor) -> WeightGrid | None:
        """Grid that `neurodeploy.passes.quantize.quantize` would use: the largest weight takes the largest integer."""
        if name not in self.thresholds:
            return None
        return WeightGrid(
            width=self.width, largest=float(weight.abs().max()), threshold=self.thresholds[name], target=self.target
        )

    @torch.no_grad()
    def update(self) -> None:
        """Update the saliencies from the gradients of a step."""
        for choice in self.choices:
            slopes = [choice.by_channel(reader.weight * reader.weight.grad) for reader in choice.readers
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
        """Keep the most salient channels, as many as are in force at `progress` 0..1."""
        for choice in self.choices:
            n = between(len(choice.mask), choice.keep, progress)
            scores = choice.saliency
            if not choice.steps.any():
                # before the first gradient, the squared weights that read a channel stand for its saliency
                scores = torch.stack([choice.by_channel(reader.weight.square()) for reader in choice.readers]).sum(dim=0)
            # stable: ties go to the lower channel on every machine
            kept = scores.argsort(descending=True, stable=True)[:n]
            choice.mask.zero_()[kept] = True

    @torch.no_grad()
    def hold(self) -> None:
        """Set the weights that read removed channels to zero."""
        for choice in self.choices:
            for reader in choice.readers:
                reader.weight.mul_(choice.columns(reader))

    def overruns(self) -> Mapping[str, float]:
        """Channels over those of the budget, less one."""
        return {f"{choice.layers[0]} channels": int(choice.mask.sum()) / choice.keep - 1 for choice in self.choices}

    def state_dict(self) -> Mapping[str, Any]:
        """Kept channels, their saliencies and the steps these are of."""
        return {c.layers[0]: {"mask": c.mask, "saliency": c.saliency, "steps": c.steps} for c in self.choices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        for choice in self.choices:
            for name, tensor in state[choice.layers[0]].items():
                getattr(choice, name).copy_(tensor)


def _selection(model: TrainableNetwork, names: tuple[str, ...], keep: int) -> ChannelSelection:
    """All channels of some tied layers, to begin with."""
    n = model.network[names[0]].shape[0]
    readers: dict[torch.Tensor, TrainableConnection] = {}
    for inlet in (inlet for layer in model for inlet in layer.inlets):
        if inlet.source in names and not inlet.is_fixed and not (is_convolution(inlet.synapse) and is_depthwise(inlet.synapse)):
            readers.setdefault(inlet.weight, inlet)
    device = next(iter(model.parameters())).device
    return ChannelSelection(
        layers=names, keep=keep, readers=tuple(readers.values()), mask=torch.ones(n, dtype=torch.bool, device=device),
        saliency=torch.zeros(n, device=device), steps=torch.zeros(n, device=device),
    )  # fmt: skip
