"""Channel pruning of convolutions by Fisher saliency, down to the channels that the budget holds.

A channel is removed by masking the weights that read it, in the next weighted layer; a normalisation or pooling between does not
matter. The loss of removing one is, to second order, the squared slope of the loss along it: the sum over its outgoing weights of
w dL/dw (Fisher pruning; Theis et al., arXiv 1801.05787).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch

from neurodeploy.compression.bit_width import WeightGrid
from neurodeploy.compression.pruning_method import between
from neurodeploy.compression.weight_matrices import Convolution, find_convolutions, find_layers, require_feed_forward
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.targets import arithmetic_of

_CHANNEL_RATE = 0.01
"""Weight of the latest step in a channel's moving average, after its first hundred."""


@dataclass(frozen=True, kw_only=True)
class ChannelSelection:
    """A convolution with more channels than it may keep, and the layer that reads it.

    Attributes
    ----------
    layer, reader : str
    module : Conv1d, Conv2d or Linear
        Of the reader.
    keep : int
        Channels that the budget holds.
    mask : tensor (channels,), bool
        Kept channels.
    saliency : tensor (channels,)
        Mean squared slope of the loss along each channel, over the steps in which it was kept.
    steps : tensor (channels,)
        Number of those steps.
    """

    layer: str
    keep: int
    reader: str
    module: Convolution | torch.nn.Linear
    mask: torch.Tensor
    saliency: torch.Tensor
    steps: torch.Tensor

    def by_channel(self, values: torch.Tensor) -> torch.Tensor:
        """Sum values, one per weight of the reader, by channel: (channels,)."""
        # a Linear reads an image channel by channel, so one channel's columns are consecutive
        return values.reshape(len(values), len(self.mask), -1).sum(dim=(0, 2))

    @property
    def columns(self) -> torch.Tensor:
        """Mask of the kept channels, in a shape that multiplies the reader's weights."""
        # a Linear has a column per pixel of a channel, a convolution one per channel
        shape = self.module.weight.shape
        return self.mask.repeat_interleave(shape[1] // len(self.mask)).reshape(1, -1, *[1] * (len(shape) - 2))


class Channels:
    """Channels of a model's convolutions under a budget.

    Parameters
    ----------
    model : torch.nn.Module
        A chain.
    budget : Budget
        Its convolutions have as many channels as may be kept.
    thresholds : mapping of layer to float, optional
        Firing thresholds behind convolutions, in the units of the model's weights; for the layers in it the loss sees weights
        rounded to the chip's integers.

    Attributes
    ----------
    convolutions : dict of layer to module
        Those that mix channels.
    choices : list of ChannelSelection
        One for each convolution that loses channels.
    n_channels : dict of layer to int
        Of all images of the model, pooled ones included.
    n_weights : int
        Of the convolutions.
    """

    def __init__(
        self, model: torch.nn.Module, budget: Budget, thresholds: Mapping[str, float] = MappingProxyType({})
    ) -> None:  # fmt: skip
        convolutions, rows = find_convolutions(model, budget), find_layers(model, budget)
        names = [part.layer for part in budget.layers]
        weighted = [name for name in names if name in convolutions or name in rows]
        self.choices: list[ChannelSelection] = []
        self.target = arithmetic_of(budget.profile).name
        self.n_channels = {name: budget.grid(name)[0] for name in names}
        for layer, reader in pairwise(weighted):
            if layer in convolutions:
                source = convolutions[layer]
                # pools between a convolution and its reader have the channels of the convolution
                pools = names[names.index(layer) : names.index(reader)]
                self.n_channels |= dict.fromkeys(pools, source.out_channels)
                module = convolutions.get(reader) or require_feed_forward(reader, rows[reader])
                if source.out_channels > budget.grid(layer)[0]:
                    n, device = source.out_channels, source.weight.device
                    self.choices.append(ChannelSelection(
                        layer=layer, keep=budget.grid(layer)[0], reader=reader, module=module,
                        mask=torch.ones(n, dtype=torch.bool, device=device), saliency=torch.zeros(n, device=device),
                        steps=torch.zeros(n, device=device),
                    ))  # fmt: skip
        self.n_weights = sum(module.weight.numel() for module in convolutions.values())
        self.convolutions, self.width = convolutions, budget.weight_bits
        self.thresholds = {name: threshold for name, threshold in thresholds.items() if name in convolutions}
        biased = {name: convolutions[name].bias for name in self.thresholds if budget.of(name)[0].biases}
        self._biases = {name: bias for name, bias in biased.items() if bias is not None}

    @property
    def n_kept(self) -> int:
        """Weights of the convolutions between kept channels."""
        outputs = {choice.layer: choice.mask for choice in self.choices}
        inputs = {choice.reader: choice.mask for choice in self.choices}
        total = 0
        for name, module in self.convolutions.items():
            rows = int(outputs[name].sum()) if name in outputs else module.out_channels
            columns = int(inputs[name].sum()) if name in inputs else module.in_channels
            total += rows * columns * module.weight[0, 0].numel()
        return total

    def columns(self, layer: str) -> torch.Tensor | None:
        """Inputs of a dense layer that come from kept channels, (n_in,) bool; None where all channels are kept."""
        # [0]: a Linear's columns come as (1, n_in)
        found = [choice.columns[0] for choice in self.choices if choice.reader == layer]
        return found[0] if found else None

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """While open, convolutions read kept channels only, with rounded weights; the other weights get no gradient."""
        # through `data`, as in `substituted_weights`: the gradient arrives in the module's own parameter
        own = {name: module.weight.data for name, module in self.convolutions.items()}
        biases = [(bias, bias.data) for bias in self._biases.values()]
        kept = {choice.reader: choice.columns for choice in self.choices if choice.reader in own}
        try:
            for name, module in self.convolutions.items():
                # mask first, then round: the grid's scale is that of the kept weights
                weight = own[name] * kept[name] if name in kept else own[name]
                grid = self._grid(name, weight)
                module.weight.data = weight if grid is None else grid.round(weight)
                if grid is not None and name in self._biases:
                    self._biases[name].data = grid.round_biases(self._biases[name].detach(), weight)
            yield
            for name, columns in kept.items():
                gradient = self.convolutions[name].weight.grad
                if gradient is not None:
                    gradient.mul_(columns)
        finally:
            for name, module in self.convolutions.items():
                module.weight.data = own[name]
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
            if (gradient := choice.module.weight.grad) is None:
                continue
            slope = choice.by_channel(choice.module.weight * gradient).square()
            choice.steps.add_(choice.mask)
            # a plain mean at first, then a moving one; a rate of 0 leaves a removed channel's last value
            rate = (1 / choice.steps.clamp(min=1)).clamp(min=_CHANNEL_RATE) * choice.mask
            choice.saliency.lerp_(slope.to(choice.saliency.dtype), rate)

    @torch.no_grad()
    def choose(self, progress: float) -> None:
        """Keep the most salient channels, as many as are in force at `progress` 0..1."""
        for choice in self.choices:
            n = between(len(choice.mask), choice.keep, progress)
            # before the first gradient, the squared weights that read a channel stand for its saliency
            scores = choice.saliency if choice.steps.any() else choice.by_channel(choice.module.weight.square())
            # stable: ties go to the lower channel on every machine
            kept = scores.argsort(descending=True, stable=True)[:n]
            choice.mask.zero_()[kept] = True

    @torch.no_grad()
    def hold(self) -> None:
        """Set the weights that read removed channels to zero."""
        for choice in self.choices:
            choice.module.weight.mul_(choice.columns)

    def overruns(self) -> Mapping[str, float]:
        """Channels over those of the budget, less one."""
        return {f"{choice.layer} channels": int(choice.mask.sum()) / choice.keep - 1 for choice in self.choices}

    def state_dict(self) -> Mapping[str, Any]:
        """Kept channels, their saliencies and the steps these are of."""
        return {c.layer: {"mask": c.mask, "saliency": c.saliency, "steps": c.steps} for c in self.choices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        for choice in self.choices:
            for name, tensor in state[choice.layer].items():
                getattr(choice, name).copy_(tensor)
