"""Networks of the paper's field as people write them, torch modules with random weights; `width` makes narrower copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from norse.torch import LIBoxCell, LICell, LIFBoxCell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.lif_box import LIFBoxParameters
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)

State = Any
Stages = list[tuple[int, int, int]]
"""Channels, blocks, and the stride of the first of these."""


def lif() -> LIFBoxCell:
    """The field's LIF: no synaptic current, a time constant of two steps."""
    return LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.5)))


def conv_bn(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out))


class Mlp(nn.Module):
    """784-800-10: time is looped over inside, as in Norse's own tutorial."""

    def __init__(self, hidden: int = 800) -> None:
        super().__init__()
        parameters = LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.3))
        self.fc1, self.lif, self.fc2, self.out = nn.Linear(784, hidden), LIFCell(parameters), nn.Linear(hidden, 10), LICell()

    def forward(self, x: Tensor) -> Tensor:
        s1 = s2 = None
        voltages = []
        for t in range(x.shape[0]):
            z, s1 = self.lif(self.fc1(x[t].flatten(1)), s1)
            v, s2 = self.out(self.fc2(z), s2)
            voltages.append(v)
        return F.log_softmax(torch.stack(voltages).max(0)[0], dim=1)


def conv6_fc2(width: int = 256, hidden: int = 2048, side: int = 32) -> SequentialState:
    """6Conv+2FC: two stages of three convolutions, each pooled by its maximum."""
    modules: list[nn.Module] = []
    for k in range(6):
        modules += [conv_bn(3 if k == 0 else width, width), lif()]
        modules += [nn.MaxPool2d(2)] if k in (2, 5) else []
    flat = width * (side // 4) ** 2
    head = [nn.Linear(flat, hidden), lif(), nn.Linear(hidden, 100), lif(), nn.Linear(100, 10), LIBoxCell()]
    return SequentialState(*modules, nn.Flatten(), nn.Dropout(), *head)


class Vgg(nn.Module):
    """Convolutions in stages with pooling between, spikes averaged; `plan` has channels, and "P" for a pooling."""

    def __init__(self, plan: list[Any], c_in: int, side: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for entry in plan:
            if entry == "P":
                layers.append(nn.AvgPool2d(2))
                side //= 2
                continue
            layers += [conv_bn(c_in, entry), lif()]
            c_in = entry
        self.features = SequentialState(*layers)
        self.classifier, self.out = nn.Linear(c_in * side * side, classes), LIBoxCell()

    def forward(self, x: Tensor, state: State = (None, None)) -> Any:
        z, features = self.features(x, state[0])
        v, out = self.out(self.classifier(torch.flatten(z, 1)), state[1])
        return v, (features, out)


def vgg16(divide: int = 1, side: int = 32) -> Vgg:
    stages = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
    return Vgg([entry for stage in stages for entry in (*(c // divide for c in stage), "P")], 3, side, 10)


def vggsnn(divide: int = 1, side: int = 48) -> Vgg:
    """VGGSNN for event cameras, 2 x 48 x 48."""
    stages = ((64, 128), (256, 256), (512, 512), (512, 512))
    return Vgg([entry for stage in stages for entry in (*(c // divide for c in stage), "P")], 2, side, 10)


class ResidualBlock(nn.Module):
    """Currents add up in front of the second neurons."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.lif1 = conv_bn(c_in, c_out, stride=stride), lif()
        self.conv2, self.lif2 = conv_bn(c_out, c_out), lif()
        self.shortcut = conv_bn(c_in, c_out, 1, stride) if c_in != c_out or stride > 1 else nn.Identity()

    def forward(self, x: Tensor, state: State = (None, None)) -> Any:
        z, s1 = self.lif1(self.conv1(x), state[0])
        z, s2 = self.lif2(self.conv2(z) + self.shortcut(x), state[1])
        return z, (s1, s2)


class SewBlock(ResidualBlock):
    """Spikes add up behind the second neurons (SEW-ResNet's ADD)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__(c_in, c_out, stride)
        self.lif3 = lif()

    def forward(self, x: Tensor, state: State = (None, None, None)) -> Any:
        z, s1 = self.lif1(self.conv1(x), state[0])
        z, s2 = self.lif2(self.conv2(z), state[1])
        if isinstance(self.shortcut, nn.Identity):
            return z + x, (s1, s2, None)
        past, s3 = self.lif3(self.shortcut(x), state[2])
        return z + past, (s1, s2, s3)


class ResNet(nn.Module):
    """A stem, blocks in a list with a state each, an average over the image."""

    def __init__(self, block: Callable[..., nn.Module], stem: nn.Module, c_in: int, stages: Stages, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.lif, self.head = stem, lif(), head
        self.pool = nn.MaxPool2d(3, 2, 1) if block is SewBlock else nn.Identity()
        blocks: list[nn.Module] = []
        for channels, count, stride in stages:
            for k in range(count):
                blocks.append(block(c_in, channels, stride if k == 0 else 1))
                c_in = channels
        self.blocks, self.average = nn.ModuleList(blocks), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor, states: State = None) -> Any:
        states = [None] * (len(self.blocks) + 2) if states is None else states
        after = []
        z, state = self.lif(self.stem(x), states[0])
        after.append(state)
        z = self.pool(z)
        for block, before in zip(self.blocks, states[1:], strict=False):
            z, state = block(z) if before is None else block(z, before)
            after.append(state)
        v, state = self.head(torch.flatten(self.average(z), 1), states[-1])
        return v, [*after, state]


def resnet19(divide: int = 1) -> ResNet:
    """ResNet-19 of spiking networks on 32 x 32."""
    width = 128 // divide
    stages = [(width, 3, 1), (2 * width, 3, 2), (4 * width, 2, 2)]
    head = SequentialState(nn.Linear(4 * width, 2 * width), lif(), nn.Linear(2 * width, 10), LIBoxCell())
    return ResNet(ResidualBlock, conv_bn(3, width // 2), width // 2, stages, head)


def sew_resnet18(divide: int = 1, classes: int = 1000) -> ResNet:
    """SEW-ResNet-18 with ADD, on 224 x 224."""
    width = 64 // divide
    stages = [(width, 2, 1), (2 * width, 2, 2), (4 * width, 2, 2), (8 * width, 2, 2)]
    head = SequentialState(nn.Linear(8 * width, classes), LIBoxCell())
    return ResNet(SewBlock, conv_bn(3, width, 7, 2), width, stages, head)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, with random statistics as if trained, so that spikes reach its end."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (4 / fan_in) ** 0.5
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 0.5, generator=generator)
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.uniform_(0.0, 0.4, generator=generator)
    return model.eval()
