"""Branches of a model that part and meet come in as connections: its own answers stand beside the reference's."""

from __future__ import annotations

from collections.abc import Callable
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
from norse_runs import assert_read, drive, hears
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)

from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Conv, Dense, Sparse

# ---------------------------------------------------------------------------------------------- branches


OF_SPIKES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "and": lambda y, z: y * z,
    "iand": lambda y, z: (1 - y) * z,
    "or": lambda y, z: y + z - y * z,
    "maximum": torch.maximum,
    "clamp": lambda y, z: (y + z).clamp(max=1),
}
"""How SEW-ResNet and its kin join spikes."""


class Block(nn.Module):
    """One step of a branch and a way past it; `joins` says how they meet, in front of neurons or behind."""

    def __init__(self, joins: str) -> None:
        super().__init__()
        self.joins = joins
        self.conv1, self.lif1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), LIFCell()
        self.conv2, self.bn2, self.lif2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), LIFCell()
        self.short = nn.Conv2d(4, 4, 1, bias=False)
        self.fc, self.out = nn.Linear(8 if joins == "cat" else 4, 3, bias=False), LICell()

    def forward(self, x: torch.Tensor, state: Any = (None, None, None)) -> Any:
        z1, a = self.lif1(self.conv1(x), state[0])
        current = self.bn2(self.conv2(z1))
        if self.joins == "currents":
            current = current + self.short(z1)
        elif self.joins == "identity":
            current += z1
        z2, b = self.lif2(current, state[1])
        if self.joins == "spikes":
            z2 = z2 + z1
        elif self.joins == "cat":
            z2 = torch.cat([z1, z2], dim=1)
        elif self.joins in OF_SPIKES:
            z2 = OF_SPIKES[self.joins](z1, z2)
        v, c = self.out(self.fc(F.adaptive_avg_pool2d(z2, 1).flatten(1)), state[2])
        return v, (a, b, c)


@pytest.mark.parametrize(
    ("joins", "last", "kinds"),
    [
        ("currents", ["conv2"], {"conv2": [Conv, Conv, Dense]}),
        ("identity", ["conv2"], {"conv2": [Conv, Conv, Dense]}),
        ("spikes", ["conv2", "conv1"], {"fc": [Conv, Conv]}),
        ("cat", ["conv1", "conv2"], {"fc": [Conv, Conv]}),
    ],
)
def test_a_residual_block(joins: str, last: list[str], kinds: dict[str, list[type]]) -> None:
    """Currents that add up are connections into one layer; spikes that add up, or stand side by side, are heard from each."""
    network = assert_read(Block(joins).double().eval(), 2, 4, 4)
    assert hears(network)["fc"] == last
    for name, expected in kinds.items():
        assert [type(c.synapse) for c in network[name].connections] == expected


@pytest.mark.parametrize("joins", OF_SPIKES)
def test_functions_of_two_populations_spikes_are_neurons(joins: str) -> None:
    network = assert_read(Block(joins).double().eval(), 2, 4, 4)
    layer = network["layer"]
    assert [c.source for c in layer.connections] == ["conv1", "conv2"]
    assert all(c.is_fixed for c in layer.connections)
    assert not np.any(layer.bias)
    assert hears(network)["fc"] == (["conv1", "conv2", "layer"] if joins == "or" else ["layer"])


def test_a_convolution_of_what_stands_side_by_side_takes_a_slice_of_each() -> None:
    class Dense2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (
                nn.Conv2d(2, 3, 1, bias=False),
                nn.Conv2d(2, 1, 1, bias=False),
                nn.Conv2d(6, 4, 3, bias=False, groups=2),
            )
            self.cells = nn.ModuleList([IAFCell(), IAFCell(), IAFCell()])

        def forward(self, x: torch.Tensor, state: Any = (None, None, None)) -> Any:
            a, s = self.cells[0](self.a(x), state[0])
            b, t = self.cells[1](self.b(x), state[1])
            z, u = self.cells[2](self.c(torch.cat((a, x, b), 1)), state[2])
            return z, (s, t, u)

    model = drive(Dense2())
    network = assert_read(model, 2, 5, 5)
    weight = model.c.weight.detach().numpy()
    assert hears(network)["c"] == ["a", INPUT, "b"]
    of_a, of_input, of_b = (c.synapse.weight for c in network["c"].connections)
    np.testing.assert_array_equal(of_a[:2], weight[:2])
    np.testing.assert_array_equal(of_b[2:], weight[2:, 2:])
    assert not of_a[2:].any()
    assert not of_input[:2].any()


def test_currents_side_by_side_and_parts_of_what_is_said() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.one, self.two = (
                nn.Linear(3, 4),
                nn.Linear(3, 2),
                nn.Linear(3, 3),
                LIFBoxCell(),
                LIFCell(),
            )

        def forward(self, x: torch.Tensor, s: Any = None, t: Any = None) -> Any:
            z, s = self.one(torch.cat([self.a(x[:, :3]), self.b(x[:, 3:])], 1), s)
            first, second = z.chunk(2, dim=1)
            z, t = self.two(0.5 * self.c(first) - self.c(second.flip(1)) / 3, t)
            return z, s, t

    network = assert_read(Parts(), 6)
    assert hears(network)["c"] == ["a", "a", "bias"]


def test_spikes_that_go_straight_on() -> None:
    network = assert_read(SequentialState(nn.Linear(6, 5), LIFBoxCell(), IAFCell(), LIBoxCell()), 6)
    assert [type(layer.connections[0].synapse) for layer in network] == [Dense, Sparse, Sparse]
    images = assert_read(SequentialState(nn.Conv2d(1, 2, 1, bias=False), IAFCell(), IAFCell()), 1, 2, 2)
    assert isinstance(images.output.connections[0].synapse, Conv)


def test_recurrence_and_delays_by_hand() -> None:
    class Back(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.rec, self.late, self.lif, self.out = (
                nn.Linear(6, 5, bias=False), nn.Linear(5, 5, bias=False), nn.Linear(5, 3, bias=False), LIFCell(), LICell()
            )  # fmt: skip

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            if state is None:
                state = (torch.zeros(len(x), 5, dtype=x.dtype), None, None)
            before, s, t = state
            z, s = self.lif(self.fc(x) + self.rec(before), s)
            v, t = self.out(self.late(before), t)
            return v, (z, s, t)

    network = assert_read(Back(), 6)
    assert hears(network) == {"fc": [INPUT, "fc"], "out": ["fc"]}
    assert [c.delay_steps for layer in network for c in layer.connections] == [0, 0, 1]


def test_an_input_heard_a_step_later() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.now, self.late, self.lif = nn.Linear(6, 4, bias=False), nn.Linear(6, 4, bias=False), LIFCell()

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            before, s = (torch.zeros_like(x), None) if state is None else state
            z, s = self.lif(self.now(x) + self.late(before), s)
            return z, (x, s)

    network = assert_read(Late(), 6)
    assert [(c.source, c.delay_steps) for c in network["now"].connections] == [(INPUT, 0), (INPUT, 1)]
