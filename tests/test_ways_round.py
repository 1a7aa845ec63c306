"""What is refused is refused for its true reason, and what the error says instead comes in."""

from __future__ import annotations

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
    "a maximum of currents": (
        [conv(), nn.MaxPool2d(2)],
        r"3 \(MaxPool2d\): takes the maximum of the output of 2.*behind the neurons",
        [nn.MaxPool2d(2), conv(kernel_size=1)],
    ),
    "an activation": (
        [conv(), nn.ReLU()],
        r"3 \(ReLU\): relu is not supported.*Put spiking neurons in its place",
        [conv(), LIFBoxCell()],
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_what_the_error_says_instead_comes_in(kind: str) -> None:
    refused, reason, instead = LAYERS[kind]
    with pytest.raises(ExtractError, match=reason):
        extract(net(*refused), IMAGE)
    behind = instead if not isinstance(instead[-1], LIFBoxCell) else instead[:-1]
    assert len(extract(net(*behind), IMAGE).layers) >= 2


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
