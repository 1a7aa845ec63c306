"""Readouts that a model computes itself: weights and averages behind the last neurons, membranes that leak and never fire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFBoxCell
from own_neurons import BATCH, N_IN, N_STEPS, ByMultiplying, drawn_input, layers

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.network import LI, Network
from neurodeploy.simulation.layer_schedule import run_reference

N_HIDDEN, N_OUT = 6, 3
Update = Callable[["Readout", torch.Tensor, Any], tuple[torch.Tensor, Any]]


def leaky(_net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    v = 0.9 * v + x
    return v, v


def towards_input(_net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    v = v + (x - v) / 4.0
    return v, v


def per_neuron(net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    v = net.beta.clamp(0, 1) * v + x
    return v, v


def summed(_net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    v = v + x
    return v, v


def forgetting(_net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    return x, v


def with_current(_net: Readout, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    i, v = state if isinstance(state, tuple) else (state, state)
    i = 0.5 * i + x
    v = 0.8 * v + i
    return v, (i, v)


def compared(_net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    """As snnTorch's Leaky with reset_mechanism="none": it fires, and nobody receives that."""
    _reset = (v > 1.0) if isinstance(v, torch.Tensor) else v
    v = 0.9 * v + x
    _spike = (v > 1.0).float()
    return v, v


class Readout(torch.nn.Module):
    """Neurons, weights, and an update of a membrane that is returned."""

    def __init__(self, update: Update, bias: bool = True) -> None:
        super().__init__()
        self.first, self.neurons, self.update = layers(N_IN, N_HIDDEN), ByMultiplying(), update
        self.last = layers(N_HIDDEN, N_OUT, bias=bias)
        self.beta = torch.nn.Parameter(torch.linspace(0.3, 0.9, N_OUT))

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        spikes_state, v = state or (None, torch.zeros(len(x), N_OUT, dtype=x.dtype))
        spikes, spikes_state = self.neurons(self.first(x), spikes_state)
        out, v = self.update(self, self.last(spikes), v)
        return out, (spikes_state, v)


class InALoop(Readout):
    """The same with time inside forward; `over_time` is the host's."""

    over_time: Callable[[list[torch.Tensor]], torch.Tensor] = staticmethod(torch.stack)  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        state, outputs = None, []
        for step in x:
            out, state = super().forward(step, state)
            outputs.append(out)
        return self.over_time(outputs)


def membranes(network: Network) -> np.ndarray:
    """Membranes of the readout for the drawn input, (n_steps, batch, n)."""
    inputs = drawn_input().movedim(0, -1).numpy().astype(np.uint8)
    record = run_reference(network, inputs)
    return np.moveaxis(np.asarray(record.v[network.output.name]), -1, 0).reshape(N_STEPS, BATCH, -1)


def module_outputs(model: torch.nn.Module) -> np.ndarray:
    state, outputs = None, []
    with torch.no_grad():
        for x in drawn_input().to(next(model.parameters()).dtype):
            out, state = model(x, state)
            outputs.append(out.reshape(len(x), -1))
    return torch.stack(outputs).numpy()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("update", [leaky, towards_input, per_neuron, summed, forgetting, with_current, compared])
def test_a_membrane_that_is_read_comes_in_as_a_readout(update: Update, bias: bool) -> None:
    model = Readout(update, bias=bias).double()
    network = extract(model, torch.zeros(1, N_IN))
    assert isinstance(network.output.neuron, LI)
    assert network.output.name == "last"
    np.testing.assert_allclose(membranes(network), module_outputs(model), atol=1e-5)


HOSTS: dict[str, Callable[[list[torch.Tensor]], torch.Tensor]] = {
    "all steps": torch.stack,
    "batch first": lambda outputs: torch.stack(outputs, 1),
    "largest": lambda outputs: torch.stack(outputs).amax(0).softmax(-1),
    "mean": lambda outputs: torch.stack(outputs).mean(0),
    "last": lambda outputs: outputs[-1],
    "each through a softmax": lambda outputs: sum(out.softmax(-1) for out in outputs),  # type: ignore[return-value,misc]
}


@pytest.mark.parametrize("update", [leaky, forgetting])
@pytest.mark.parametrize("host", HOSTS)
def test_what_the_host_does_with_the_membranes_does_not_matter(host: str, update: Update) -> None:
    model = InALoop(update).double()
    model.over_time = HOSTS[host]  # type: ignore[assignment]
    network = extract(model, torch.zeros(6, 1, N_IN))
    by_step = Readout(update).double()
    by_step.load_state_dict(model.state_dict())
    np.testing.assert_allclose(membranes(network), module_outputs(by_step), atol=1e-5)


def test_a_sum_over_time_is_a_readout_without_leak() -> None:
    model = InALoop(forgetting, bias=False).double()
    model.over_time = sum  # type: ignore[assignment]
    network = extract(model, torch.zeros(6, 1, N_IN))
    assert float(network.output.neuron.voltage_decay) == 0.0
    by_step = Readout(forgetting, bias=False).double()
    by_step.load_state_dict(model.state_dict())
    np.testing.assert_allclose(membranes(network), module_outputs(by_step).cumsum(0), atol=1e-6)


VOTES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pooled": lambda y: torch.nn.functional.avg_pool1d(y.unsqueeze(1), 3).squeeze(1),
    "means": lambda y: y.view(len(y), 2, 3).mean(-1),
    "sums": lambda y: y.view(len(y), 2, 3).sum(-1),
    "weights": lambda y: y @ torch.arange(12.0, dtype=y.dtype).view(6, 2),
}


class Votes(torch.nn.Module):
    """What SpikingJelly's VotingLayer and its kin make of the last neurons, step by step."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.fc, self.cell, self.how = layers(N_IN, 6), LIFBoxCell(), how

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        spikes, state = self.cell(5 * self.fc(x), state)
        return VOTES[self.how](spikes), state


@pytest.mark.parametrize("how", VOTES)
def test_votes_are_membranes_that_forget_at_once(how: str) -> None:
    model = Votes(how).double()
    network = extract(model, torch.zeros(1, N_IN))
    assert (network.output.n_neurons, float(network.output.neuron.voltage_decay)) == (2, 1.0)
    expected = module_outputs(model)
    assert expected.any()
    np.testing.assert_allclose(membranes(network), expected, atol=1e-6)


def growing(_net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    v = 1.5 * v + x
    return v, v


def from_elsewhere(_net: Readout, x: torch.Tensor, v: Any) -> tuple[torch.Tensor, Any]:
    v = 0.5 * v + x
    return v + 0.3 * (v - x), v


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (growing, r"^last \(Linear\): .*voltage_decay .* is outside"),
        (from_elsewhere, r"^last \(Linear\): keeps sums of spikes otherwise than a leaky integrator.*v = share \* v"),
    ],
)
def test_other_sums_are_refused(update: Update, reason: str) -> None:
    with pytest.raises(ExtractError, match=reason):
        extract(Readout(update), torch.zeros(1, N_IN))


def test_two_readouts_are_refused() -> None:
    class Two(Readout):
        def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            spikes, state = self.neurons(self.first(x), state)
            return (self.last(spikes).softmax(-1) + spikes[:, :3] @ torch.ones(3, 3)).relu(), state

    with pytest.raises(ExtractError, match=r"is read beside another sum of spikes.*Concatenate"):
        extract(Two(forgetting), torch.zeros(1, N_IN))


def test_weights_behind_membranes_are_refused() -> None:
    class Behind(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.cell, self.last = layers(N_IN, 4), LICell(), layers(4, 2)

        def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            v, state = self.cell(self.first(x), state)
            return self.last(v), state

    with pytest.raises(ExtractError, match=r"^last \(Linear\): weights membranes that never fire.*in front of the readout"):
        extract(Behind(), torch.zeros(1, N_IN))
