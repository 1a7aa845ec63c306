"""Modules and functions between neurons fold into synapses: the model's own answers stand beside the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import (
    IAFCell,
    LIBoxCell,
    LICell,
    LIFBoxCell,
    LIFCell,
    SequentialState,
)
from norse_runs import assert_read, drive, given, hears
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)
from torch.nn.utils.parametrizations import weight_norm

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.graph import INPUT
from neurodeploy.simulation.layer_schedule import run_reference

# ---------------------------------------------------------------------------------------------- modules and functions


class LoudConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class FlattenHalf(nn.Flatten):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, ::2]


def dense(n: int) -> nn.Linear:
    return nn.Linear(n, 3, bias=False)


MODELS: list[tuple[str, tuple[int, ...], list[nn.Module]]] = [
    ("Conv1d", (2, 9), [nn.Conv1d(2, 4, 3, 2, 1, 2, 2), LIFCell(), nn.MaxPool1d(2), nn.Flatten(), dense(8), LICell()]),
    ("AvgPool1d", (2, 8), [nn.AvgPool1d(2), nn.Conv1d(2, 3, 2), IAFCell(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), LIBoxCell()]),
    ("AdaptiveMaxPool1d", (2, 8), [nn.Conv1d(2, 3, 1), IAFCell(), nn.AdaptiveMaxPool1d(2), nn.Flatten(), dense(6), LIBoxCell()]),
    ("a window of all kinds", (2, 7, 6), [nn.Conv2d(2, 4, 3, (2, 1), 1, (1, 2), 2), LIFCell(), nn.Flatten(), LICell()]),
    ("SumPool", (2, 4, 4), [nn.LPPool2d(1, 2), nn.Conv2d(2, 3, 1, bias=False), LIFBoxCell()]),
    ("AdaptiveMaxPool2d", (2, 4, 4), [nn.Conv2d(2, 3, 1), IAFCell(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), dense(12), LICell()]),
    ("BatchNorm in front", (2, 4, 4), [nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1, bias=False), LIFCell()]),
    ("BatchNorm alone", (2, 4, 4), [nn.BatchNorm2d(2), LIFBoxCell()]),
    ("a convolution of its own mind", (2, 4, 4), [LoudConv(2, 3, 3), LIFBoxCell()]),
    ("a flatten of its own mind", (2, 4), [FlattenHalf(), dense(4), LIFCell()]),
    ("weights of two parts", (6,), [weight_norm(nn.Linear(6, 4)), LIFCell(), dense(4), LICell()]),
    ("a cell alone", (6,), [LIFCell()]),
    ("a channel each", (2, 4, 4), [nn.ChannelShuffle(2), nn.Conv2d(2, 2, 3, groups=2), IAFCell()]),
    ("an image from a row", (16,), [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3, bias=False), IAFCell()]),
    ("an image from neurons", (6,), [nn.Linear(6, 8), IAFCell(), nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 2, 2), IAFCell()]),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "modules"), [m[1:] for m in MODELS], ids=[m[0] for m in MODELS])
def test_modules_between_neurons(shape: tuple[int, ...], modules: list[nn.Module]) -> None:
    torch.manual_seed(1)
    model = SequentialState(*modules).double().eval()
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias)
    spikes = given(*shape)
    network = extract(drive(model), spikes[0])
    given_spikes = np.moveaxis(spikes.numpy(), 0, -1).astype(np.uint8)
    record = run_reference(network, given_spikes.reshape(2, *network.input_shape, -1))
    last, theirs = network.output.name, answers_of_sequence(model, spikes)
    ours = record.spikes[last] if hasattr(network.output.neuron, "threshold") else record.v[last]
    assert np.ptp(theirs) > 0
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-5)


def answers_of_sequence(model: SequentialState, spikes: torch.Tensor) -> NDArray[Any]:
    state, said = None, []
    with torch.no_grad():
        for x in spikes:
            out, state = model(x, state)
            said.append(out)
    return torch.stack(said, dim=-1).numpy()


def test_functions_in_place_of_modules() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.matrix = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(12, 4))
            self.one, self.two = LIFCell(), LICell()

        def forward(self, x: torch.Tensor, s: Any = None, t: Any = None) -> Any:
            x = F.avg_pool2d(F.dropout(x, training=self.training), 2) * 4
            z, s = self.one(F.conv2d(x, self.kernel, padding=1), s)
            z = F.max_pool2d(z, 2).view(len(x), -1)
            v, t = self.two(z.repeat(1, 4) @ self.matrix - 0.1, t)
            return v, s, t

    network = assert_read(Functional().eval(), 2, 4, 4)
    assert [layer.name for layer in network] == ["bias", "one", "layer", "two"]


def test_an_input_may_come_by_its_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.matrix = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(4, 12))
            self.one, self.two = LIFCell(), LICell()

        def forward(self, x: torch.Tensor, s: Any = None, t: Any = None) -> Any:
            z, s = self.one(F.conv2d(weight=self.kernel, padding=1, input=F.avg_pool2d(input=x, kernel_size=2)), s)
            z = F.max_pool2d(kernel_size=1, input=z).flatten(1)
            v, t = self.two(F.linear(weight=self.matrix, input=z), t)
            return v, s, t

    network = assert_read(Named().eval(), 2, 4, 4)
    assert [layer.name for layer in network] == ["one", "layer", "two"]


def test_a_module_used_twice_is_two_populations() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 6), LIFBoxCell()

        def forward(self, x: torch.Tensor, s: Any = None, t: Any = None) -> Any:
            z, s = self.lif(self.fc(x), s)
            z, t = self.lif(self.fc(z), t)
            return z, s, t

    network = assert_read(Twice(), 6)
    assert hears(network) == {"fc": [INPUT], "fc_2": ["fc"]}


def test_thresholds_a_channel_in_a_module_by_hand() -> None:
    from norse.torch import IAFParameters

    cell = IAFCell(IAFParameters(v_th=torch.tensor([1.0, 3.0]).reshape(2, 1, 1)))
    network = assert_read(SequentialState(nn.Conv2d(1, 2, 3, padding=1), cell), 1, 4, 4)
    assert network.output.neuron.threshold.reshape(2, 16)[:, 0].tolist() == [1.0, 3.0]
