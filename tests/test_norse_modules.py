"""Modules with a forward of their own come in as they run: states and steps of time, each way that people write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import (
    IAF,
    LI,
    LIF,
    IAFCell,
    LIBoxCell,
    LICell,
    LIFBoxCell,
    LIFCell,
    LIFRecurrent,
    LIFRecurrentCell,
    Lift,
    LILinearCell,
    SequentialState,
)
from norse_runs import assert_read, drive, given, hears
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.graph import INPUT
from neurodeploy.simulation.layer_schedule import run_reference

# ---------------------------------------------------------------------------------------------- states by hand


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif, self.fc2, self.out = nn.Linear(6, 5, bias=False), LIFCell(), nn.Linear(5, 3, bias=False), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        s1, s2 = (None, None) if state is None else state
        z, s1 = self.lif(self.fc1(x), s1)
        v, s2 = self.out(self.fc2(z), s2)
        return v, (s1, s2)


def test_states_passed_by_hand() -> None:
    assert hears(assert_read(ByHand(), 6)) == {"fc1": [INPUT], "fc2": ["fc1"]}


class StateEach(ByHand):
    def forward(self, x: torch.Tensor, s1: Any = None, s2: Any = None) -> Any:
        z, s1 = self.lif(self.fc1(x), s1)
        v, s2 = self.out(self.fc2(z), s2)
        return v, s1, s2


def test_a_state_an_argument() -> None:
    assert_read(StateEach(), 6)


class Keeps(ByHand):
    """Keeps its states itself, as users of other libraries write it."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Any] = [None, None]

    def forward(self, x: torch.Tensor) -> Any:
        z, self.states[0] = self.lif(self.fc1(x), self.states[0])
        v, self.states[1] = self.out(self.fc2(z), self.states[1])
        return F.log_softmax(v, dim=1)


def test_states_that_a_model_keeps_are_there_before_and_after() -> None:
    model = drive(Keeps().train())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forwards = [module.forward for module in model.modules()]
    assert hears(extract(model, torch.zeros(1, 6))) == {"fc1": [INPUT], "fc2": ["fc1"]}
    assert model.states == [None, None]
    assert all(module.training for module in model.modules())
    assert [module.forward for module in model.modules()] == forwards
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.states[0] = "a state that no cell takes"
    with pytest.raises(Exception, match="lif"):
        extract(model, torch.zeros(1, 6))
    assert all(module.training for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_nested_states() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = SequentialState(nn.Linear(6, 5), LIFBoxCell())
            self.second = SequentialState(SequentialState(nn.Linear(5, 4), LIFCell()), nn.Linear(4, 3), LIBoxCell())

        def forward(self, x: torch.Tensor, states: Any = (None, None)) -> Any:
            z, a = self.first(x, states[0])
            v, b = self.second(z, states[1])
            return v, (a, b)

    assert hears(assert_read(Blocks(), 6)) == {
        "bias": [INPUT], "first.0": [INPUT], "second.0.0": ["first.0", "bias"], "second.1": ["second.0.0"]
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- loops over time


class Looped(nn.Module):
    """Loops over the side of its input that `axis` says, and returns what it saw by the way that `gathers` says."""

    def __init__(self, axis: int, gathers: str) -> None:
        super().__init__()
        self.axis, self.gathers = axis, gathers
        self.fc1, self.lif, self.fc2, self.out = nn.Linear(6, 5, bias=False), LIFCell(), nn.Linear(5, 3, bias=False), LICell()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s1 = s2 = None
        said = []
        voltages = torch.zeros(x.shape[self.axis], 2, 3, dtype=torch.float64)
        for t in range(x.shape[self.axis]):
            z, s1 = self.lif(self.fc1(x.select(self.axis, t)), s1)
            v, s2 = self.out(self.fc2(z), s2)
            said.append(v)
            voltages[t] = v
        return {
            "stack": lambda: torch.stack(said), "max": lambda: torch.stack(said).max(0)[0], "last": lambda: v,
            "softmax": lambda: F.log_softmax(torch.max(torch.stack(said), 0)[0], dim=1), "written": lambda: voltages,
        }[self.gathers]()  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("gathers", ["stack", "max", "last", "softmax", "written"])
def test_a_loop_over_time(axis: int, gathers: str) -> None:
    model = drive(Looped(axis, gathers))
    network = extract(model, torch.movedim(given(6)[:5], 0, axis))
    assert (network.input_shape, hears(network)) == ((6,), {"fc1": [INPUT], "fc2": ["fc1"]})
    if gathers == "stack":
        spikes = given(6)
        with torch.no_grad():
            theirs = model(torch.movedim(spikes, 0, axis)).permute(1, 2, 0).numpy()
        ours = run_reference(network, np.moveaxis(spikes.numpy(), 0, -1).astype(np.uint8)).v["fc2"]
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("how", ["iteration", "unbind", "index", "permuted"])
def test_ways_to_take_a_step(how: str) -> None:
    class Steps(ByHand):
        def forward(self, x: torch.Tensor) -> Any:
            steps = {
                "iteration": lambda: list(x), "unbind": lambda: x.unbind(0), "index": lambda: [x[t] for t in range(len(x))],
                "permuted": lambda: [x.permute(1, 2, 0)[..., t] for t in range(len(x))],
            }[how]()  # fmt: skip
            state = None
            for step in steps:
                v, state = super().forward(step, state)
            return v

    assert hears(extract(drive(Steps()), given(6)[:4])) == {"fc1": [INPUT], "fc2": ["fc1"]}


def test_an_input_that_stays_for_all_steps() -> None:
    class Stays(ByHand):
        def forward(self, x: torch.Tensor) -> Any:
            state, x = None, F.max_pool1d(x.unsqueeze(1), 2).flatten(1)
            for _ in range(5):
                v, state = super().forward(x, state)
            return v

    model = drive(Stays())
    network = extract(model, torch.zeros(2, 12))
    x = given(12)[0]
    with torch.no_grad():
        expected = model(x)
    spikes = np.repeat(x.numpy().astype(np.uint8)[..., None], 5, axis=-1)
    np.testing.assert_allclose(run_reference(network, spikes).v["fc2"][..., -1], expected, atol=1e-5)


@pytest.mark.parametrize("cells", [(LIF, LI), (LIFCell, LICell)], ids=["sequences", "lifted cells"])
def test_all_steps_at_once(cells: Any) -> None:
    def neurons(kind: Any) -> nn.Module:
        return kind() if kind in (LIF, LI) else Lift(kind())

    model = drive(SequentialState(
        Lift(nn.Conv2d(2, 3, 3, padding=1, bias=False)), neurons(cells[0]), Lift(nn.AvgPool2d(2)), nn.Flatten(2),
        nn.Linear(12, 4, bias=False), neurons(cells[1]),
    ))  # fmt: skip
    spikes = given(2, 4, 4)
    network = extract(model, spikes[:3])
    with torch.no_grad():
        said = model(spikes)[0]  # a lifted cell's state comes along
        theirs = np.moveaxis((said[0] if isinstance(said, tuple) else said).numpy(), 0, -1)
    ours = run_reference(network, np.moveaxis(spikes.numpy(), 0, -1).astype(np.uint8)).v[network.output.name]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(theirs) > 0


def test_recurrent_cells_and_sequences_are_alike() -> None:
    torch.manual_seed(0)
    inner = LIFRecurrent(6, 5)
    cell = LIFRecurrentCell(6, 5, input_weights=inner.input_weights, recurrent_weights=inner.recurrent_weights)
    at_once, by_step = (
        SequentialState(inner, IAF(), nn.Linear(5, 2), LI()),
        SequentialState(cell, IAFCell(), nn.Linear(5, 2), LICell()),
    )
    by_step[2].load_state_dict(at_once[2].state_dict())
    assert extract(at_once, torch.zeros(3, 1, 6)).layers == extract(by_step, torch.zeros(1, 6)).layers
    assert_read(by_step, 6)


def test_a_readout_with_weights() -> None:
    assert hears(assert_read(SequentialState(nn.Linear(6, 5), LIFBoxCell(), LILinearCell(5, 3)), 6)) == {
        "layer0": [INPUT], "layer2": ["layer0"]
    }  # fmt: skip


def test_a_channel_of_one_step_is_no_step() -> None:
    class Channels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.cell = nn.Linear(4, 3), nn.Linear(4, 3, bias=False), LIFBoxCell()

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            return self.cell(self.left(x[:, 0]) - self.right(x[:, 1]), state)

    assert hears(assert_read(Channels(), 2, 4)) == {"left": [INPUT, INPUT]}
