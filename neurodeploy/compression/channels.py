"""Which channels of convolutions survive: as many as the budget has room for, those that the loss would miss most.

A channel goes when nobody hears it any more, so what is masked are the weights of those that do: whatever stands between, a
normalisation, pooling, is of no account. What the loss would miss is told to second order by the square of its slope along the
channel, sum over the channel's outgoing weights of w dL/dw (Fisher pruning; Theis et al., arXiv 1801.05787).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch

from neurodeploy.compression.bit_width import Grid
from neurodeploy.compression.constraints import between
from neurodeploy.compression.weight_matrices import Convolution, check_feeds_forward, find_convolutions, find_layers
from neurodeploy.mapping.budget.budget import Budget

_FORGETS = 0.01
"""Share of a channel's past that a step replaces, once it has been heard a hundred times."""


@dataclass(frozen=True, kw_only=True)
class ChannelChoice:
    """A convolution that has more channels than it may keep, and who hears them.

    Attributes
    ----------
    alive : tensor (channels,), bool
    missed : tensor (channels,)
        Mean of the squared slope along each while it is alive.
    heard : tensor (channels,)
        Steps that the mean is of.
    """

    layer: str
    keep: int
    listener: str
    module: Convolution | torch.nn.Linear
    alive: torch.Tensor
    missed: torch.Tensor
    heard: torch.Tensor

    def by_channel(self, values: torch.Tensor) -> torch.Tensor:
        """(channels,): sums of values, one a weight of the listener."""
        return values.reshape(len(values), len(self.alive), -1).sum(dim=(0, 2))

    @property
    def columns(self) -> torch.Tensor:
        """The channels that are alive, as a mask that multiplies the listener's weights."""
        shape = self.module.weight.shape
        return self.alive.repeat_interleave(shape[1] // len(self.alive)).reshape(1, -1, *[1] * (len(shape) - 2))


class Channels:
    """The channels of a model's convolutions under a budget.

    Parameters
    ----------
    model : torch.nn.Module
        A chain.
    budget : Budget
        Its convolutions have as many channels as may be kept.
    thresholds : mapping of layer to float, optional
        Of neurons behind convolutions, in the units of the model; the loss sees the weights of these in the chip's integers.

    Attributes
    ----------
    convolutions : dict of layer to module
        Those that mix channels.
    choices : list of ChannelChoice
        Of those among them that lose channels.
    n_channels : dict of layer to int
        Of all images of the model, pools included.
    n_weights : int
        Of the convolutions.
    """

    def __init__(
        self, model: torch.nn.Module, budget: Budget, thresholds: Mapping[str, float] = MappingProxyType({})
    ) -> None:  # fmt: skip
        convolutions, rows = find_convolutions(model, budget), find_layers(model, budget)
        weighted = [part.layer for part in budget.layers if part.layer in convolutions or part.layer in rows]
        self.choices = []
        self.n_channels = {part.layer: budget.grid(part.layer)[0] for part in budget.layers}
        for layer, listener in pairwise(weighted):
            if layer in convolutions:
                self._tie(layer, listener, convolutions[layer].out_channels, budget)
                module = convolutions.get(listener) or check_feeds_forward(listener, rows[listener])
                if convolutions[layer].out_channels > budget.grid(layer)[0]:
                    self.choices.append(_open(layer, listener, convolutions[layer], module, budget))
        self.n_weights = sum(module.weight.numel() for module in convolutions.values())
        self.convolutions, self.width = convolutions, budget.weight_bits
        self.thresholds = {name: threshold for name, threshold in thresholds.items() if name in convolutions}
        biased = {name: convolutions[name].bias for name in self.thresholds if budget.of(name)[0].biases}
        self._biases = {name: bias for name, bias in biased.items() if bias is not None}

    def _tie(self, layer: str, listener: str, n_channels: int, budget: Budget) -> None:
        """Say how many channels a convolution has, and what pools them."""
        names = [part.layer for part in budget.layers]
        self.n_channels |= dict.fromkeys(names[names.index(layer) : names.index(listener)], n_channels)

    @property
    def n_alive(self) -> int:
        """Weights of the convolutions between channels that survive."""
        alive = {choice.layer: choice.alive for choice in self.choices}
        into = {choice.listener: choice.alive for choice in self.choices}
        total = 0
        for name, module in self.convolutions.items():
            rows = int(alive[name].sum()) if name in alive else module.out_channels
            columns = int(into[name].sum()) if name in into else module.in_channels
            total += rows * columns * module.weight[0, 0].numel()
        return total

    def columns(self, layer: str) -> torch.Tensor | None:
        """(n_in,): the inputs of a dense layer that come from channels that survive; None where there is no choice of them."""
        found = [choice.columns[0] for choice in self.choices if choice.listener == layer]
        return found[0] if found else None

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Convolutions hear surviving channels only, in the chip's integers; what they would hear of the others rests."""
        own = {name: module.weight.data for name, module in self.convolutions.items()}
        biases = [(bias, bias.data) for bias in self._biases.values()]
        heard = {choice.listener: choice.columns for choice in self.choices if choice.listener in own}
        try:
            for name, module in self.convolutions.items():
                weight = own[name] * heard[name] if name in heard else own[name]
                grid = self._grid(name, weight)
                module.weight.data = weight if grid is None else grid.rounded(weight)
                if grid is not None and name in self._biases:
                    self._biases[name].data = grid.beside(self._biases[name].detach(), weight)
            yield
            for name, columns in heard.items():
                gradient = self.convolutions[name].weight.grad
                if gradient is not None:
                    gradient.mul_(columns)
        finally:
            for name, module in self.convolutions.items():
                module.weight.data = own[name]
            for bias, data in biases:
                bias.data = data

    def _grid(self, name: str, weight: torch.Tensor) -> Grid | None:
        """The largest weight takes the largest integer of its width, as `neurodeploy.passes.quantize.quantize` has it."""
        if name not in self.thresholds:
            return None
        return Grid(width=self.width, largest=float(weight.abs().max()), threshold=self.thresholds[name])

    @torch.no_grad()
    def listen(self) -> None:
        """Learn from the gradients of a step what the loss would miss."""
        for choice in self.choices:
            if (gradient := choice.module.weight.grad) is None:
                continue
            slope = choice.by_channel(choice.module.weight * gradient).square()
            choice.heard.add_(choice.alive)
            rate = (1 / choice.heard.clamp(min=1)).clamp(min=_FORGETS) * choice.alive
            choice.missed.lerp_(slope.to(choice.missed.dtype), rate)

    @torch.no_grad()
    def choose(self, progress: float) -> None:
        """Keep the channels that would be missed most, as many as are in force at `progress` 0..1."""
        for choice in self.choices:
            n = between(len(choice.alive), choice.keep, progress)
            worth = choice.missed if choice.heard.any() else choice.by_channel(choice.module.weight.square())
            kept = worth.argsort(descending=True, stable=True)[:n]
            choice.alive.zero_()[kept] = True

    @torch.no_grad()
    def hold(self) -> None:
        """Set to zero what would be heard of channels that do not survive."""
        for choice in self.choices:
            choice.module.weight.mul_(choice.columns)

    def overruns(self) -> Mapping[str, float]:
        """Channels over those of the budget less one."""
        return {f"{choice.layer} channels": int(choice.alive.sum()) / choice.keep - 1 for choice in self.choices}

    def state_dict(self) -> Mapping[str, Any]:
        """What is alive, and how it was chosen."""
        return {c.layer: {"alive": c.alive, "missed": c.missed, "heard": c.heard} for c in self.choices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        for choice in self.choices:
            for name, tensor in state[choice.layer].items():
                getattr(choice, name).copy_(tensor)


def _open(layer: str, listener: str, source: Convolution, module: Convolution | torch.nn.Linear, budget: Budget) -> ChannelChoice:
    device, n = source.weight.device, source.out_channels
    return ChannelChoice(
        layer=layer, keep=budget.grid(layer)[0], listener=listener, module=module,
        alive=torch.ones(n, dtype=torch.bool, device=device), missed=torch.zeros(n, device=device),
        heard=torch.zeros(n, device=device),
    )  # fmt: skip
