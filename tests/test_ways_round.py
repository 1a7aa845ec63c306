"""What is refused is refused for its true reason, and what the error says instead comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from norse.torch import LIFBoxCell, LIFCell, LIFFeedForwardState, SequentialState
from torch import nn

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.torch.extract import extract

IMAGE = torch.zeros(1, 2, 6, 6)


def net(*between: nn.Module, channels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return SequentialState(nn.Conv2d(2, channels, 3, padding=1, bias=False), LIFBoxCell(), *between, LIFBoxCell())


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, **{"kernel_size": 3, "bias": False, **options})


LAYERS: dict[str, tuple[list[nn.Module], str, list[nn.Module]]] = {
    "circular padding": (
        [conv(padding=1, padding_mode="circular")],
        r"2 \(Conv2d\): needs images.*pad in the convolution itself",
        [conv(padding=1)],
    ),
    "uneven padding": (
        [nn.ZeroPad2d((0, 1, 0, 1)), conv(stride=2)],
        r"3 \(Conv2d\): needs images.*zeros, equally",
        [conv(padding=1)],
    ),
    "same, an even window": (
        [conv(kernel_size=2, padding="same")],
        r"pads one side more.*pad by a number",
        [conv(padding="same")],
    ),
    "ceil": ([nn.AvgPool2d(4, ceil_mode=True)], r"reach over the edge.*ceil_mode=False", [nn.AvgPool2d(4, ceil_mode=False)]),
    "counts of the border": (
        [nn.AvgPool2d(3, 2, 1, count_include_pad=False)],
        r"fewer pixels at the border.*count_include_pad=True directly behind neurons",
        [nn.AvgPool2d(3, 2, 1, count_include_pad=True), conv(kernel_size=1)],
    ),
    "uneven windows": ([nn.AdaptiveAvgPool2d(4)], r"does not divide \(6, 6\) pixels.*Use AvgPool2d", [nn.AvgPool2d(2)]),
    "a maximum of currents": (
        [conv(), nn.MaxPool2d(2)],
        r"3 \(MaxPool2d\): takes the maximum of the output of 2.*behind the neurons",
        [nn.MaxPool2d(2), conv(kernel_size=1)],
    ),
    "an activation": (
        [conv(), nn.ReLU()],
        r"3 \(ReLU\): relu is not supported.*Put spiking neurons there",
        [conv(), LIFBoxCell()],
    ),
    "a transposed convolution": (
        [nn.ConvTranspose2d(4, 2, 2, 2)],
        r"conv_transpose2d is not supported.*PixelShuffle",
        [conv(), nn.PixelShuffle(2)],
    ),
    "a larger image": (
        [nn.Upsample(scale_factor=2), conv()],
        r"interpolate is not supported.*PixelShuffle",
        [conv(), nn.PixelShuffle(2)],
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize("kind", LAYERS)
def test_what_the_error_says_instead_comes_in(kind: str) -> None:
    refused, reason, instead = LAYERS[kind]
    with pytest.raises(ExtractError, match=reason):
        extract(net(*refused), IMAGE)
    behind = instead if not isinstance(instead[-1], LIFBoxCell) else instead[:-1]
    assert len(extract(net(*behind), IMAGE).layers) >= 2


def by_pixel_shuffle(function: Callable[[torch.Tensor], torch.Tensor], stride: int = 2) -> nn.Sequential:
    """A convolution and a PixelShuffle that give what a linear function of images gives, `stride` times larger."""
    impulses = torch.zeros(4, 4, 5, 5)
    impulses[range(4), range(4), 2, 2] = 1
    answers = function(impulses)
    made = nn.Conv2d(4, answers.shape[1] * stride**2, 3, padding=1, bias=False)
    with torch.no_grad():
        for a in range(stride):
            for b in range(stride):
                for i in range(3):
                    for j in range(3):
                        y, x = stride * (3 - i) + a, stride * (3 - j) + b
                        made.weight[a * stride + b :: stride**2, :, i, j] = answers[:, :, y, x].T
    return nn.Sequential(made, nn.PixelShuffle(stride))


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(4, 2, 2, 2, bias=False),
        nn.ConvTranspose2d(4, 2, 3, 2, 1, 1, bias=False),
        nn.ConvTranspose2d(4, 2, 4, 2, 1, bias=False),
        nn.Sequential(nn.Upsample(scale_factor=2), conv(padding=1)),
    ],
)
def test_transposed_and_enlarging_convolutions_are_convolutions_and_a_pixel_shuffle(module: nn.Module) -> None:
    with torch.no_grad():
        same = by_pixel_shuffle(module)
        image = torch.rand(3, 4, 6, 6)
        torch.testing.assert_close(same(image), module(image))
    network = extract(net(same), IMAGE)
    assert network.output.shape[1:] == (12, 12)


class Starts(nn.Module):
    """Membranes that start at a value."""

    def __init__(self, start: float | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif, self.start = nn.Linear(8, 6, bias=False), LIFCell(), start

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zeros, outputs = torch.zeros(x.shape[1], 6), []
        state = None if self.start is None else LIFFeedForwardState(v=zeros + self.start, i=zeros)
        for step in range(len(x)):
            spikes, state = self.lif(self.fc(x[step]), state)
            outputs.append(spikes)
        return torch.stack(outputs)


def test_a_state_that_is_not_rest_is_the_reason_in_a_loop_too() -> None:
    sample = torch.zeros(5, 1, 8)
    with pytest.raises(ExtractError, match=r"^lif \(LIFCell\): starts from a state that is not rest.*Start with None"):
        extract(Starts(0.5), sample)
    assert extract(Starts(None), sample) == extract(Starts(0.0), sample)


class Unreset(nn.Module):
    """Neurons of a tutorial, in a loop, that never reset; or that do."""

    def __init__(self, resets: bool) -> None:
        super().__init__()
        self.first, self.second, self.resets = nn.Linear(8, 6), nn.Linear(6, 3), resets

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v, w, outputs = torch.zeros(x.shape[1], 6), torch.zeros(x.shape[1], 3), []
        for step in range(len(x)):
            v = 0.9 * v + self.first(x[step])
            spikes = (v > 1.0).float()
            w = 0.9 * w + self.second(spikes)
            out = (w > 1.0).float()
            if self.resets:
                v, w = v * (1 - spikes), w * (1 - out)
            outputs.append(out)
        return torch.stack(outputs)


def test_neurons_without_reset_are_the_reason_in_a_loop_too() -> None:
    sample = torch.zeros(5, 1, 8)
    with pytest.raises(ExtractError, match=r"^model \(Unreset\): does not reset.*v = v \* \(1 - spike\)"):
        extract(Unreset(resets=False), sample)
    torch.manual_seed(0)
    assert [layer.name for layer in extract(Unreset(resets=True), sample)] == ["first", "second"]
